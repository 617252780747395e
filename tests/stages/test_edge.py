"""Edges: credit says what may be written, the inbox keeps order, the log is the overflow."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import obzen_runtime as oz
from obzen_runtime.events import Block, End, Slice
from obzen_runtime.kernel import ConfigInvalid, StateFailed, Wake
from obzen_runtime.stages import Codec, Edge, Entry, Inbox, Place, Window
from obzen_runtime.stages.refold import past_inputs
from obzen_runtime.stages.schema import declare


class Flag:
    """A wake that counts."""

    def __init__(self):
        self.count = 0

    def set(self):
        self.count += 1


def edge(events=8, size=1000, *, spills=False, inbox=None):
    made = Edge("a", "b", inbox or Inbox(Flag()), window=Window(events=events, size=size), spills=spills)
    made.writer = Flag()
    return made


def offer(made, *items, base=0, position=1, size=None):
    made.offer(list(items), set(map(type, items)), Place(position, base, 7), len(items) if size is None else size)


def anything(entry):
    return True


def test_a_window_has_room_for_something():
    for wrong in ({"events": 0}, {"size": 0}, {"events": "8192"}, {"size": 1.5}):
        with pytest.raises(ConfigInvalid, match="Give a whole number, at least 1"):
            Window(**wrong)


def test_credit_is_what_is_left_of_the_window():
    made = edge(events=8)
    assert (made.credit, made.ready) == (8, True)
    offer(made, 1, 2, 3)
    assert (made.credit, made.ready) == (5, True)
    offer(made, 4, 5, 6, base=3)
    assert (made.credit, made.ready) == (2, True), "a quarter is free"
    offer(made, 7, base=6)
    assert (made.credit, made.ready) == (1, False)
    offer(made, 8, 9, 10, base=7)
    assert (made.credit, made.ready) == (0, False), "never below nothing"
    assert (made.delivered, made.accounted, made.name) == (10, 0, "a -> b")


def test_a_window_widens_to_sixteen_times_its_events_and_wakes_the_writer_that_waits():
    made = edge(events=8, size=1000)
    offer(made, *range(8))
    assert (made.ready, made.writer.count) == (False, 0)
    for most in (16, 32, 64, 128, 128):
        made.widen()
        assert (made.most, made.credit) == (most, most - 8)
    assert made.writer.count == 5
    offer(made, 9, base=8, size=1000)
    made.widen()
    assert (made.credit, made.writer.count) == (0, 5), "its bytes are what they were"


def test_bytes_are_credit_too():
    made = edge(events=100, size=10)
    offer(made, 1, size=9)
    assert made.credit == 99
    offer(made, 2, base=1, size=1)
    assert (made.credit, made.ready) == (0, False)


def test_an_entry_gives_its_credit_back_when_its_last_event_is_committed_and_wakes_the_writer_that_waits():
    made = edge(events=4)
    offer(made, 1, 2, 3, 4)
    [entry] = made.inbox.entries
    made.commit(entry, 3)
    assert (made.credit, made.accounted, made.writer.count) == (0, 3, 0)
    made.commit(entry, 1)
    assert (made.credit, made.size, made.accounted, made.writer.count) == (4, 0, 4, 1)
    assert not made.inbox.entries


def test_a_writer_that_does_not_wait_is_not_woken():
    made = edge(events=100)
    offer(made, 1)
    made.commit(made.inbox.entries[0], 1)
    assert made.writer.count == 0
    made.writer = None
    offer(made, *range(100), base=1)
    made.commit(made.inbox.entries[0], 100)
    assert made.credit == 100


def test_entries_are_taken_in_the_order_they_came_over_all_edges_and_may_leave_in_another():
    inbox = Inbox(Flag())
    one, other = edge(inbox=inbox), edge(inbox=inbox)
    offer(one, 1)
    offer(other, 2)
    offer(one, 3, base=1)
    assert [entry.edge for entry in inbox.entries] == [one, other, one]
    assert inbox.wake.count == 3
    second = inbox.entries[1]
    other.commit(second, 1)
    assert [entry.edge for entry in inbox.entries] == [one, one]


def test_a_closed_edge_never_withholds_and_keeps_nothing():
    made = edge(events=2)
    offer(made, 1, 2)
    made.close()
    assert (made.ready, made.writer.count) == (True, 1)
    assert made.credit > 1_000_000
    offer(made, 3, base=2)
    made.end(End("a", "natural", 3))
    assert len(made.inbox.entries) == 1
    assert made.delivered == 3
    assert made.ended == End("a", "natural", 3)


def test_the_end_stands_behind_the_last_block():
    made = edge()
    offer(made, 1, position=7)
    made.end(End("a", "natural", 1))
    assert [entry.end for entry in made.inbox.entries] == [None, End("a", "natural", 1)]
    assert made.oldest() == 7
    made.commit(made.inbox.entries[0], 1)
    assert made.oldest() is None


@pytest.mark.parametrize("bound", ["events", "bytes"])
def test_an_edge_that_spills_never_withholds_and_keeps_places_beyond_its_window(bound):
    made = edge(events=4, size=100, spills=True) if bound == "events" else edge(events=1000, size=4, spills=True)
    for n in range(4):
        offer(made, *range(2), base=2 * n, position=10 + n)
        assert made.ready
    assert [entry.items is None for entry in made.inbox.entries] == [False, False, True, True]
    assert [entry.places for entry in made.inbox.entries] == [((10 + n, 2 * n, 7),) for n in range(4)]


# -- routing ------------------------------------------------------------------------------------


def test_a_routed_edge_takes_credit_for_what_it_delivers_alone():
    made = edge()
    made.routed = {}
    made.routes = lambda kind: kind is int
    offer(made, 1, "a", 2, "b", base=10, size=8)
    [entry] = made.inbox.entries
    assert (entry.items, entry.ordinals, entry.count, entry.size) == ([1, 2], [10, 12], 2, 4)
    assert [entry.ordinal(n) for n in range(2)] == [10, 12]
    assert (made.delivered, made.credit) == (2, 6)
    offer(made, "c", base=14)
    assert len(made.inbox.entries) == 1
    offer(made, 3, base=15)
    assert made.inbox.entries[1].ordinals is None, "a block that goes whole keeps its shape"
    assert made.routed == {int: True, str: False}
    assert made.delivers(5)
    assert not made.delivers("x")
    assert edge().delivers("x")
    assert Edge("a", "b", Inbox(Wake()), window=Window()).routes(str)


# -- gathering ----------------------------------------------------------------------------------


def test_an_entry_absorbs_what_follows_it_until_there_is_enough():
    made = edge(events=100)
    for n in range(4):
        offer(made, *range(3 * n, 3 * n + 3), base=3 * n, position=n + 1)
    head = made.inbox.entries[0]
    assert made.inbox.gather(head, 5, anything) == 6
    assert (list(head.items), head.count, head.places) == (list(range(6)), 6, ((1, 0, 7), (2, 3, 7)))
    made.commit(head, 2)
    assert made.inbox.gather(head, 5, anything) == 7
    assert made.inbox.gather(head, 99, anything) == 10
    assert len(made.inbox.entries) == 1
    made.commit(head, 10)
    assert (made.events, made.size) == (0, 0)


def test_past_what_others_gave_an_entry_absorbs_what_follows_of_its_own_upstream():
    inbox = Inbox(Flag())
    one, other = edge(99, inbox=inbox), edge(99, inbox=inbox)
    for base in range(3):
        offer(one, base, base=base)
        offer(other, 10 + base, base=base)
    one.end(End("a", "natural", 3))
    first, second = inbox.firsts()[one], inbox.firsts()[other]
    assert inbox.gather(first, 99, anything) == 1
    assert inbox.gather(first, 99, anything, past_others=True) == 3
    inbox.prefer(second)
    assert [list(entry.items) for entry in inbox.entries] == [[10], [0, 1, 2], [11], [12], []]
    assert inbox.gather(second, 2, anything, past_others=True) == 2
    assert [list(entry.items) for entry in inbox.entries] == [[10, 11], [0, 1, 2], [12], []]


def test_only_what_may_be_taken_is_absorbed():
    made = edge(events=100)
    offer(made, 1, position=1)
    offer(made, 2, base=1, position=2)
    assert made.inbox.gather(made.inbox.entries[0], 2, lambda entry: entry.places[-1][0] < 2) == 1


def test_what_does_not_join_up_is_not_absorbed():
    def pair(change):
        inbox = Inbox(Flag())
        made, other = edge(inbox=inbox), edge(inbox=inbox)
        offer(made, 1)
        change(made, other)
        return inbox.gather(inbox.entries[0], 2, anything), len(inbox.entries)

    def spilled(made, other):
        offer(made, 2, base=1)
        made.inbox.entries[1].items = None

    def routed(made, other):
        made.routed, made.routes = {}, lambda kind: kind is int
        offer(made, 2, "x", base=1)

    assert pair(lambda made, other: offer(made, 2, base=1)) == (2, 1)
    assert pair(lambda made, other: offer(made, 2, base=5)) == (1, 2)
    assert pair(lambda made, other: offer(other, 2, base=1)) == (1, 2)
    assert pair(lambda made, other: made.end(End("a", "natural", 1))) == (1, 2)
    assert pair(spilled) == (1, 2)
    assert pair(routed) == (1, 2)


def test_routed_entries_keep_their_ordinals_when_they_are_gathered():
    made = edge(events=100)
    made.routed, made.routes = {}, lambda kind: kind is int
    offer(made, 1, "x", position=1)
    offer(made, "x", 2, base=2, position=2)
    head = made.inbox.entries[0]
    assert made.inbox.gather(head, 2, anything) == 2
    assert (list(head.items), head.ordinals) == ([1, 2], [0, 3])


def test_payloads_are_forgotten_but_not_places_or_ends():
    inbox = Inbox(Flag())
    made, other = edge(inbox=inbox), edge(inbox=inbox)
    offer(made, 1)
    offer(other, 2)
    made.end(End("a", "natural", 1))
    made.forget_payloads()
    assert [entry.items for entry in inbox.entries] == [None, [2], ()]


@given(st.lists(st.tuples(st.integers(1, 6), st.booleans()), max_size=30), st.integers(1, 10))
@settings(max_examples=50)
def test_what_waits_and_what_is_accounted_for_make_up_what_was_delivered(steps, window):
    made = edge(events=window)
    written = 0
    for count, commits in steps:
        offer(made, *range(written, written + count), base=written)
        written += count
        if commits:
            entry = made.inbox.entries[0]
            made.commit(entry, min(count, entry.count - entry.done))
        waiting = sum(entry.count for entry in made.inbox.entries)
        assert made.events == waiting
        assert made.credit == max(0, window - waiting)
        assert made.delivered == made.accounted + waiting - sum(entry.done for entry in made.inbox.entries)


# -- reading back -------------------------------------------------------------------------------


async def test_a_stages_past_must_be_in_the_log_whole():
    codec = Codec("a", declare(int)[0])
    journal = oz.MemoryJournal(keep=True)
    journal.append([Block("a", 5, 2, 0, codec.encode([5, 6]))])
    journal.append([Block("b", 0, 0, 0, inputs=(Slice("a", 5, 7),))])
    made = edge()
    assert [past[:3] async for past in past_inputs(journal, "b", [made], {"a": codec})] == [("a", [5, 6], [5, 6])]
    journal.append([Block("b", 0, 0, 0, inputs=(Slice("a", 7, 9),))])
    with pytest.raises(StateFailed, match="a@7 to @8") as lost:
        _ = [past async for past in past_inputs(journal, "b", [made], {"a": codec})]
    assert "keep=True" in lost.value.remedy


async def test_a_block_that_arrives_wakes_its_reader():
    inbox = Inbox(Wake())
    made = Edge("a", "b", inbox, window=Window())
    offer(made, 1)
    await asyncio.wait_for(inbox.wake.wait(), 5)
    assert isinstance(inbox.entries[0], Entry)
