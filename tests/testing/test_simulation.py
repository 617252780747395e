"""Flows of every kind through drawn histories of crashes; 2,000 seeds on every push."""

import os
import re
import sys
from collections import Counter
from collections.abc import Iterator

import msgspec
import pytest

import obzen_runtime as oz
from obzen_runtime.connect import csv_sink, jsonl_sink, sqlite_sink
from obzen_runtime.kernel import ConfigInvalid, Wake
from obzen_runtime.testing import Crash, Options, Plan, Simulator, simulate, world
from obzen_runtime.testing.flows import FLOWS

SEEDS = int(os.environ.get("OBZEN_SEEDS", "2000"))
LEVELS = ("os", "fsync")
SHARE = -(-SEEDS // (len(FLOWS) * len(LEVELS)))


@pytest.mark.timeout(3600 if SEEDS > 2000 else 120)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", FLOWS)
def test_T_SIM_no_history_of_crashes_loses_doubles_or_changes_anything(name, level):
    report = simulate(FLOWS[name], SHARE, options=Options(durability=level))
    sys.stdout.write(f"{name} at {level}: {report.seeds} seeds, {report.processes} processes\n")
    assert report.passed, str(report)
    assert report.processes > report.seeds or SHARE < 10, "no history had a crash"  # one in twenty has none


@pytest.mark.parametrize("name", ["transform", "fan_out", "per_key"])
def test_a_kill_behind_every_single_append(name):
    simulator = Simulator(FLOWS[name], Options(items=5))
    plans = list(simulator.exhaustive(0))
    assert len(plans) > 30
    for plan in plans:
        found = simulator.violation(plan)
        assert found is None, found


@pytest.mark.parametrize("name", ["transform", "fan_in", "concurrent", "sensitive"])
def test_a_seed_alone_and_after_others_leaves_the_same_bytes(name):
    alone = [simulator.history(simulator.plan(seed)).digest for seed in (3, 7) for simulator in [Simulator(FLOWS[name])]]
    simulator = Simulator(FLOWS[name])
    after = [simulator.history(simulator.plan(seed)).digest for seed in range(8)]
    assert [after[3], after[7]] == alone
    assert len(set(after)) == len(after), "every seed has a history of its own"


def test_seeds_draw_every_kind_of_crash():
    simulator = Simulator(FLOWS["fan_out"])
    drawn, true = Counter(), Counter()
    for seed in range(60):
        plan = simulator.plan(seed)
        assert 1 <= len(plan.crashes) <= 5
        drawn.update(crash.kind for crash in plan.crashes)
        true.update(life.crash.kind for life in simulator.history(plan).machine.lives if life.crash)
    kinds = {"kill", "delivery", "power", "eio", "enospc", "stop", "cancel"}
    assert drawn.keys() == true.keys() == kinds, "each is drawn, and comes true"


@pytest.mark.parametrize("skew", [3_600_000, -3_600_000, -86_400_000_000])
def test_T_CLK_jumps_of_the_clock_change_nothing(skew):
    simulator = Simulator(FLOWS["per_key"])
    for at in (20, 40, 60):
        plan = Plan(seed=1, items=40, crashes=(Crash(kind="kill", at=at),), skew=skew)
        assert simulator.violation(plan) is None


@pytest.mark.parametrize("kept", [0.0, 0.5, 1.0])
def test_a_loss_of_power_at_level_fsync_loses_nothing_acknowledged(kept):
    simulator = Simulator(FLOWS["transform"], Options(durability="fsync", items=20))
    for at in range(1, 90, 2):
        plan = Plan(seed=at, items=20, crashes=(Crash(kind="power", at=at, torn=0.5, kept=kept),))
        assert simulator.violation(plan) is None


def test_receipts_that_the_power_took_let_a_safe_sink_deliver_again_without_blame():
    @oz.source
    def many() -> Iterator[int]:
        yield from range(3000)

    @oz.sink
    def show(number: int) -> None: ...

    simulator, most = Simulator(oz.Flow("many", many >> show), Options(durability="fsync", items=None)), 0
    for at in range(20, 60, 3):
        history = simulator.history(Plan(seed=1, items=None, delay=0.2, crashes=(Crash(kind="power", at=at, kept=0.0),)))
        assert not history.problems
        most = max(most, history.machine.world.places["show"].counted().total() - 3000)
    assert most > 256, "several receipts of 256 events were lost"


def test_a_loss_of_power_at_level_interval_takes_no_more_than_the_interval():
    simulator = Simulator(FLOWS["transform"], Options(durability="interval(20)"))
    kept = 0
    for at in range(10, 80, 2):
        plan = Plan(seed=at, items=60, look=3e-4, crashes=(Crash(kind="power", at=at, kept=0.0),))
        history = simulator.history(plan)
        assert not history.problems
        second = history.machine.lives[-1]
        kept += bool(second.marks and second.marks[0].position > 5)
    assert kept > 10, "nothing was ever synced"
    assert simulate(FLOWS["fan_out"], 30, options=Options(durability="interval(20)")).passed


def test_what_a_loss_of_power_takes_at_level_os_is_what_was_never_synced():
    simulator = Simulator(FLOWS["transform"], Options(items=20))
    lost = []
    for at in range(10, 55):
        plan = Plan(seed=at, items=20, crashes=(Crash(kind="power", at=at, kept=0.0),))
        history = simulator.history(plan)
        assert not history.problems
        first, second = history.machine.lives
        assert second.ending == "drained"
        lost.append(first.head - (second.marks[0].position - 1) if second.marks else 0)
    assert max(lost) > 10, "everything since the start may go"
    assert min(lost) >= 0


class Paid(msgspec.Struct, frozen=True):
    number: int


@oz.source
def payments() -> Iterator[Paid]:
    for number in range(20):
        yield Paid(number)


def test_a_sink_that_says_it_is_keyed_and_ignores_the_key_is_found_and_its_seed_fails_again():
    def insert(paid: Paid, *, key: oz.IdempotencyKey) -> None:
        world().append("payments", paid)

    @oz.sink(delivery="keyed", simulate=insert)
    def store(paid: Paid, *, key: oz.IdempotencyKey) -> None:
        raise AssertionError("the real one is not called")

    flow = oz.Flow("pay", payments >> store)
    report = simulate(flow, 500)
    assert not report.passed
    found = report.violation
    assert "sink store says it is keyed: in payments there is {'number': " in found.problems[0]
    assert "twice, once is right" in found.problems[0]
    assert not simulate(flow, [found.seed]).passed
    assert len(found.plan.crashes) == 1, "one crash is enough to show it"
    assert found.plan.items == 1


def test_a_sink_without_a_stand_in_whose_code_never_looks_at_its_key_is_found_too():
    @oz.sink(delivery="keyed")
    def store(paid: Paid, *, key: oz.IdempotencyKey) -> None:
        """Says what it does not do."""

    @oz.sink(delivery="keyed")
    def upsert(paid: Paid, *, key: oz.IdempotencyKey) -> None:
        raise AssertionError(f"{key}: the real one is not called")

    report = simulate(oz.Flow("pay", payments >> store), 500)
    (problem,) = report.violation.problems
    assert re.fullmatch(r"sink store \(keyed\) delivered \{'number': \d+\} twice, once is right", problem)
    assert simulate(oz.Flow("pay", payments >> upsert), 100).passed


def test_the_same_sink_with_an_upsert_is_not():
    def upsert(paid: Paid, *, key: oz.IdempotencyKey) -> None:
        world().put("payments", key, paid)

    @oz.sink(delivery="keyed", simulate=upsert)
    def store(paid: Paid, *, key: oz.IdempotencyKey) -> None:
        raise AssertionError("the real one is not called")

    report = simulate(oz.Flow("pay", payments >> store), 100)
    assert report.passed, str(report)


def test_a_flow_that_fails_without_any_crash_is_told_so():
    @oz.transform(on_error="fail")
    def broken(paid: Paid) -> Paid:
        raise oz.Permanent("no")

    @oz.sink
    def show(paid: Paid) -> None: ...

    with pytest.raises(oz.ObzenError, match="does not drain even without a crash: process 1 ended failed: no"):
        simulate(oz.Flow("f", payments >> broken >> show), 1)


def test_a_handler_that_waits_for_ever_is_a_deadlock_with_its_place():
    @oz.transform
    async def waits(paid: Paid) -> Paid:
        await Wake().wait()
        return paid

    @oz.sink
    def show(paid: Paid) -> None: ...

    with pytest.raises(oz.ObzenError, match="everything waits and no timer is set"):
        simulate(oz.Flow("f", payments >> waits >> show), 1)


def test_real_calls_the_sinks_own_handlers():
    seen = []

    @oz.sink
    def show(paid: Paid) -> None:
        seen.append(paid.number)

    flow = oz.Flow("pay", payments >> show)
    assert simulate(flow, 3).passed
    assert not seen
    assert simulate(flow, 3, options=Options(real=True)).passed
    assert set(seen) == set(range(20))


def test_items_bound_what_sources_give():
    @oz.source
    def endless() -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    @oz.sink
    def show(number: int) -> None: ...

    simulator = Simulator(oz.Flow("f", endless >> show), Options(items=7))
    history = simulator.history(simulator.plan(0))
    assert not history.problems
    assert len(history.machine.world.places["show"].rows) >= 7
    assert max(history.machine.world.places["show"].rows) == b"\x06"


def test_sinks_of_files_and_tables_are_replaced_and_touch_nothing(tmp_path):
    files = [csv_sink("rows", Paid, path=tmp_path / "rows.csv"), jsonl_sink("lines", Paid, path=tmp_path / "lines.jsonl")]
    report = simulate(oz.Flow("files", payments >> [*files, sqlite_sink("kept", Paid, path=tmp_path / "kept.db", table="paid")]), 8)
    assert report.passed, str(report)
    assert not list(tmp_path.iterdir())


def test_without_a_bound_sources_give_all_they_have():
    assert simulate(oz.Flow("pay", payments >> _show()), 3, options=Options(items=None)).passed
    with pytest.raises(ConfigInvalid, match="at least 1"):
        Options(items=0)


def test_a_run_in_memory_cannot_be_simulated():
    with pytest.raises(oz.ObzenError, match="survives no crash"):
        Simulator(FLOWS["transform"], Options(durability="memory"))


def _show():
    @oz.sink
    def show(paid: Paid) -> None: ...

    return show


def test_T_DUP_a_source_that_gives_everything_twice_is_delivered_twice_and_no_more():
    @oz.source
    def twice() -> Iterator[int]:
        for number in range(20):
            yield number
            yield number

    @oz.sink(delivery="keyed")
    def upsert(number: int, *, key: oz.IdempotencyKey) -> None:
        str(key)

    report = simulate(oz.Flow("dup", twice >> upsert), 40)
    assert report.passed, str(report)


def test_a_source_that_seeks_goes_on_from_its_offsets():
    begun = []

    @oz.source
    def seeking(start: oz.Offset | None = None) -> Iterator[oz.At[int, int]]:
        begun.append(start)
        for number in range(0 if start is None else start + 1, 30):
            yield oz.At(number, 10 * number)

    @oz.sink
    def show(number: int) -> None: ...

    simulator = Simulator(oz.Flow("seek", seeking >> show))
    for at in range(5, 60, 2):
        plan = Plan(seed=at, items=25, look=3e-4, crashes=(Crash(kind="kill", at=at),))
        found = simulator.violation(plan)
        assert found is None, found
    assert len(set(begun)) > 3, "few histories went on behind an offset"
