"""How a replay is asked for, and of which runs: in memory, on disk, living, resumed, or not whole any more."""

import asyncio
import inspect
import tracemalloc
import types
from collections.abc import Iterator

import msgspec
import pytest

import obzen_runtime as oz
from obzen_runtime.flow import replay
from obzen_runtime.journal import RunDirectory, SegmentReader, fork
from tests.flow.kit import Seen, Valve, ints, play, until
from tests.flow.replaying import plain, recorded, same, summed


def test_memory_stays_flat():
    def peak(count):
        flow = oz.Flow("f", ints(count) >> plain(same) >> summed >> Seen().sink())
        journal, _ = recorded(flow)
        tracemalloc.start()
        try:
            assert replay(flow, journal).certified
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1000)
    assert peak(60_000) < peak(15_000) + 500_000


def test_a_journal_that_forgot_its_beginning_is_refused():
    journal = oz.MemoryJournal()
    flow = oz.Flow("f", ints(20_000) >> plain(same) >> Seen().sink())
    play(flow, journal=journal)
    with pytest.raises(oz.ObzenError, match="dropped"):
        replay(flow, journal)


OTHERS = {
    "t is gone; u is new": lambda: oz.Flow("f", ints(5) >> plain(same, name="u") >> Seen().sink()),
    "m is new": lambda: oz.Flow("f", ints(5) >> plain(same) >> [Seen().sink(), Seen().sink("m")]),
    "of flow 'f', not 'g'": lambda: oz.Flow("g", ints(5) >> plain(same) >> Seen().sink()),
    "stage k reads (s, t|t, s), and read t in run": lambda: oz.Flow("f", (s := ints(5)) >> plain(same) >> (k := Seen().sink()), s >> k),
}


@pytest.mark.parametrize("told", OTHERS)
def test_a_flow_with_other_stages_is_refused(told):
    journal, _ = recorded(oz.Flow("f", ints(5) >> plain(same) >> Seen().sink()))
    with pytest.raises(oz.ObzenError, match=told) as caught:
        replay(OTHERS[told](), journal)
    assert caught.value.code == "flow_changed"
    assert "the flow it was started with" in caught.value.remedy


async def _inside(flow, journal):
    with pytest.raises(oz.ObzenError, match=r"oz\.replaying"):
        replay(flow, journal)
    return await oz.replaying(flow, journal)


@pytest.mark.parametrize(
    ("name", "kind", "why"), [("rows", int, "there is no 'count'"), ("count", bytes | None, "Expected `bytes | null`, got `int`")]
)
def test_parameters_that_the_flow_does_not_take_any_more_are_told(name, kind, why, tmp_path):
    def flow(name, kind):
        def s(**parameters) -> Iterator[int]:
            yield 1

        s.__signature__ = inspect.Signature([inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)])
        s.__annotations__ = {name: kind, "return": Iterator[int]}
        return oz.Flow("f", oz.source(s) >> Seen().sink())

    oz.run(flow("count", int | None).bind({"s": {"count": ["3"]}}), journal=tmp_path, run_id="r")
    with pytest.raises(oz.ObzenError) as caught:
        replay(flow(name, kind), "r", journal=tmp_path)
    assert caught.value.code == "flow_changed"
    assert caught.value.message == (f"flow 'f' does not take the parameters that the run was started with, s: {{'count': 3}} ({why})")


def test_inside_a_loop_it_is_awaited():
    flow = oz.Flow("f", ints(5) >> plain(same) >> Seen().sink())
    journal, _ = recorded(flow)
    assert asyncio.run(_inside(flow, journal)).certified


def test_a_run_on_disk_is_named_by_its_id_and_tells_whether_its_code_changed(tmp_path):
    @oz.transform
    def t(number: int) -> int:
        return number

    @oz.transform
    def changed(number: int) -> int:
        return number if number < 40 else 0

    flow, other = (oz.Flow("f", ints(50) >> stage >> Seen().sink()) for stage in (t, changed.named("t")))
    assert oz.run(flow, journal=tmp_path, run_id="first").state == "drained"
    report = oz.replay(flow, "first", journal=tmp_path)
    assert report.certified
    assert report.stages["t"].code_changed is False
    found = oz.replay(other, tmp_path / "first").differences[0]
    assert (found.event, found.code_changed) == ("t@40", True)
    assert "t@40" in str(found)
    assert "its code changed since the run" in str(found)


def test_a_replay_leaves_modules_alone_that_load_their_parts_when_asked(monkeypatch):
    class Lazy(types.ModuleType):
        def __getattr__(self, name):
            raise ImportError(f"{name} is not installed")

    monkeypatch.setitem(globals(), "lazy", Lazy("lazy"))

    @oz.transform
    def t(number: int) -> int:
        return lazy.part if number < 0 else next(numbers)  # noqa: F821

    numbers = iter(range(100))
    flow = oz.Flow("f", ints(5) >> t >> Seen().sink())
    assert [each.event for each in replay(flow, recorded(flow)[0]).differences] == ["t@0"]


@pytest.mark.parametrize(
    ("elsewhere", "why"),
    [
        ({"versions": {"python": "2.7.18"}}, "the run was made under Python 2.7.18, this is "),
        ({"platform": "Plan9-4-mips"}, "the run was made on Plan9-4-mips, this is "),
    ],
)
def test_a_difference_to_a_run_of_another_python_or_machine_proves_nothing_and_sameness_does(elsewhere, why, tmp_path):
    flow = oz.Flow("f", ints(5) >> plain(same) >> Seen().sink())
    oz.run(flow, journal=tmp_path, run_id="r")
    place = RunDirectory(tmp_path / "r")
    place.write_manifest(msgspec.structs.replace(place.read_manifest(), **elsewhere))
    report = replay(flow, "r", journal=tmp_path)
    assert (report.certified, report.comparable, report.reason) == (True, False, "")
    report = replay(oz.Flow("f", ints(5) >> plain(lambda n: n + 1) >> Seen().sink()), "r", journal=tmp_path)
    assert (report.certified, report.comparable) == (False, False)
    assert report.reason.startswith(why)


def test_a_run_that_had_not_begun_is_told_so():
    with pytest.raises(oz.ObzenError, match="had not begun"):
        replay(oz.Flow("f", ints(5) >> Seen().sink()), oz.MemoryJournal(keep=True))


def test_a_run_that_is_gone_on_with_after_a_fork_replays_with_the_chance_of_each_part(tmp_path):
    @oz.transform
    def t(number: int, ctx: oz.Context) -> int:
        return number + int(ctx.random.random() * 1000)

    valve, again = Valve(), Valve(opened=60)
    again.end()
    flows = [oz.Flow("f", each.source() >> t >> Seen().sink(), window=oz.Window(events=10)) for each in (valve, again)]

    async def stopped():
        async with oz.start(flows[0], journal=tmp_path, run_id="first") as handle:
            valve.give(30)
            await until(lambda: handle.metrics()["t"]["received"] >= 30)
            return await handle.stop()

    asyncio.run(stopped())
    origin = RunDirectory(tmp_path / "first")
    fork(origin, tmp_path, "second", at=SegmentReader.open(origin.path).head, live=True)
    assert oz.resume(flows[1], "second", journal=tmp_path).state == "drained"
    report = replay(flows[1], "second", journal=tmp_path)
    assert (report.certified, report.run_id, report.stages["t"].recorded) == (True, "second", 60)


def test_a_run_that_lives_is_replayed_up_to_now_and_goes_on(tmp_path):
    async def live():
        valve = Valve()
        flow = oz.Flow("f", valve.source() >> plain(same) >> summed >> Seen().sink())
        async with oz.start(flow, journal=tmp_path, run_id="live") as handle:
            valve.give(3000)
            await until(lambda: handle.metrics()["t"]["received"] >= 2000)
            report = await oz.replaying(flow, "live", journal=tmp_path)
            valve.end()
        return report, await handle.wait()

    report, ended = asyncio.run(live())
    assert (report.certified, report.complete) == (True, False)
    assert report.stages["t"].recorded >= 2000
    assert "without an end" in report.reason
    assert ended.state == "drained"


def test_a_resumed_run_replays_as_one(tmp_path):
    async def stopped(flow, valve):
        async with oz.start(flow, journal=tmp_path, run_id="twice") as handle:
            valve.give(3000)
            await until(lambda: handle.metrics()["t"]["received"] >= 2000)
            return await handle.stop()

    @oz.transform
    def t(number: int, ctx: oz.Context) -> int:
        return number + int(ctx.random.random() * 1000) + ctx.now().microsecond

    valve, again = Valve(), Valve(opened=6000)
    again.end()
    flows = [oz.Flow("f", each.source() >> t >> summed >> Seen().sink()) for each in (valve, again)]
    assert asyncio.run(stopped(flows[0], valve)).state == "cancelled"
    assert oz.resume(flows[1], "twice", journal=tmp_path).state == "drained"
    report = oz.replay(flows[1], "twice", journal=tmp_path)
    assert report.differences == ()
    assert (report.certified, report.complete) == (True, True)
    assert report.stages["t"].recorded == 6000
