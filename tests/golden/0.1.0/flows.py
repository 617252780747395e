"""Small flows whose runs are kept for ever: each shows something that a journal may hold.

A version's golden runs stand beside a copy of this file as it was when they were made; that copy is never edited.
`HOLD` makes a handler wait at an event, so that a run can be stopped, copied or cancelled exactly there.
"""

import asyncio
import dataclasses
import datetime
import decimal
import enum
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NewType

import msgspec

import obzen_runtime as oz
from obzen_runtime.connect import csv_sink, csv_source, json_sink, json_source, jsonl_sink, jsonl_source, sqlite_sink

HOLD: dict[str, Any] = {}
"""`at`: the event that is held; `reached` and `go`: an asyncio.Event that is set when it is in work, and one it waits for."""
BROKEN: list[int] = []
"""As long as something is in it, some handlers fail and take one out."""


async def hold(event: Any) -> None:
    """Wait at the event that is held."""
    if HOLD and HOLD["at"] == event:
        HOLD["reached"].set()
        await HOLD["go"].wait()


# -- common stages --------------------------------------------------------------------------------


@oz.source
def numbers(count: int = 40) -> Iterator[int]:
    yield from range(count)


@oz.source
def more() -> Iterator[int]:
    yield from range(100, 110)


@oz.transform
async def held(number: int) -> int:
    await hold(number)
    return number


@oz.transform
def half(number: int) -> int | None:
    return None if number % 2 else number // 2


@oz.transform
def several(number: int) -> Iterator[int]:
    yield from range(number % 4)


@oz.transform(batch=8, within=0.01)
def batched(many: list[int]) -> list[int]:
    return [each + 1 for each in many]


@oz.sink
def show(event: object) -> None: ...


plain = oz.Flow("plain", numbers >> half >> several >> batched >> show)


# -- sources ----------------------------------------------------------------------------------------


@oz.source
def seekable(start: oz.Offset | None = None) -> Iterator[oz.At[int, int]]:
    for number in range(0 if start is None else start + 1, 40):
        yield oz.At(number, number)


offsets = oz.Flow("offsets", seekable >> held >> show)


class Row(msgspec.Struct, frozen=True):
    name: str
    count: int
    price: float | None = None


bad_rows = oz.Flow("bad_rows", csv_source("rows", Row, path="data/rows.csv") >> jsonl_sink("lines", Row, path="data/out.jsonl"))
json_files = oz.Flow(
    "json_files",
    (elements := json_source("elements", Row, path="data/rows.json")) >> csv_sink("table", Row, path="data/out.csv"),
    elements >> json_sink("array", Row, path="data/out.json"),
)
json_lines = oz.Flow(
    "json_lines", jsonl_source("lines", Row, path="data/rows.jsonl") >> sqlite_sink("stored", Row, path="data/out.db", table="rows")
)


# -- concurrency ------------------------------------------------------------------------------------


@oz.transform(concurrency=3)
async def lane(number: int) -> int:
    await asyncio.sleep(0)
    return number * 2


@oz.transform(executor=oz.threads(2))
def thread(number: int) -> int:
    return number * 3


lanes = oz.Flow("lanes", numbers >> lane >> thread >> show)


# -- state ------------------------------------------------------------------------------------------


@oz.fold(0, emit=oz.each())
def running(total: int, number: int) -> int:
    return total + number


@oz.fold(0, emit=oz.every(7))
def sevens(total: int, number: int) -> int:
    return total + number


@oz.fold((0, 0), emit=oz.at_end())
def both(state: tuple[int, int], number: int) -> tuple[int, int]:
    return state[0] + 1, state[1] + number


class Count(msgspec.Struct, frozen=True):
    key: int
    count: int
    total: int


@oz.stateful(key=lambda number: number % 5, emit=oz.at_end())
class ByFive:
    count: int = 0
    total: int = 0

    def fold(self, number: int) -> None:
        self.count += 1
        self.total += number

    def emit(self, key: int) -> Count:
        return Count(key, self.count, self.total)


@oz.stateful(key=lambda number: number % 3, emit=oz.each())
class ByThree:
    last: int = 0

    def fold(self, number: int) -> None:
        self.last = number

    def emit(self, key: int) -> int | None:
        return self.last if self.last % 2 else None


fold_each = oz.Flow("fold_each", numbers >> running >> show)
fold_every = oz.Flow("fold_every", numbers >> sevens >> show)
fold_at_end = oz.Flow("fold_at_end", numbers >> both >> show)
keyed = oz.Flow("keyed", numbers >> oz.stage(ByFive) >> show)
keyed_each = oz.Flow("keyed_each", numbers >> oz.stage(ByThree) >> show)
top = oz.Flow("top", numbers >> oz.top(3, by=lambda number: number % 7) >> show)
stateful_held = oz.Flow(
    "stateful_held", numbers >> held >> both >> show, held >> oz.stage(ByFive) >> show, held >> oz.top(3, by=lambda number: -number) >> show
)


@oz.source
async def slowly() -> AsyncIterator[int]:
    for number in range(40):
        await hold(number)
        yield number


slow_state = oz.Flow(
    "slow_state", slowly >> both >> show, slowly >> oz.stage(ByFive) >> show, slowly >> oz.top(3, by=lambda number: -number) >> show
)


# -- shapes -----------------------------------------------------------------------------------------


class Sale(msgspec.Struct, frozen=True):
    sku: int
    quantity: int


class Product(msgspec.Struct, frozen=True):
    sku: int
    cents: int


class Priced(msgspec.Struct, frozen=True):
    sku: int
    cents: int | None


@oz.source
def sales() -> Iterator[Sale]:
    yield from (Sale(number % 8, number) for number in range(30))


@oz.source
def products() -> Iterator[Product]:
    yield from (Product(number, 100 * number) for number in range(6))


@oz.join(how="inner", stream_key=lambda sale: sale.sku, reference_key=lambda product: product.sku)
async def priced(sale: Sale, product: Product) -> Priced:
    await hold(sale.quantity)
    return Priced(sale.sku, sale.quantity * product.cents)


@oz.join(how="left", stream_key=lambda sale: sale.sku, reference_key=lambda product: product.sku)
def perhaps(sale: Sale, product: Product | None) -> Priced:
    return Priced(sale.sku, product.cents if product is not None else None)


join_inner = oz.Flow("join_inner", products >> priced.reference, sales >> priced.stream, priced >> show)
join_left = oz.Flow("join_left", products >> perhaps.reference, sales >> perhaps.stream, perhaps >> show)
fan_in = oz.Flow("fan_in", numbers >> running >> show, more >> running)


@oz.transform
def mixed(number: int) -> int | str | Sale:
    return number if number % 3 == 0 else str(number) if number % 3 == 1 else Sale(number, 1)


@oz.sink
def texts(event: str) -> None: ...


@oz.transform
def of_ints(event: int) -> int:
    return event


routed = oz.Flow("routed", numbers >> mixed >> texts, mixed >> of_ints >> show, oz.ignored(Sale))


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


class Level(enum.Enum):
    LOW = 1
    HIGH = 2


@dataclasses.dataclass(frozen=True)
class Point:
    x: float
    y: float


Cents = NewType("Cents", int)


class Rich(msgspec.Struct, frozen=True):
    at: datetime.datetime
    day: datetime.date
    span: datetime.timedelta
    price: decimal.Decimal
    id: uuid.UUID
    mood: Mood
    level: Level
    point: Point
    raw: bytes
    tags: tuple[str, ...]
    cents: Cents
    floats: tuple[float, ...]
    nothing: None = None


@oz.source
def rich() -> Iterator[Rich]:
    for number in range(5):
        yield Rich(
            at=datetime.datetime(2024, 2, 29, 12, number, 1, 999, tzinfo=datetime.UTC),
            day=datetime.date(1970, 1, 1 + number),
            span=datetime.timedelta(days=-1, microseconds=number),
            price=decimal.Decimal("1.00") * number,
            id=uuid.UUID(int=number),
            mood=Mood.GOOD if number % 2 else Mood.BAD,
            level=Level.LOW if number % 2 else Level.HIGH,
            point=Point(0.1 * number, -0.0),
            raw=bytes(range(number)),
            tags=("ä", "\u2028", "")[:number],
            cents=Cents(2**63 - 1 - number),
            floats=(float("inf"), 5e-324, 1e308),
        )


@oz.transform
def sized(event: Rich) -> oz.Copied[dict[str, int]]:
    return {event.id.hex: len(event.raw)}


payloads = oz.Flow("payloads", rich >> sized >> show)


@oz.transform
def told(number: int, context: oz.Context) -> str:
    return f"{context.event.id} {context.now():%Y} {context.random.random()} {context.uuid()}"


context = oz.Flow("context", numbers >> told >> show)


@oz.transform
async def long(number: int) -> AsyncIterator[int]:
    for each in range(9000 if number == 1 else 2):
        await hold((number, each))
        yield each


within = oz.Flow("within", numbers(count=3) >> long >> running >> show)


# -- failures ---------------------------------------------------------------------------------------


@oz.transform
def picky(number: int) -> int:
    if number % 9 == 4:
        raise oz.Permanent(f"{number} is not liked")
    return number


@oz.transform(on_error="skip")
def skipping(number: int) -> int:
    if number % 10 == 5:
        raise ValueError("skipped")
    return number


@oz.transform(retry=oz.Retry(attempts=3, base=0.001))
def unsteady(number: int) -> int:
    if number == 6 and BROKEN:
        BROKEN.pop()
        raise oz.Transient("again")
    return number


@oz.sink
def alert(letter: oz.DeadLetter) -> None: ...


letters = oz.Flow("letters", numbers >> picky >> skipping >> unsteady >> show, oz.dead_letters >> alert)


@oz.transform(on_error="fail")
def strict(number: int) -> int:
    if HOLD and number == HOLD["at"]:
        raise ValueError("no further")
    return number


failed = oz.Flow("failed", numbers >> strict >> show)


@oz.transform
def crashing(number: int) -> int:
    if number == 11 and BROKEN:
        BROKEN.pop()
        raise KeyboardInterrupt
    return number


restarts = oz.Flow("restarts", numbers >> crashing >> running >> show)
aborted = oz.Flow("aborted", numbers >> crashing >> show, restart=oz.Restart(max=0))


@oz.sink
async def slow(number: int) -> None:
    if number == 3 and HOLD:
        await HOLD["stalled"].wait()


stalled = oz.Flow("stalled", numbers(count=200) >> slow, window=oz.Window(events=16), stall_after=0.01)


# -- sinks ------------------------------------------------------------------------------------------


@oz.sink(delivery="sensitive")
async def pay(number: int) -> None:
    await hold(number)


@oz.sink(delivery="keyed")
def upsert(number: int, *, key: oz.IdempotencyKey) -> None: ...


@oz.sink(delivery="keyed", batch=8)
def upsert_many(many: list[int], *, keys: list[oz.IdempotencyKey]) -> None: ...


sensitive = oz.Flow("sensitive", numbers >> pay)
keyed_sink = oz.Flow("keyed_sink", numbers >> upsert, numbers >> upsert_many)


# -- schemas ----------------------------------------------------------------------------------------


def versioned(first: bool) -> oz.Flow:
    """The flow of the first version of a class, or of the second."""

    def brought_up(old: Any, version: int) -> Any:
        if old["number"] in (25, 26):
            raise ValueError("cannot be brought up")
        return {"number": old["number"], "euros": old["cents"] / 100}

    one = msgspec.defstruct("Order", [("number", int), ("cents", int)], frozen=True)
    two = oz.schema(version=2, upcast=brought_up)(msgspec.defstruct("Order", [("number", int), ("euros", float)], frozen=True))
    kind: Any = one if first else two
    make: Callable[[int], Any] = (lambda number: one(number, 100 * number)) if first else (lambda number: two(number, float(number)))

    @oz.source
    def orders() -> Iterator[kind]:
        for number in range(40):
            yield make(number)

    @oz.transform
    async def number_of(order: kind) -> int:
        await hold(order.number)
        return order.number

    return oz.Flow("versioned", orders >> number_of >> show)


first_schema = versioned(first=True)
second_schema = versioned(first=False)


def write_inputs(data: Path) -> None:
    """The files that sources read."""
    data.mkdir()
    rows = [Row(f"n{number}", number, number / 4 if number % 3 else None) for number in range(20)]
    text = "name,count,price\n" + "".join(f"{row.name},{row.count},{'' if row.price is None else row.price}\n" for row in rows)
    text = text.replace("n5,5,1.25", "n5,five,1.25").replace("n9,9,", "n9")
    (data / "rows.csv").write_text(text, encoding="utf-8")
    (data / "rows.json").write_bytes(msgspec.json.encode(rows))
    (data / "rows.jsonl").write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows) + b"not a row\n")
