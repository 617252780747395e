"""Where a flow meets a process or a loop: `run` owns the one, `start` is a guest in the other."""

import asyncio
import gc
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import obzen_runtime as oz
from obzen_runtime.events import ActorCompleted, ActorStalled, Block, RunCancelled, RunCompleted, RunStarted
from obzen_runtime.host import execute
from obzen_runtime.journal import RunDirectory, SegmentJournal, SegmentReader
from obzen_runtime.kernel import UsageError
from tests.flow.kit import Seen, Valve, forever, ints, same, total, until


def flow_of(seen, valve=None, name="f"):
    return oz.Flow(name, (valve.source() if valve else ints(100)) >> same() >> seen.sink())


def memory():
    return oz.MemoryJournal(keep=True)


def watchdogs():
    return [thread for thread in threading.enumerate() if thread.name == "obzen-watchdog"]


async def kept(journal):
    return [entry.record async for entry in journal.read()]


# -- the life of a handle ---------------------------------------------------------------------------


async def test_leaving_the_block_waits_for_the_end():
    seen = Seen()
    async with oz.start(flow_of(seen), journal=memory()) as handle:
        pass
    assert (handle.state, seen) == ("drained", list(range(100)))


async def test_wait_gives_the_report_and_gives_it_again():
    async with oz.start(flow_of(Seen()), journal=memory()) as handle:
        first, second = await asyncio.gather(handle.wait(), handle.wait())
    assert first == second == await handle.wait()
    assert (first.state, first.error, first.reason) == ("drained", None, "drained")
    assert first.stages["t"].received == first.stages["t"].emitted == 100
    assert first.stages["t"].state == "drained"
    assert [(each.edge, each.written, each.passed) for each in first.contracts] == [("s -> t", 100, True), ("t -> k", 100, True)]


async def test_a_failed_flow_is_a_report_not_an_exception():
    @oz.transform(on_error="fail")
    def t(number: int) -> int:
        raise ValueError("no")

    async with oz.start(oz.Flow("f", ints(3) >> t >> Seen().sink()), journal=memory()) as handle:
        report = await handle.wait()
    assert (report.state, report.error.message) == ("failed", "no")


@pytest.mark.parametrize(
    ("order", "state", "reason"),
    [("stop", "cancelled", "user_stop"), ("drain", "drained", "drained"), ("cancel", "cancelled", "user_cancel")],
)
async def test_orders_return_the_report_of_the_end(order, state, reason):
    valve = Valve(opened=10)
    async with oz.start(flow_of(Seen(), valve), journal=memory()) as handle:
        report = await getattr(handle, order)()
    assert (report.state, report.reason) == (state, reason)


async def test_orders_by_several_at_once_return_one_report():
    journal = memory()
    async with oz.start(oz.Flow("f", forever() >> Seen().sink()), journal=journal) as handle:
        reports = await asyncio.gather(handle.stop(), handle.drain(), handle.stop(), handle.cancel())
    assert {report.state for report in reports} == {"cancelled"}
    assert sum(isinstance(record, RunCancelled) for record in await kept(journal)) == 1


async def test_orders_after_the_end_change_nothing():
    async with oz.start(flow_of(Seen()), journal=memory()) as handle:
        report = await handle.wait()
    handle.pause()
    handle.resume()
    handle.start()
    assert [await handle.stop(), await handle.drain(), await handle.cancel()] == [report] * 3


async def test_pause_and_resume():
    valve, seen = Valve(opened=10), Seen()
    async with oz.start(flow_of(seen, valve), journal=memory()) as handle:
        await until(lambda: len(seen) == 10)
        handle.pause()
        await until(lambda: handle.state == "paused")
        valve.give(5)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(seen) == 10
        valve.end()
        handle.resume()
    assert seen == list(range(15))


async def test_a_manual_flow_waits_for_start():
    seen = Seen()
    async with oz.start(flow_of(seen), journal=memory(), manual=True) as handle:
        await until(lambda: handle.state == "ready_for_run")
        assert seen == []
        handle.start()
    assert len(seen) == 100


async def test_a_start_before_the_block_is_remembered():
    seen = Seen()
    handle = oz.start(flow_of(seen), journal=memory(), manual=True)
    handle.start()
    async with handle:
        pass
    assert len(seen) == 100


async def test_leaving_the_block_by_an_exception_cancels():
    journal = memory()
    with pytest.raises(KeyError, match="mine"):
        async with oz.start(oz.Flow("f", forever() >> Seen().sink()), journal=journal) as handle:
            raise KeyError("mine")
    assert (handle.state, (await handle.wait()).reason) == ("cancelled", "user_cancel")


async def test_cancelling_the_task_that_waits_cancels_the_run_and_is_not_swallowed():
    async def main():
        async with oz.start(oz.Flow("f", forever() >> Seen().sink()), journal=memory()) as handle:
            handles.append(handle)
            await handle.wait()

    handles = []
    task = asyncio.ensure_future(main())
    await until(lambda: handles and handles[0].state == "running")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (handles[0].state, handles[0].report().reason) == ("cancelled", "user_cancel")


async def test_cancelling_it_many_times_leaves_nothing_behind():
    async def main():
        async with oz.start(oz.Flow("f", forever() >> same() >> Seen().sink()), journal=memory()) as handle:
            handles.append(handle)
            await handle.wait()

    handles, before = [], watchdogs()
    task = asyncio.ensure_future(main())
    await until(lambda: handles and handles[0].state == "running")
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert handles[0].state == "cancelled"
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert watchdogs() == before


async def test_a_timeout_around_the_block_cancels_the_run():
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            async with oz.start(oz.Flow("f", forever() >> Seen().sink()), journal=memory()) as handle:
                pass
    assert handle.state == "cancelled"


async def test_a_handle_is_for_one_run_and_says_so():
    handle = oz.start(flow_of(Seen()), journal=memory())
    with pytest.raises(UsageError, match="async with"):
        await handle.wait()
    async with handle:
        with pytest.raises(UsageError, match="once"):
            handle.begin()
    with pytest.raises(UsageError, match="once"):
        async with handle:
            pass
    assert handle.state == "drained"


async def test_metrics_and_reports_of_a_running_flow():
    valve, seen = Valve(opened=10), Seen()
    async with oz.start(flow_of(seen, valve), journal=memory()) as handle:
        await until(lambda: len(seen) == 10)
        metrics, report = handle.metrics(), handle.report()
        valve.end()
    assert set(metrics) == {"s", "t", "k"}
    assert (metrics["s"]["emitted"], metrics["t"]["received"], metrics["t"]["dead"], metrics["k"]["waiting"]) == (10, 10, 0, 0)
    assert (report.state, report.stages["k"].state) == ("running", "running")


async def test_records_are_told_as_they_are_written_to_the_end():
    journal, told = memory(), []

    async def listen(handle):
        async for position, record in handle.records():
            told.append((position, record))

    async with oz.start(flow_of(Seen()), journal=journal) as handle:
        listening = asyncio.ensure_future(listen(handle))
    await asyncio.wait_for(listening, 5)
    assert [record for _, record in told] == await kept(journal)
    assert [position for position, _ in told] == list(range(1, journal.head + 1))
    assert isinstance(told[0][1], RunStarted)
    assert isinstance(told[-2][1], RunCompleted)
    assert isinstance(told[-1][1], ActorCompleted)


async def test_records_of_a_stage_that_bears_the_name_of_its_flow_do_not_end_early():
    told = []

    async def listen(handle):
        async for _, record in handle.records():
            told.append(record)

    async with oz.start(oz.Flow("s", ints(10, "s") >> total() >> Seen().sink()), journal=memory()) as handle:
        listening = asyncio.ensure_future(listen(handle))
    await asyncio.wait_for(listening, 5)
    assert isinstance(told[-2], RunCompleted)


async def test_two_flows_run_in_one_loop():
    one, other = Seen(), Seen()
    async with oz.start(flow_of(one), journal=memory()) as first, oz.start(flow_of(other), journal=memory()) as second:
        reports = await asyncio.gather(first.wait(), second.wait())
    assert [report.state for report in reports] == ["drained", "drained"]
    assert one == other == list(range(100))
    assert first.run_id != second.run_id


async def test_the_same_flow_runs_twice_beside_itself():
    seen = Seen()
    flow = flow_of(seen)
    async with oz.start(flow, journal=memory()), oz.start(flow, journal=memory()):
        pass
    assert sorted(seen) == sorted([*range(100), *range(100)])


async def test_a_flow_that_fails_harms_no_other():
    @oz.transform(on_error="fail")
    def t(number: int) -> int:
        raise ValueError("no")

    seen = Seen()
    async with (
        oz.start(oz.Flow("bad", ints(3) >> t >> Seen().sink()), journal=memory()) as bad,
        oz.start(flow_of(seen), journal=memory()) as good,
    ):
        assert [(await bad.wait()).state, (await good.wait()).state] == ["failed", "drained"]


class Behind(oz.MemoryJournal):
    """A journal in which the look back takes until it is let go."""

    def __init__(self) -> None:
        super().__init__(keep=True)
        self.looked, self.open = asyncio.Event(), asyncio.Event()
        self.open.set()

    async def last(self, kinds):
        self.looked.set()
        await self.open.wait()
        return await super().last(kinds)


@pytest.mark.parametrize(("order", "state", "reason"), [("stop", "cancelled", "user_stop"), ("cancel", "cancelled", "user_cancel")])
async def test_an_order_that_comes_during_the_look_back_is_obeyed_behind_it(order, state, reason):
    journal, seen = Behind(), Seen()
    async with oz.start(flow_of(seen, Valve(opened=10)), journal=journal) as handle:
        await until(lambda: len(seen) == 10)
        await handle.stop()
    journal.looked.clear()
    journal.open.clear()
    async with oz.start(flow_of(seen, valve := Valve(opened=20)), journal=journal) as handle:
        await journal.looked.wait()
        ordered = asyncio.ensure_future(getattr(handle, order)())
        await until(lambda: handle.pipeline._orders)
        journal.open.set()
        report = await ordered
    assert (report.state, report.reason, seen) == (state, reason, list(range(10)))
    assert handle.resumed
    valve.end()
    async with oz.start(flow_of(seen, valve), journal=journal) as handle:
        pass
    assert (handle.state, seen) == ("drained", list(range(20)))


async def test_leaving_the_block_by_an_exception_during_the_look_back_cancels():
    journal = Behind()
    async with oz.start(flow_of(Seen(), Valve(opened=10)), journal=journal) as handle:
        await handle.stop()
    journal.looked.clear()
    journal.open.clear()
    with pytest.raises(KeyError, match="mine"):
        async with oz.start(flow_of(Seen(), Valve()), journal=journal) as handle:
            await journal.looked.wait()
            asyncio.get_running_loop().call_soon(journal.open.set)
            raise KeyError("mine")
    assert (handle.state, handle.report().reason) == ("cancelled", "user_cancel")


# -- a guest changes nothing ------------------------------------------------------------------------


def settings():
    return (
        [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
        sys.getswitchinterval(),
        sys.excepthook,
        threading.excepthook,
        gc.isenabled(),
        gc.get_threshold(),
    )


async def test_start_changes_no_global_setting():
    as_it_was, before, inside = settings(), watchdogs(), []

    @oz.transform
    def look(number: int) -> int:
        inside.append(settings())
        return number

    async with oz.start(oz.Flow("f", ints(3) >> look >> Seen().sink()), journal=memory()):
        assert settings() == as_it_was
    assert settings() == as_it_was
    assert inside
    assert all(each == as_it_was for each in inside)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert watchdogs() == before


async def test_start_leaves_the_loops_handlers_alone():
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler(), loop.get_debug(), asyncio.get_event_loop_policy()
    async with oz.start(flow_of(Seen()), journal=memory()):
        assert (loop.get_exception_handler(), loop.get_debug(), asyncio.get_event_loop_policy()) == before


async def test_start_works_outside_the_main_thread():
    states = []

    def body():
        async def main():
            async with oz.start(flow_of(Seen()), journal=memory()) as handle:
                states.append((await handle.wait()).state)

        asyncio.run(main())

    thread = threading.Thread(target=body)
    thread.start()
    await asyncio.get_running_loop().run_in_executor(None, thread.join)
    assert states == ["drained"]


async def test_a_handler_that_holds_the_loop_is_on_record_with_its_stack(monkeypatch):
    journal, released = memory(), threading.Event()

    @oz.transform
    def stubborn(number: int) -> int:
        released.wait(0.4)
        return number

    handle = oz.start(oz.Flow("f", ints(1) >> stubborn >> Seen().sink()), journal=journal)
    handle.watchdog.held_after = 0.1
    handle.watchdog.period = 0.02
    async with handle:
        pass
    (stall,) = [record for record in await kept(journal) if isinstance(record, ActorStalled)]
    assert (stall.actor, stall.why) == ("stubborn", "loop_held")
    assert ", in stubborn" in stall.detail
    assert stall.seconds >= 0.1


# -- the owner of a process -------------------------------------------------------------------------


async def test_run_inside_a_loop_says_what_to_use():
    with pytest.raises(UsageError) as caught:
        oz.run(flow_of(Seen()), journal=memory())
    assert "async with oz.start(flow)" in caught.value.remedy


def test_run_returns_the_report_and_leaves_the_process_as_it_was(capsys):
    before, inside, seen = settings(), [], Seen()

    @oz.transform
    def look(number: int) -> int:
        inside.append(sys.getswitchinterval())
        return number

    report = oz.run(oz.Flow("f", ints(3) >> look >> seen.sink()), journal=memory())
    assert (report.state, seen) == ("drained", [0, 1, 2])
    assert settings() == before
    assert inside == pytest.approx([0.0002] * 3)
    assert capsys.readouterr().err == "drained\n"


def test_run_raises_with_the_report_when_the_flow_failed():
    before = settings()

    @oz.transform(on_error="fail")
    def t(number: int) -> int:
        raise oz.Permanent("no such account", remedy="Open it.")

    with pytest.raises(oz.FlowFailed) as caught:
        oz.run(oz.Flow("f", ints(3) >> t >> Seen().sink()), journal=memory())
    assert caught.value.report.state == "failed"
    assert "no such account" in str(caught.value)
    assert caught.value.remedy == "Open it."
    assert settings() == before


def test_run_outside_the_main_thread_is_refused_before_anything_is_made(tmp_path):
    raised = []

    def body():
        try:
            oz.run(flow_of(Seen()), journal=tmp_path / "runs")
        except UsageError as error:
            raised.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert "main thread" in str(raised[0])
    assert not (tmp_path / "runs").exists()


def test_execute_runs_a_watcher_beside_the_flow_and_ends_it():
    ended = []

    async def watch(handle):
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(handle.state)

    report, number = execute(flow_of(Seen()), journal=memory(), watch=watch)
    assert (report.state, number, ended) == ("drained", None, ["drained"])


# -- on the disk ------------------------------------------------------------------------------------


async def _whole(handle):
    async with handle:
        return await handle.wait()


def test_a_run_is_kept_under_its_directory(tmp_path, capsys):
    report = oz.run(flow_of(Seen()), journal=tmp_path / "runs", run_id="mine")
    assert report.run_id == "mine"
    assert Path(report.directory) == tmp_path / "runs" / "mine"
    assert RunDirectory(Path(report.directory)).state() == "drained"
    assert "obzen inspect" in capsys.readouterr().err


def test_a_run_id_may_not_lead_out_of_the_directory(tmp_path):
    for name in ("../x", "a/b", "", ".", "x" * 300, "a\0b"):
        with pytest.raises((oz.ObzenError, ValueError)):
            oz.run(flow_of(Seen()), journal=tmp_path / "runs", run_id=name)
    assert not (tmp_path / "x").exists()


def test_a_parameter_that_is_not_bound_is_told_before_a_directory_is_made(tmp_path):
    @oz.source
    def rows(path: str) -> Iterator[int]:
        yield 1

    with pytest.raises(oz.ObzenError, match="1 problem"):
        oz.run(oz.Flow("f", rows >> Seen().sink()), journal=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


async def test_what_was_seen_is_on_the_disk_when_it_is_seen(tmp_path):
    """At level `os` a sink never sees an event whose block another process could not read."""
    seen, missing, directories = [], [], []

    @oz.sink
    async def k(number: int) -> None:
        records = [entry.record async for entry in SegmentReader.open(directories[0]).read()]
        if sum(record.count for record in records if isinstance(record, Block) and record.stage == "s") <= number:
            missing.append(number)
        seen.append(number)

    handle = oz.start(oz.Flow("f", ints(50) >> k), journal=tmp_path)
    directories.append(handle.directory)
    async with handle:
        pass
    assert (len(seen), missing) == (50, [])


@pytest.mark.parametrize("failed", [False, True])
async def test_a_journal_that_cannot_be_closed_is_told_unless_something_else_failed_first(failed, tmp_path, monkeypatch):
    async def close(self):
        await closed(self)
        raise oz.ObzenError("the disk went away")

    closed = SegmentJournal.close
    monkeypatch.setattr(SegmentJournal, "close", close)

    @oz.transform(on_error="fail")
    def t(number: int) -> int:
        if failed:
            raise ValueError("first")
        return number

    handle = oz.start(oz.Flow("f", ints(3) >> t >> Seen().sink()), journal=tmp_path)
    if failed:
        assert (await _whole(handle)).error.message == "first"
    else:
        with pytest.raises(oz.ObzenError, match="the disk went away"):
            await _whole(handle)
