"""Records survive their codec, grow by addition only, and stand in every journal as they were written."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from obzen_runtime.events import (
    KINDS,
    Block,
    Cursor,
    DeadLetter,
    End,
    Lost,
    Offsets,
    Paired,
    Receipt,
    RunStarted,
    Setting,
    Since,
    Slice,
    Tick,
    Watermark,
    decode_record,
    encode_record,
    expand,
    kind_number,
    runs_of,
    worst_end,
)
from obzen_runtime.journal import MemoryJournal, SegmentJournal
from obzen_runtime.kernel import CODES, ErrorInfo, NotFound

INTS = st.integers(-(2**63), 2**63 - 1)
FEW = {"max_size": 3}


def small(strategy):
    return st.lists(strategy, **FEW).map(tuple)


def plain(kind: Any) -> st.SearchStrategy[Any]:
    """A strategy for a field's type, structs included."""
    if kind is ErrorInfo:
        return ERRORS
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return structs(kind)
    origin, arguments = getattr(kind, "__origin__", None), getattr(kind, "__args__", ())
    if origin is tuple and arguments[-1] is ...:
        return small(plain(arguments[0]))
    if origin is tuple:
        return st.tuples(*map(plain, arguments))
    if origin is dict:
        return st.dictionaries(plain(arguments[0]), plain(arguments[1]), **FEW)
    if arguments and all(isinstance(each, str) for each in arguments):
        return st.sampled_from(arguments)
    if arguments:
        return st.one_of(*map(plain, arguments))
    return {
        int: INTS,
        str: st.text(max_size=8),
        bytes: st.binary(max_size=8),
        float: st.floats(allow_nan=False),
        bool: st.booleans(),
        type(None): st.none(),
    }[kind]


def structs(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    return _STRUCTS.setdefault(kind, st.deferred(lambda: st.builds(kind, **fields_of(kind))))


def fields_of(kind: type[msgspec.Struct]) -> dict[str, st.SearchStrategy[Any]]:
    return {field.name: plain(field.type) for field in msgspec.structs.fields(kind)}


_STRUCTS: dict[type, st.SearchStrategy[Any]] = {}


ERRORS = st.deferred(
    lambda: st.builds(
        lambda code, message, details, cause: ErrorInfo(
            kind=CODES[code][0], code=code, message=message, details=details, cause=cause, category="user"
        ),
        st.sampled_from(sorted(CODES)),
        st.text(max_size=8),
        st.dictionaries(st.text(max_size=4), INTS | st.text(max_size=4) | st.booleans() | st.none(), max_size=2),
        st.none() | st.builds(ErrorInfo, kind=st.just("PERMANENT"), code=st.just("permanent"), message=st.text(max_size=4)),
    )
)


@pytest.mark.parametrize("number", KINDS, ids=lambda number: KINDS[number].__name__)
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_every_record_comes_back_as_it_was(number, data):
    record = data.draw(structs(KINDS[number]))
    assert kind_number(record) == number
    back = decode_record(number, encode_record(record))
    assert back == record
    assert type(back) is type(record)
    assert decode_record(number, memoryview(encode_record(record))) == record


@pytest.mark.parametrize("number", KINDS, ids=lambda number: KINDS[number].__name__)
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_fields_at_their_default_are_absent(number, data):
    record = data.draw(structs(KINDS[number]))
    written = msgspec.msgpack.decode(encode_record(record))
    defaults = {field.encode_name: field.default for field in msgspec.structs.fields(KINDS[number])}
    for name, default in defaults.items():
        if default is not msgspec.NODEFAULT and getattr(record, name) == default:
            assert name not in written


def test_kind_numbers_are_as_they_were_first_given():
    assert {number: kind.__struct_config__.tag for number, kind in KINDS.items()} == {
        1: "block",
        2: "receipt",
        3: "dead_letter",
        4: "run.started",
        5: "run.resumed",
        6: "run.completed",
        7: "run.failed",
        8: "run.cancelled",
        9: "actor.state",
        10: "actor.completed",
        11: "actor.aborted",
        12: "actor.restarted",
        13: "actor.stalled",
        14: "contract",
        15: "checkpoint",
        16: "snapshot",
        17: "loss",
        18: "delivery.intent",
        19: "delivery.resolved",
        20: "run.forked",
        21: "journal.dropped",
    }


def test_a_kind_of_a_newer_version_is_refused_by_name():
    with pytest.raises(NotFound, match="254") as refused:
        decode_record(254, b"\x80")
    assert "version" in refused.value.remedy


@pytest.mark.parametrize(
    "old",
    [
        {"kind": "block", "stage": "s", "base": 0, "count": 0, "at": 1},
        {"kind": "receipt", "stage": "s", "at": 1},
        {"kind": "run.started", "run_id": "r", "flow": "f", "at": 1},
        {"kind": "actor.completed", "actor": "a", "state": "drained", "reason": "drained", "at": 1},
        {"kind": "checkpoint", "at": 1},
    ],
    ids=lambda old: old["kind"],
)
def test_a_record_of_an_older_version_has_the_defaults_of_what_it_did_not_know(old):
    number = next(number for number, kind in KINDS.items() if kind.__struct_config__.tag == old["kind"])
    record = decode_record(number, msgspec.msgpack.encode(old))
    for field in msgspec.structs.fields(type(record)):
        if field.name not in old and field.default is not msgspec.NODEFAULT:
            assert getattr(record, field.name) == field.default


def test_a_field_of_a_newer_version_is_passed_over():
    newer = {"kind": "run.started", "run_id": "r", "flow": "f", "at": 1, "weather": "fine"}
    assert decode_record(4, msgspec.msgpack.encode(newer)) == RunStarted("r", "f", 1)


def test_equal_records_give_equal_bytes_whatever_the_order_of_their_maps():
    one = Block("s", 0, 0, 1, cursor=Cursor(next={"a": 1, "b": 2}, gaps={"x": ((1, 2),), "y": ()}))
    other = Block("s", 0, 0, 1, cursor=Cursor(next={"b": 2, "a": 1}, gaps={"y": (), "x": ((1, 2),)}))
    assert one == other
    assert encode_record(one) == encode_record(other)


def full_block(**changed: Any) -> Block:
    """Every column of a block in use."""
    columns: dict[str, Any] = {
        "stage": "price",
        "base": 12,
        "count": 3,
        "at": 1_700_000_000_000,
        "payloads": b"\x93\x01\xa1x\x03",
        "types": b"\x00\x01\x00",
        "inputs": (
            Slice("orders", 7, 11),
            Watermark("orders", 1_700_000_000_000),
            Tick(1_700_000_000_001),
            Setting("limit", b"\x05"),
            End("products", "truncated", 4),
        ),
        "cursor": Cursor(next={"orders": 11, "products": 4}, taken=15, within=2, gaps={"orders": ((8, 9),)}),
        "parents": Paired(((1, 2), (2, 1)), "products", (3, -1, 0)),
        "outcomes": (40, 41),
        "times": (1, 2, 3),
        "keys": b"\x93\xa1a\xa1b\xa1c",
        "depth": 4,
        "errors": (Lost("late", ((3, 1),)), Lost("dead", bytes([3]))),
    }
    return Block(**{**columns, **changed})


@pytest.mark.parametrize("parents", [None, Offsets(((1, 3),)), Paired(b"\x01\x00\x02", "products", (1, 2, 3)), Since((0, 4, 9))])
@pytest.mark.parametrize("journal", ["memory", "segments"])
async def test_a_block_with_every_column_is_read_back_from_a_journal(journal, parents, tmp_path):
    block = full_block(parents=parents)
    unset = [field.name for field in msgspec.structs.fields(Block) if getattr(block, field.name) == field.default]
    assert unset in ([], ["parents"]), "every column is in use"
    log = MemoryJournal(keep=True) if journal == "memory" else SegmentJournal.open(tmp_path / "run")
    log.append([block, Receipt("sink", 1)])
    log.append([full_block(types=3)])
    try:
        assert [entry.record async for entry in log.read()] == [block, Receipt("sink", 1), full_block(types=3)]
    finally:
        await log.close()
    if journal == "segments":
        again = SegmentJournal.open(tmp_path / "run")
        try:
            assert [entry.record async for entry in again.read(1, 2)] == [block]
        finally:
            await again.close()


def test_a_dead_letter_keeps_the_error_with_its_cause():
    cause = ErrorInfo(kind="VALIDATION", code="wrong_type", message="inner", details={"n": 1, "x": None, "f": 0.5})
    letter = DeadLetter(3, "s", 9, ErrorInfo(kind="PERMANENT", code="permanent", message="m", cause=cause), "u", 4, b"\xff", "a.csv:3")
    assert decode_record(3, encode_record(letter)) == letter


@given(st.lists(st.integers(0, 300), max_size=400).map(sorted))
def test_packed_offsets_unpack_to_what_they_were(offsets):
    runs = runs_of(offsets)
    assert list(expand(runs)) == offsets
    assert list(expand(msgspec.msgpack.decode(msgspec.msgpack.encode(runs), type=tuple[tuple[int, int], ...] | bytes))) == offsets


@given(st.integers(0, 10_000), st.integers(0, 5), st.integers(0, 5000))
def test_even_offsets_pack_to_two_pairs_at_most(first, step, count):
    offsets = [first + step * each for each in range(count)]
    runs = runs_of(offsets)
    assert isinstance(runs, tuple)
    assert len(runs) <= 2
    assert list(expand(runs)) == offsets


@pytest.mark.parametrize(
    ("offsets", "runs"),
    [
        ([], ()),
        ([0], ((1, 1),)),
        ([7], ((8, 1),)),
        ([0, 1, 2], ((1, 3),)),
        ([0, 2, 4], ((1, 1), (2, 2))),
        ([0] * 5, ((1, 1), (0, 4))),
        ([3, 7, 11], ((4, 3),)),
        ([0, 1, 5], ((1, 2), (4, 1))),
    ],
)
def test_regular_offsets_are_pairs(offsets, runs):
    assert runs_of(offsets) == runs


def test_irregular_offsets_are_a_byte_each_when_steps_fit_and_pairs_otherwise():
    irregular = [each * each for each in range(20)]
    assert runs_of(irregular) == bytes([1, *(2 * each + 1 for each in range(19))])
    far = [0, 1, *range(1000, 1040, 3)]
    assert isinstance(runs_of([*far, 5000]), tuple)
    assert isinstance(runs_of([300, *range(301, 340, 2), 341]), tuple), "a first offset that fits no byte"
    assert list(expand(runs_of([*far, 5000]))) == [*far, 5000]


def test_the_worst_end_wins():
    assert worst_end([]) == "natural"
    assert worst_end(["natural", "truncated"]) == "truncated"
    assert worst_end(["poison", "truncated", "natural"]) == "poison"


def test_floats_and_other_odd_values_in_records_survive():
    for seconds in (math.inf, -0.0, 5e-324):
        record = KINDS[13]("a", "loop_held", seconds, 1)
        assert decode_record(13, encode_record(record)) == record
