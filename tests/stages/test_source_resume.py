"""Sources that begin again: behind their last offset, or anew with what the journal holds passed over and compared."""

from collections.abc import AsyncIterator, Iterator
from typing import Annotated

import msgspec
import pytest

import obzen_runtime as oz
from obzen_runtime.actor import Restart
from obzen_runtime.events import ActorCompleted, Block, DeadLetter
from obzen_runtime.kernel import ConfigInvalid, UsageError
from obzen_runtime.stages import again
from tests.flow.kit import Seen, play
from tests.stages.kit import small_blocks


class Place(msgspec.Struct, frozen=True, array_like=True):
    byte: int
    line: int


class Broken:
    """Makes a source raise at an item, once."""

    def __init__(self, at: int, times: int = 1) -> None:
        self.at = at
        self.left = times

    def __call__(self, number: int) -> None:
        if number == self.at and self.left:
            self.left -= 1
            raise oz.Transient("gone for a while")


def again_and_again(**options):
    return Restart(max=100, **options)


def ran(source, *, journal=None, restart=None):
    seen = Seen()
    played = play(oz.Flow("f", source >> seen.sink(), **({"restart": restart} if restart else {})), journal=journal)
    return played, seen


def died(source, *, journal):
    """A first process, in which the source fails for good."""
    played, seen = ran(source, journal=journal)
    assert played.state == "failed"
    return played, seen


def numbers_of(count, *, fails_at=None, every=1, starts=None):
    """Numbers with an offset at every so many."""

    @oz.source
    def numbers(start: oz.Offset | None = None) -> Iterator[oz.At[int, int] | int]:
        if starts is not None:
            starts.append(start)
        for number in range(0 if start is None else start + 1, count):
            if number == fails_at:
                raise oz.Permanent("no more today")
            yield oz.At(number, number) if number % every == 0 else number

    return numbers


def plain(items, *, fails_at=None, kind=int, **options):
    def numbers():
        for place, item in enumerate(items):
            if place == fails_at:
                raise oz.Permanent("no more today")
            yield item

    numbers.__annotations__ = {"return": Iterator[kind]}
    return oz.source(**options)(numbers) if options else oz.source(numbers)


# -- what a source declares -----------------------------------------------------------------------


def test_an_offset_is_no_parameter_and_the_output_is_the_item():
    node = numbers_of(3)
    assert node.seek == "start"
    assert dict(node.parameters) == {}
    assert [each.origin for each in node.outputs(())] == [int]
    with pytest.raises(TypeError, match="has no parameter 'start'"):
        node(start=3)


@pytest.mark.parametrize(
    ("annotation", "seeks"),
    [(oz.Offset, True), (oz.Offset | None, True), (None | oz.Offset, True), (Annotated[int, oz.Offset] | None, True), (int, False)],
)
def test_an_offset_is_known_in_every_spelling(annotation, seeks):
    def given(start=None):
        yield 1

    given.__annotations__ = {"start": annotation, "return": Iterator[int]}
    assert oz.source(given).seek == ("start" if seeks else "")


@pytest.mark.parametrize(
    "annotation", [Iterator[oz.At[int, int]], Iterator[int], Iterator[oz.At[int, int] | int], Iterator[oz.At[str, int | oz.Bad] | oz.Bad]]
)
def test_at_and_bad_are_no_output_types(annotation):
    def given():
        yield 1

    given.__annotations__ = {"return": annotation}
    assert [each.origin for each in oz.source(given).outputs(())] == [int]


def test_what_does_not_go_together_is_refused():
    def seeks(start: oz.Offset | None = None) -> Iterator[int]:
        yield 1

    def twice(start: oz.Offset, end: oz.Offset) -> Iterator[int]:
        yield 1

    with pytest.raises(UsageError, match="takes an offset and is repeatable=False"):
        oz.source(repeatable=False)(seeks)
    with pytest.raises(UsageError, match="takes 2 offsets"):
        oz.source(twice)


# -- offsets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 7, 1000])
def test_a_resumed_source_begins_behind_its_last_offset(every):
    journal, starts = oz.MemoryJournal(keep=True), []
    _, seen = died(numbers_of(5000, fails_at=3210, every=every), journal=journal)
    assert seen == list(range(3210))
    second, rest = ran(numbers_of(5000, every=every, starts=starts), journal=journal)
    assert second.state == "drained", second.error
    assert rest == list(range(3210, 5000))
    assert starts == [3209 // every * every]
    assert second.events("numbers") == list(range(5000))


def test_a_crashed_source_begins_behind_its_last_offset_in_the_same_run():
    broken, starts = Broken(300), []

    @oz.source
    async def numbers(start: oz.Offset | None = None) -> AsyncIterator[oz.At[int, int] | int]:
        starts.append(start)
        for number in range(0 if start is None else start + 1, 500):
            broken(number)
            yield oz.At(number, number) if number % 50 == 0 else number

    played, seen = ran(numbers, restart=again_and_again())
    assert played.state == "drained", played.error
    assert (seen, starts) == (list(range(500)), [None, 250])


@pytest.mark.parametrize(
    ("annotation", "offset", "expected"),
    [
        (Iterator[oz.At[Place, int]], Place(3, 4), Place(3, 4)),
        (Iterator[oz.At[tuple[int, str], int]], (3, "a"), (3, "a")),
        (Iterator[int], (3, ("a", {"b": [1]})), (3, ("a", {"b": (1,)}))),
        (Iterator[int], "x", "x"),
    ],
)
def test_offsets_come_back_as_the_type_that_is_annotated_and_as_tuples_without_one(annotation, offset, expected):
    journal, starts = oz.MemoryJournal(keep=True), []

    def given(start=None):
        starts.append(start)
        yield oz.At(offset, 1)
        raise oz.Permanent("no more today")

    given.__annotations__ = {"start": oz.Offset | None, "return": annotation}
    died(oz.source(given), journal=journal)
    died(oz.source(given), journal=journal)
    assert starts == [None, expected]


def test_a_bad_row_may_have_an_offset():
    journal, starts = oz.MemoryJournal(keep=True), []

    @oz.source
    def rows(start: oz.Offset | None = None) -> Iterator[oz.At[int, int | oz.Bad]]:
        starts.append(start)
        for number in range(0 if start is None else start + 1, 6):
            if number == 4 and start is None:
                raise oz.Permanent("no more today")
            yield oz.At(number, oz.Bad(f"{number}", "odd") if number % 2 else number)

    died(rows, journal=journal)
    played, rest = ran(rows, journal=journal)
    assert played.state == "drained", played.error
    assert (rest, starts) == ([4], [None, 3])
    assert [each.payload for each in played.of(DeadLetter)] == [b"1", b"3", b"5"]
    assert played.of(Block)[-1].cursor is not None


def test_an_offset_that_cannot_be_encoded_or_given_back_is_refused():
    played, _ = ran(given_at(object()))
    assert (played.state, played.error.code) == ("failed", "usage")
    journal = oz.MemoryJournal(keep=True)
    died(given_at("text", kind=str), journal=journal)
    played, _ = died(given_at(3, kind=int), journal=journal)
    assert played.error.code == "source_changed"
    assert "Expected `int`, got `str`" in played.error.message


def given_at(offset, kind=int):
    def made(start=None):
        yield oz.At(offset, 1)
        raise oz.Permanent("no more today")

    made.__annotations__ = {"start": oz.Offset | None, "return": Iterator[oz.At[kind, int]]}
    return oz.source(made)


def test_a_source_that_takes_no_offset_any_more_is_refused():
    journal = oz.MemoryJournal(keep=True)
    died(numbers_of(10, fails_at=5), journal=journal)
    with pytest.raises(ConfigInvalid, match="it takes none any more") as refused:
        ran(plain(range(10)).named("numbers"), journal=journal)
    assert (refused.value.code, refused.value.exit_code) == ("source_changed", 78)


# -- the same items again -------------------------------------------------------------------------------


@pytest.mark.parametrize("fails_at", [1, 100, 3000])
@pytest.mark.parametrize("thread", [False, True])
def test_a_plain_source_is_passed_over_up_to_where_it_stood(fails_at, thread):
    journal = oz.MemoryJournal(keep=True)
    died(plain(range(4000), fails_at=fails_at), journal=journal)
    played, rest = ran(plain(range(4000), thread=thread), journal=journal)
    assert played.state == "drained", played.error
    assert rest == list(range(fails_at, 4000))
    assert played.events("numbers") == list(range(4000))


def test_an_async_source_is_passed_over_too_and_compared():
    journal = oz.MemoryJournal(keep=True)

    def given(items, fails):
        @oz.source
        async def numbers() -> AsyncIterator[int]:
            for item in items:
                yield item
            if fails:
                raise oz.Permanent("no more today")

        return numbers

    died(given(range(1500), True), journal=journal)
    played, _ = died(given([*range(900), -1, *range(901, 1500)], True), journal=journal)
    assert "numbers@900 is -1, it was 900" in played.error.message
    played, rest = ran(given(range(1501), False), journal=journal)
    assert (played.state, rest) == ("drained", [1500])


@pytest.mark.parametrize("place", [0, 1, 700, 2999])
def test_the_first_item_that_differs_is_named_with_both_values(place):
    journal = oz.MemoryJournal(keep=True)
    died(plain(range(4000), fails_at=3000), journal=journal)
    other = list(range(4000))
    other[place] = -7
    played, rest = died(plain(other), journal=journal)
    assert played.error.code == "source_changed"
    assert f"source 'numbers' changed: numbers@{place} is -7, it was {place}" in played.error.message
    assert "resume" in played.error.remedy
    assert rest == []


def test_an_item_behind_the_last_offset_that_differs_is_named():
    journal = oz.MemoryJournal(keep=True)
    died(numbers_of(500, fails_at=260, every=100), journal=journal)

    @oz.source
    def numbers(start: oz.Offset | None = None) -> Iterator[int]:
        assert start == 200
        yield from (201, 202, -203, *range(204, 500))

    played, _ = died(numbers, journal=journal)
    assert "numbers@203 is -203, it was 203" in played.error.message


@pytest.mark.parametrize("now", [None, 4])
def test_what_a_source_dropped_is_compared_too(now):
    journal, begun = oz.MemoryJournal(keep=True), []

    @oz.source
    def s() -> Iterator[int | None]:
        begun.append(True)
        for number in range(10):
            if number == 8 and len(begun) == 1:
                raise oz.Permanent("no more today")
            yield number if number % 4 else None if len(begun) == 1 or number != 4 else now

    died(s, journal=journal)
    played, rest = ran(s, journal=journal)
    if now is None:
        assert played.state == "drained", played.error
        assert rest == [9]
    else:
        assert played.error.code == "source_changed"


def test_a_field_that_differs_is_named():
    class Point(msgspec.Struct, frozen=True):
        x: int
        y: float

    journal = oz.MemoryJournal(keep=True)
    died(plain([Point(1, 2.0), Point(3, 4.0)], fails_at=1, kind=Point), journal=journal)
    played, _ = died(plain([Point(1, 2.5)], kind=Point), journal=journal)
    assert "numbers@0.y is 2.5, it was 2.0" in played.error.message


def test_a_source_that_gives_fewer_items_is_refused():
    journal = oz.MemoryJournal(keep=True)
    died(plain(range(50), fails_at=40), journal=journal)
    played, _ = died(plain(range(39)), journal=journal)
    assert played.error.code == "source_changed"
    assert "it gave 39 items where it had given 40" in played.error.message
    journal = oz.MemoryJournal(keep=True)
    died(numbers_of(50, fails_at=40, every=30), journal=journal)
    played, _ = died(numbers_of(35, every=30), journal=journal)
    assert "it gave 4 items behind its last offset where it had given 9" in played.error.message


def test_bad_rows_and_items_that_may_not_leave_are_compared_too():
    def rows(*, bad=b"x", undeclared="u"):
        return [1, 2, oz.Bad(bad, "no", "f:3"), 4, undeclared, 2**70, 5, oz.Bad("y", "no"), 6, 7]

    for change, expected in [
        ({}, None),
        ({"bad": b"z"}, "bad row f:3 is b'z', it was b'x'"),
        ({"undeclared": 8}, "numbers@3 is 8, it was 5"),
        ({"undeclared": 2.5}, None),
    ]:
        journal = oz.MemoryJournal(keep=True)
        died(plain(rows(), fails_at=9), journal=journal)
        played, rest = ran(plain(rows(**change)), journal=journal)
        if expected is None:
            assert (played.state, rest) == ("drained", [7]), played.error
        else:
            assert expected in played.error.message


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ([1, oz.Bad("x", "no", "f:2"), 3], [1, 2, 3], "source 'numbers' changed: numbers@1 is 2, it was 3"),
        ([1, oz.Bad("x", "no", "f:2")], [1, 2], "source 'numbers' changed: an item is 2, it was a bad row"),
        ([1, 2], [1, oz.Bad("x", "no", "f:2")], "source 'numbers' changed: bad row f:2 is b'x', it was an event"),
    ],
)
def test_an_item_in_place_of_a_bad_row_is_told_and_the_other_way_round(before, now, expected):
    journal = oz.MemoryJournal(keep=True)
    died(plain([*before, 0], fails_at=len(before)), journal=journal)
    played, _ = ran(plain([*now, 0]), journal=journal)
    assert played.error.message == expected


def test_a_journal_that_forgot_the_items_still_knows_that_they_differ():
    broken = Broken(100_000)
    rounds = []

    @oz.source
    def numbers() -> Iterator[int]:
        rounds.append(1)
        for number in range(100_001):
            broken(number)
            yield number if len(rounds) == 1 or number != 17 else -17

    seen = Seen()
    played = play(oz.Flow("f", numbers >> seen.sink(), restart=again_and_again()), journal=oz.MemoryJournal())
    assert played.error.code == "source_changed"
    assert "the 100000 items it gives again are not those it had given" in played.error.message


def test_a_set_is_the_same_in_any_order_of_its_members():
    journal = oz.MemoryJournal(keep=True)
    some, other = frozenset({8, 0}), frozenset({0, 8})
    assert list(some) != list(other)
    died(plain([some, some], fails_at=1, kind=oz.Copied[frozenset[int]]), journal=journal)
    played, rest = ran(plain([other, some], kind=oz.Copied[frozenset[int]]), journal=journal)
    assert (played.state, rest) == ("drained", [some]), played.error


def test_the_checksum_does_not_know_block_borders():
    codec = play(oz.Flow("f", plain([1]) >> Seen().sink())).pipeline.wired.log.codecs["numbers"]
    items = [*range(20), oz.Bad("r", "e"), *range(70_000), 2**80, "text"]
    whole = again.chain_items(0, codec, items)
    for size in (1, 7, 15, 16, 4096, 65_536):
        crc = 0
        for start in range(0, len(items), size):
            part = items[start : start + size]
            crc = again.chain_items(crc, codec, part)
        assert crc == whole
    assert again.chain(again.chain(0, codec.encode([1, 2])), codec.encode([3] * 20)) == again.chain_items(0, codec, [1, 2] + [3] * 20)
    assert again.chain_items(0, codec, [1, oz.Bad("r", "e")]) != again.chain_items(0, codec, [oz.Bad("r", "e"), 1])


def test_blocks_that_were_halved_keep_their_offsets():
    journal = oz.MemoryJournal(keep=True)

    def given(fails):
        @oz.source
        def texts(start: oz.Offset | None = None) -> Iterator[oz.At[int, str]]:
            for number in range(0 if start is None else start + 1, 12):
                if number == 9 and fails:
                    raise oz.Permanent("no more today")
                yield oz.At(number, f"{number}" * 100_000)

        return texts

    with small_blocks():
        died(given(True), journal=journal)
        played, rest = ran(given(False), journal=journal)
    assert played.state == "drained", played.error
    assert [each[0] for each in rest] == ["9", "1", "1"]
    assert len(played.events("texts")) == 12


# -- ends ---------------------------------------------------------------------------------------------------


def test_a_source_that_had_completed_is_not_pulled_again():
    journal, opened = oz.MemoryJournal(keep=True), []

    @oz.source
    def numbers() -> Iterator[int]:
        opened.append(1)
        yield from range(10)

    left = [1]

    @oz.sink
    def last(number: int) -> None:
        if number == 9 and left:
            left.pop()
            raise SystemExit(1)

    first = play(oz.Flow("f", numbers >> last, restart=Restart(max=0)), journal=journal)
    assert first.state == "failed"
    second = play(oz.Flow("f", numbers >> last), journal=journal)
    assert second.state == "drained", second.error
    assert opened == [1]
    assert [each.end for each in second.of(ActorCompleted) if each.actor == "numbers"] == ["natural", "natural"]
    assert second.events("numbers") == list(range(10))


def test_a_source_that_cannot_give_the_same_again_is_refused():
    journal = oz.MemoryJournal(keep=True)
    died(plain(range(10), fails_at=5, repeatable=False), journal=journal)
    with pytest.raises(ConfigInvalid, match="is declared repeatable=False and does not seek") as refused:
        ran(plain(range(10), repeatable=False), journal=journal)
    assert (refused.value.code, refused.value.exit_code) == ("not_repeatable", 78)
    broken = Broken(7)

    @oz.source(repeatable=False)
    def numbers() -> Iterator[int]:
        for number in range(10):
            broken(number)
            yield number

    played, seen = ran(numbers, restart=again_and_again())
    assert (played.state, played.error.code, seen) == ("failed", "not_repeatable", list(range(7)))


def test_a_source_that_cannot_give_the_same_again_and_gave_nothing_yet_begins():
    journal = oz.MemoryJournal(keep=True)
    died(plain(range(10), fails_at=0, repeatable=False), journal=journal)
    played, rest = ran(plain(range(10), repeatable=False), journal=journal)
    assert (played.state, rest) == ("drained", list(range(10)))
