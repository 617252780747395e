"""Code that changed is found at its first differing event, and what is behind it is judged by itself."""

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import pytest

import obzen_runtime as oz
from obzen_runtime.events import ActorCompleted, Block, End, Receipt
from obzen_runtime.flow import replay
from tests.flow.kit import Seen, ints
from tests.flow.replaying import diverged, plain, recorded, same


class Pair(msgspec.Struct, frozen=True):
    left: int
    right: str


@dataclass(frozen=True)
class Change:
    """A stage as it was, as it is now, and the event at which the two part."""

    before: object
    after: object
    event: str
    what: str
    recorded: str
    replayed: str
    made_of: str


def batches(body):
    @oz.transform(batch=4)
    def t(numbers: list[int]) -> list[int]:
        return body(numbers)

    return t


def many(body, name="t"):
    def t(number: int) -> Iterator[int]:
        yield from body(number)

    return oz.transform(t).named(name)


def raising(error, at=17):
    def body(number):
        if number == at:
            raise error
        return number

    return body


def folded(body, emit=None, name="t"):
    def t(total: int, number: int) -> int:
        return body(total, number)

    return oz.fold(0, emit=emit or oz.each())(t).named(name)


def keyed(modulus, start=0):
    @oz.stateful(key=lambda number: number % modulus, emit=oz.at_end())
    class T:
        total: int = start

        def fold(self, number: int) -> None:
            self.total += number

        def emit(self, key: int) -> int:
            return self.total

    return oz.stage(T).named("t")


CHANGES = {
    "another constant": Change(plain(lambda n: n + (n == 30)), plain(lambda n: n + 2 * (n == 30)), "t@30", "value", "31", "32", "s@30 30"),
    "an event dropped": Change(
        plain(same, int | None), plain(lambda n: None if n == 41 else n, int | None), "t@41", "count", "41", "nothing (dropped)", "s@41 41"
    ),
    "an event kept": Change(
        plain(lambda n: None if n == 41 else n, int | None), plain(same, int | None), "t@41", "count", "nothing (dropped)", "41", "s@41 41"
    ),
    "reordered outputs": Change(many(lambda n: (n, n + 1)), many(lambda n: (n + 1, n)), "t@0", "value", "0", "1", "s@0 0"),
    "one output more": Change(many(lambda n: (n,)), many(lambda n: (n,) * (1 + (n == 9))), "t@10", "count", "nothing", "9", "s@9 9"),
    "one output fewer": Change(many(lambda n: (n, n)), many(lambda n: (n,) * (2 - (n == 9))), "t@19", "count", "9", "nothing", "s@9 9"),
    "another exception": Change(
        plain(raising(ValueError("x"))), plain(raising(KeyError("x"))), "s@17", "dead letter", "ValueError: x", "KeyError: 'x'", "s@17 17"
    ),
    "another message": Change(
        plain(raising(ValueError("x"))), plain(raising(ValueError("y"))), "s@17", "dead letter", "ValueError: x", "ValueError: y", "s@17 17"
    ),
    "a new exception": Change(plain(same), plain(raising(ValueError("x"))), "t@17", "dead letter", "17", "ValueError: x", "s@17 17"),
    "an exception swallowed": Change(plain(raising(ValueError("x"))), plain(same), "t@17", "dead letter", "ValueError: x", "17", "s@17 17"),
    "another type": Change(plain(lambda n: n, int | bool), plain(lambda n: n == 5 or n, int | bool), "t@5", "value", "5", "True", "s@5 5"),
    "an undeclared type": Change(
        plain(same), plain(lambda n: "text" if n == 5 else n), "t@5", "dead letter", "5", "undeclared_type", "s@5 5"
    ),
    "a fold's operator": Change(folded(lambda t, n: t + n), folded(lambda t, n: t - n), "t@1", "value", "1", "-1", "s@1 1"),
    "another key": Change(keyed(3), keyed(4), "t@0", "value", "18", "12", "the inputs of t"),
    "another initial state": Change(keyed(3), keyed(3, start=1), "t@0", "value", "18", "19", "the inputs of t"),
    "a batch that looks around": Change(
        batches(same), batches(lambda ns: [n + (len(ns) > 1) * (n == 20) for n in ns]), "t@20", "value", "20", "21", "s@20 20"
    ),
    "state kept aside": Change(
        folded(lambda t, n: t + n, oz.at_end()), folded(lambda t, n: max(t, n), oz.at_end()), "t@0", "value", "45", "9", "the inputs of t"
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_T_NDET_2_a_change_of_code_is_found_at_its_first_differing_event(name):
    change = CHANGES[name]
    count = 10 if change.made_of.startswith("the inputs") else 60
    flows = [oz.Flow("f", ints(count) >> stage >> Seen().sink()) for stage in (change.before, change.after)]
    found = diverged(*flows)
    assert (found.stage, found.what) == ("t", change.what), found
    assert found.event == change.event, found
    assert change.recorded in found.recorded, found
    assert change.replayed in found.replayed, found
    assert f"{found.input} {found.input_value}".startswith(change.made_of), found


def test_the_stages_behind_a_change_are_judged_by_what_they_were_given():
    before = oz.Flow("f", ints(50) >> plain(same, name="a") >> plain(same, name="b") >> Seen().sink())
    after = oz.Flow("f", ints(50) >> plain(lambda n: n + (n > 20), name="a") >> plain(lambda n: n + (n > 40), name="b") >> Seen().sink())
    journal, _ = recorded(before)
    found = replay(after, journal).differences
    assert [(each.stage, each.event) for each in found] == [("a", "a@21"), ("b", "b@41")]
    assert found[0].position < found[1].position


def test_a_stage_that_would_give_more_at_its_end_is_found():
    found = diverged(
        oz.Flow("f", ints(10) >> folded(lambda t, n: t + n, oz.every(5)) >> Seen().sink()),
        oz.Flow("f", ints(10) >> folded(lambda t, n: t + n, oz.every(7)) >> Seen().sink()),
    )
    assert (found.stage, found.event) == ("t", "t@0")


class Old(msgspec.Struct, frozen=True):
    x: int


class New(msgspec.Struct, frozen=True):
    z: int


def taking(kind):
    def u(value):
        return value

    u.__annotations__ = {"value": kind, "return": kind}
    return oz.transform(u)


RETYPED = {
    "another class": (plain(Old, Old), Old, plain(New, New), New, "t@0", "{'x': 0} (does not decode as what t declares now)"),
    "a type fewer": (
        plain(lambda n: str(n) if n == 7 else n, int | str),
        int | str,
        plain(same),
        int,
        "t@7",
        "'7' (does not decode as what t declares now)",
    ),
}


@pytest.mark.parametrize("name", RETYPED)
@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("window", [60, 4])
def test_types_that_changed_are_told_with_what_is_recorded_and_so_is_who_cannot_read_it(name, on_disk, window, tmp_path):
    before, took, after, takes, event, was = RETYPED[name]
    window = oz.Window(events=window)
    old, new = (
        oz.Flow("f", ints(60) >> stage >> taking(kind) >> Seen().sink(), window=window) for stage, kind in ((before, took), (after, takes))
    )
    run = tmp_path / "r" if on_disk else recorded(old)[0]
    if on_disk:
        oz.run(old, journal=tmp_path, run_id="r")
    found, reader = replay(new, run).differences
    assert (found.event, found.recorded) == (event, was)
    assert (reader.stage, reader.what, reader.input) == ("u", "crash", event)
    assert reader.replayed.startswith("undecodable: ")


def emitting(body):
    @oz.stateful(key=lambda number: number % 3, emit=oz.at_end())
    class T:
        total: int = 0

        def fold(self, number: int) -> None:
            self.total += number

        def emit(self, key: int) -> int | None:
            return body(self.total)

    return oz.stage(T).named("t")


def refuse(total):
    raise ValueError("no sum")


def test_a_step_that_gives_more_than_a_block_takes_is_found():
    found = diverged(
        oz.Flow("f", ints(60) >> plain(lambda n: b"", bytes) >> Seen().sink()),
        oz.Flow("f", ints(60) >> plain(lambda n: bytes(1 << 20), bytes) >> Seen().sink()),
    )
    assert (found.what, found.recorded, found.replayed) == ("count", "60 events of s@0 to @59", "more than fits into one block")


@pytest.mark.parametrize(
    ("before", "after", "was", "now"),
    [
        (same, lambda total: None, "570", "nothing"),
        (lambda total: None, same, "nothing", "570"),
        (same, refuse, "a step of 3 events", "ValueError: no sum"),
        (lambda total: None, refuse, "a step of 0 events", "ValueError: no sum"),
    ],
    ids=["gives nothing", "gives something", "raises", "raises and gave nothing"],
)
def test_an_end_that_comes_out_different_is_found(before, after, was, now):
    flows = [oz.Flow("f", ints(60) >> emitting(body) >> Seen().sink()) for body in (before, after)]
    found = diverged(*flows)
    assert (found.event, found.recorded, found.replayed) == ("t@0", was, now)
    assert str(found).startswith("t@0: a")


class Told:
    """A log as somebody tells it: `tell` gives a record, another one, or None in its place."""

    def __init__(self, journal, tell):
        self.journal = journal
        self.tell = tell

    async def read(self, start=1, stop=None, *, kinds=None):
        async for entry in self.journal.read(start, stop, kinds=kinds):
            record = self.tell(entry.record)
            if record is not None:
                yield entry._replace(record=record)


def without(kind, stage, number=0):
    """Leave one of its kind out."""
    met = []

    def tell(record):
        if isinstance(record, kind) and record.stage == stage:
            met.append(record)
            return None if len(met) == number + 1 else record
        return record

    return tell


def miscounted(record):
    return msgspec.structs.replace(record, written=99) if isinstance(record, ActorCompleted) and record.actor == "t" else record


def unended(record):
    if isinstance(record, Block) and record.stage == "t":
        return msgspec.structs.replace(record, inputs=tuple(each for each in record.inputs if not isinstance(each, End)))
    return record


def deeper(record):
    return msgspec.structs.replace(record, depth=7) if isinstance(record, Block) and record.stage == "t" else record


LIES = {
    "another depth": (deeper, "t", "7", "0"),
    "a block is left out": (without(Block, "s"), "s", "base 10", "base 0"),
    "a receipt is left out": (without(Receipt, "k"), "k", "a receipt for t@10 to @19", "t@0 is next"),
    "the last receipt is left out": (without(Receipt, "k", 1), "k", "a receipt for the end of t at @20", "t@10 is next"),
    "another count": (miscounted, "t", "99 events in all", "20 stand in the log"),
    "an end that nobody took": (unended, "t", "drained", "not ended: s did not end"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_log_that_contradicts_itself_is_not_certified(name):
    tell, stage, was, now = LIES[name]
    flow = oz.Flow("f", ints(20) >> plain(same) >> Seen().sink(), window=oz.Window(events=10))
    journal, _ = recorded(flow)
    found = {each.stage: each for each in replay(flow, Told(journal, tell)).differences}
    assert (found[stage].recorded, found[stage].replayed) == (was, now)
    assert found[stage].position > 0


def test_a_stage_that_breaks_now_is_found_with_its_input():
    def picky(bad):
        @oz.transform
        def t(number: int) -> int:
            if number == bad:
                raise SystemExit("no more")
            return number

        return t

    found = diverged(*(oz.Flow("f", ints(60) >> picky(bad) >> Seen().sink()) for bad in (None, 17)))
    assert (found.what, found.replayed, found.input) == ("crash", "SystemExit: no more", "s@17"), found


def test_without_verify_the_code_runs_over_everything_and_nothing_is_judged():
    journal, _ = recorded(oz.Flow("f", ints(60) >> many(lambda n: (n, n), "m") >> folded(lambda t, n: t + n) >> Seen().sink()))
    changed = oz.Flow("f", ints(60) >> many(lambda n: (n,), "m") >> folded(lambda t, n: t - n) >> Seen().sink())
    report = replay(changed, journal, verify=False)
    assert (report.differences, report.certified, report.reason) == ((), False, "nothing was compared")
    assert (report.stages["m"].recorded, report.stages["m"].replayed) == (120, 60)
    assert report.stages["t"].replayed == 120, "it was given what is recorded"
