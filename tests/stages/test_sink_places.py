"""Writers with a place of their own: where they go on, what is synced before a receipt, and who is not made again."""

import asyncio
import threading

import pytest

import obzen_runtime as oz
from obzen_runtime.events import ActorCompleted, Receipt, Slice
from obzen_runtime.journal import Fsync
from tests.flow.kit import Mortal, ints, play, until
from tests.stages.deliveries import DEATHS, count_appends, sound, terminal


@DEATHS
def test_a_writer_goes_on_from_the_place_of_its_last_receipt(written):
    world: list[int] = []
    resumed = []

    def flow_of():
        @oz.sink
        class Tape:
            def write(self, n: int) -> None:
                if n == 7 and not crashed:
                    crashed.append(n)
                    raise SystemExit
                world.append(n)

            def position(self) -> dict[str, int]:
                return {"at": len(world)}

            async def resume(self, position: dict[str, int] | None) -> None:
                resumed.append(position)
                del world[position["at"] if position else 0 :]

        return oz.Flow("f", ints(12) >> Tape, window=oz.Window(events=4))

    crashed = [0]
    for death in range(count_appends(flow_of)):
        crashed.clear()
        journal = Mortal(written=written)
        journal.live(flow_of(), death)
        sound(journal.live(flow_of()))
        assert world == list(range(12)), death
    assert None in resumed
    assert {"at": 7} in resumed


def test_a_place_that_cannot_be_kept_fails_the_sink_and_says_what_can_be():
    @oz.sink
    class Odd:
        def write(self, n: int) -> None: ...

        def position(self) -> object:
            return object()

        def resume(self, position: object) -> None: ...

    played = play(oz.Flow("f", ints(3) >> Odd))
    assert played.state == "failed"
    assert played.error.message.startswith("sink Odd cannot keep its position, of type object: ")
    assert "numbers, text, bytes" in played.error.remedy


def test_a_run_that_goes_on_with_a_handler_that_gives_back_a_coroutine_delivers_nothing_and_says_so():
    async def later(n): ...

    def flow_of(*, waits):
        @oz.sink
        def store(n: int) -> None:
            return later(n) if waits else None

        return oz.Flow("f", ints(12) >> store, window=oz.Window(events=4))

    journal = Mortal()
    before = terminal(journal.live(flow_of(waits=False), count_appends(lambda: flow_of(waits=False)) // 2))
    assert 0 < before.total() < 12
    played = journal.live(flow_of(waits=True))
    assert played.state == "failed"
    assert "store returned a coroutine" in played.error.message
    assert terminal(played) == before


def test_a_writer_of_a_drained_sink_is_not_made_again():
    made = []

    def flow_of():
        @oz.sink
        class Once:
            def __init__(self) -> None:
                made.append(self)

            def write(self, n: int) -> None: ...

        return oz.Flow("f", ints(3) >> Once)

    total = count_appends(flow_of)
    journal = Mortal()
    journal.live(flow_of(), total - 2)
    assert any(isinstance(each, ActorCompleted) and each.actor == "Once" for each in journal._records)
    made.clear()
    sound(journal.live(flow_of()))
    assert made == []


class Synced(oz.MemoryJournal):
    """A journal of level fsync whose receipts are noted."""

    def __init__(self, log):
        super().__init__(keep=True)
        self.log = log

    @property
    def level(self):
        return Fsync()

    def append(self, records, **options):
        self.log.extend("receipt" for each in records if isinstance(each, Receipt) and any(isinstance(one, Slice) for one in each.inputs))
        return super().append(records, **options)


@pytest.mark.parametrize("level", ["fsync", "memory"])
def test_at_level_fsync_what_was_flushed_is_synced_before_its_receipt(level):
    log: list[str] = []

    @oz.sink
    class File:
        def write(self, n: int) -> None:
            log.append("write")

        def flush(self) -> None:
            log.append("flush")

        def sync(self) -> None:
            log.append("sync")

        def position(self) -> int:
            log.append("position")
            return 0

        def resume(self, position: int | None) -> None: ...

    journal = Synced(log) if level == "fsync" else None
    sound(play(oz.Flow("f", ints(30) >> File, window=oz.Window(events=4)), journal=journal, real=True))
    assert log.count("write") == 30
    if level == "memory":
        assert "sync" not in log
        return
    for place, told in enumerate(log):
        if told == "receipt":
            assert log[place - 3 : place] == ["flush", "sync", "position"]
    assert log.count("receipt") >= 8


def test_a_sync_that_fails_fails_the_flow_and_its_events_have_no_receipt():
    log: list[str] = []
    closed = []

    @oz.sink
    class Full:
        def write(self, n: int) -> None: ...

        def sync(self) -> None:
            raise OSError(28, "No space left on device")

        def flush(self) -> None: ...

        def close(self) -> None:
            closed.append(1)

    played = play(oz.Flow("f", ints(3) >> Full), journal=Synced(log), real=True)
    assert played.state == "failed"
    assert "No space left" in played.error.message
    assert log == []
    assert closed == [1]


async def test_a_writer_is_not_closed_under_the_thread_that_syncs_it(tmp_path):
    begun, go_on, log = threading.Event(), threading.Event(), []

    @oz.sink
    class File:
        def write(self, n: int) -> None: ...

        def sync(self) -> None:
            begun.set()
            go_on.wait(10)
            log.append("synced")

        def flush(self) -> None: ...

        def close(self) -> None:
            log.append("closed")

    async with oz.start(oz.Flow("f", ints(3) >> File), journal=tmp_path, durability="fsync") as handle:
        await until(begun.is_set)
        asyncio.get_running_loop().call_later(0.1, go_on.set)
        assert (await handle.cancel()).state == "cancelled"
    assert log == ["synced", "closed"]
