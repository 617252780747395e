"""Small flows of every kind, for the runtime's own simulation: what works for them under every crash works for users."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from types import MappingProxyType

import msgspec

from obzen_runtime.flow import Flow
from obzen_runtime.kernel import IdempotencyKey, Permanent
from obzen_runtime.stages import Bad, at_end, dead_letters, each, fold, join, sink, source, stage, stateful, top, transform
from obzen_runtime.testing.world import world

__all__ = ["FLOWS"]

_MANY = 60


class Order(msgspec.Struct, frozen=True):
    """An order."""

    number: int
    customer: int
    cents: int


class Customer(msgspec.Struct, frozen=True):
    """A customer."""

    number: int
    name: str


class Billed(msgspec.Struct, frozen=True):
    """An order with its customer's name."""

    number: int
    name: str
    cents: int


class Total(msgspec.Struct, frozen=True):
    """What a customer spent."""

    customer: int
    cents: int


@source
def numbers() -> Iterator[int]:
    """Whole numbers from 0."""
    yield from range(_MANY)


@source
def others() -> Iterator[int]:
    """Whole numbers from 1000."""
    yield from range(1000, 1000 + _MANY)


@source
async def waiting() -> AsyncIterator[int]:
    """Whole numbers from an async generator."""
    for number in range(_MANY):
        yield number


@source
def rows() -> Iterator[int]:
    """Numbers, every seventh of which cannot be read."""
    for number in range(_MANY):
        yield Bad(b"%d?" % number, "no number", f"rows:{number}") if number % 7 == 6 else number  # type: ignore[misc]


@source
def orders() -> Iterator[Order]:
    """Orders of ten customers."""
    for number in range(_MANY):
        yield Order(number, number * 7 % 10, 100 + number)


@source
def customers() -> Iterator[Customer]:
    """Eight of the ten customers."""
    for number in range(8):
        yield Customer(number, f"customer {number}")


@source
def mixed() -> Iterator[int | str]:
    """Numbers and texts in turn."""
    for number in range(_MANY):
        yield number if number % 2 else f"text {number}"


@transform
def double(number: int) -> int:
    """Twice the number."""
    return 2 * number


@transform
def odd(number: int) -> int | None:
    """Drops even numbers."""
    return number if number % 2 else None


@transform
def several(number: int) -> Iterator[int]:
    """Up to three outputs of each."""
    for part in range(number % 4):
        yield 10 * number + part


@transform(concurrency=4)
async def concurrent(number: int) -> int:
    """Four at once, in order."""
    return number + 1


@transform(batch=8)
def batched(many: list[int]) -> list[int]:
    """Eight at once."""
    return [number + 1 for number in many]


@transform
def picky(number: int) -> int:
    """Fails for good at every fifth."""
    if number % 5 == 4:
        raise Permanent(f"{number} is refused")
    return number


@fold(0, emit=each())
def running(total: int, number: int) -> int:
    """The sum so far, after each."""
    return total + number


@fold(0, emit=at_end())
def total(sum_: int, number: int) -> int:
    """The sum of all."""
    return sum_ + number


@stateful(key=lambda order: order.customer, emit=at_end())
class PerCustomer:
    """What each customer spent."""

    cents: int = 0

    def fold(self, order: Order) -> None:
        """Add an order."""
        self.cents += order.cents

    def emit(self, customer: int) -> Total:
        """The sum of one customer."""
        return Total(customer, self.cents)


@join(how="left", stream_key=lambda order: order.customer, reference_key=lambda customer: customer.number)
def billed(order: Order, customer: Customer | None) -> Billed:
    """An order with a name, where there is one."""
    return Billed(order.number, customer.name if customer is not None else "nobody", order.cents)


@join(how="left", stream_key=lambda order: order.customer, reference_key=lambda total: total.customer)
def compared(order: Order, spent: Total | None) -> Total:
    """What a customer spent apart from an order."""
    return Total(order.number, (spent.cents if spent is not None else 0) - order.cents)


@sink
def show(event: object) -> None:
    """Delivers again what has no receipt."""


@sink
def show_int(event: int) -> None:
    """Takes numbers only."""


@sink
def show_text(event: str) -> None:
    """Takes texts only."""


@sink(delivery="keyed")
def upsert(event: int, *, key: IdempotencyKey) -> None:
    """Delivers under a key."""
    str(key)


@sink(delivery="keyed", batch=16)
def upsert_many(events: list[int], *, keys: Sequence[IdempotencyKey]) -> None:
    """Delivers lists under their keys."""
    list(keys)


@sink(delivery="sensitive")
def pay(event: int) -> None:
    """Delivers once, or leaves it in doubt."""


@sink(delivery="transactional")
class Book:
    """Delivers once."""

    def write(self, event: int) -> None:
        """Take an event."""

    def commit(self, position: bytes) -> None:
        """Store what was written, and the position."""

    def stored(self, run: str, stage: str) -> bytes | None:
        """The position stored last."""
        return None


def _put(event: int, *, key: IdempotencyKey) -> None:
    world().put("table", key, event)


@sink(delivery="keyed", simulate=_put)
def own(event: int, *, key: IdempotencyKey) -> None:
    """A keyed sink with a stand-in of its own."""


def _append(event: int) -> None:
    world().append("log", event)


@sink(simulate=_append)
def noted(event: int) -> None:
    """A safe sink with a stand-in of its own."""


FLOWS: Mapping[str, Flow] = MappingProxyType(
    {
        flow.name: flow
        for flow in (
            Flow("transform", numbers >> odd >> double >> show_int),
            Flow("generator", numbers >> several >> show_int),
            Flow("async_source", waiting >> double >> show_int),
            Flow("concurrent", [numbers, waiting] >> concurrent >> upsert),
            Flow("batch", [numbers, waiting] >> batched >> upsert_many),
            Flow("keyed", numbers >> double >> upsert),
            Flow("stand_in", numbers >> double >> own),
            Flow("stand_in_safe", waiting >> double >> noted),
            Flow("sensitive", numbers >> double >> pay),
            Flow("transactional", numbers >> double >> Book),
            Flow("fold_each", numbers >> running >> show_int),
            Flow("fold_at_end", numbers >> total >> show_int),
            Flow("per_key", orders >> PerCustomer >> show),
            Flow("top", orders >> top(5, by=lambda order: order.cents % 37) >> show),
            Flow("join", customers >> billed.reference, orders >> billed.stream, billed >> show),
            Flow("diamond", orders >> [stage(PerCustomer) >> compared.reference, compared.stream], compared >> show),
            Flow("fan_in", [numbers, others] >> double >> show_int),
            Flow("fan_out", numbers >> [double >> show_int, odd >> upsert]),
            Flow("routing", mixed >> [show_int, show_text]),
            Flow("dead_letters", numbers >> picky >> show_int, dead_letters >> show),
            Flow("bad_rows", rows >> double >> show_int),
        )
    }
)
"""By name."""
