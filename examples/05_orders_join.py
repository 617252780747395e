"""A reference join, and the flow embedded in someone's own async program."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import msgspec

import obzen_runtime as oz


class Order(msgspec.Struct, frozen=True):
    sku: str
    quantity: int
    at: float  # seconds since the epoch


class Product(msgspec.Struct, frozen=True):
    sku: str
    price_cents: int


class Priced(msgspec.Struct, frozen=True):
    sku: str
    cents: int
    at: float


@oz.source
def products() -> Iterator[Product]:
    yield from (Product(f"sku-{n}", 100 + n) for n in range(100))


@oz.source
async def orders(count: int = 10_000) -> AsyncIterator[Order]:
    for n in range(count):
        yield Order(f"sku-{n % 120}", 1 + n % 3, at=n * 0.01)


@oz.join(how="inner", stream_key=lambda order: order.sku, reference_key=lambda product: product.sku)
def price(order: Order, product: Product) -> Priced:
    return Priced(order.sku, order.quantity * product.price_cents, order.at)


async def main() -> None:
    seen: list[Priced] = []

    @oz.sink
    def collect(priced: Priced) -> None:
        seen.append(priced)

    flow = oz.Flow(
        "revenue",
        products >> price.reference,
        orders >> price.stream,
        price >> collect,
    )
    async with oz.start(flow, journal=oz.MemoryJournal()) as handle:
        report = await handle.wait()
    print(report.state, report.stages["price"].dropped, len(seen), sum(priced.cents for priced in seen))


if __name__ == "__main__":
    asyncio.run(main())

# expect: drained 1660 8340 2480108
