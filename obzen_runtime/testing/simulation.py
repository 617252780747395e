"""Simulate a flow: its real code through drawn crashes, seed by seed, and every promise checked after each.

A seed is a history: processes that live one after the other on one simulated machine, each but the last ended by a
crash that the seed draws, then one without faults that must finish. A history is held to undisturbed ones, to what was
acknowledged in it, and to the classes of delivery that sinks declare. One that fails is made smaller as long as it
fails, and told as a story.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec

from obzen_runtime.flow import Divergence, Flow, replaying
from obzen_runtime.host import Handle
from obzen_runtime.journal import Fsync, Memory, SegmentReader, level_from
from obzen_runtime.kernel import FlowInvalid, UsageError, check_whole
from obzen_runtime.stages import Sink, Source, Transform
from obzen_runtime.testing.acknowledged import Acknowledged
from obzen_runtime.testing.evidence import (
    Evidence,
    Reference,
    Sinks,
    differences,
    evidence_on,
    orphans,
    references,
    rules,
    sinks,
)
from obzen_runtime.testing.life import RUN, Bounds, Life, Machine, quiet
from obzen_runtime.testing.loop import VirtualLoop
from obzen_runtime.testing.plan import Measure, Plan, drawn, exhaustive, smaller
from obzen_runtime.testing.stands import staged
from obzen_runtime.testing.story import Teller, preface

__all__ = ["Options", "SimulationReport", "Simulator", "Violation", "simulate"]

_UNDISTURBED = 3
"""Runs without crashes that a history is held to."""
_FIRST = Bounds(seconds=30 * 86_400.0, callbacks=20_000_000)
_TRIES = 80
"""Runs that making a failure smaller may take."""
_REFERENCES = 16
"""How much more a source may give that only feeds the reference side of joins."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a flow is simulated."""

    items: int | None = 300
    """Items each source gives at the most; None: all. A seed takes a part of it."""
    durability: str = "os"
    """Level of the journal: `os`, `interval(ms)` or `fsync`."""
    real: bool = False
    """Call the sinks' own handlers instead of stand-ins."""

    def __post_init__(self) -> None:
        if self.items is not None:
            check_whole("items", self.items, least=1)


class Violation(msgspec.Struct, frozen=True, kw_only=True):
    """A promise that a history breaks."""

    seed: int
    plan: Plan
    """The smallest plan found that fails."""
    problems: tuple[str, ...]
    """What is wrong, in sentences."""
    story: tuple[str, ...]
    """What happened, line by line."""


class SimulationReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a simulation found."""

    seeds: int
    """Histories that were tried."""
    processes: int
    """Simulated processes that lived in them."""
    violation: Violation | None = None
    """The first that failed; nothing is tried after it."""

    @property
    def passed(self) -> bool:
        """Whether no promise was broken."""
        return self.violation is None

    def __str__(self) -> str:
        if self.violation is None:
            return f"{self.seeds} seeds, 0 violations"
        found = self.violation
        return "\n".join([f"seed {found.seed}:", *(f"  {each}" for each in found.problems), *found.story])


class History(NamedTuple):
    """A run through its crashes, and what is wrong with it."""

    machine: Machine
    problems: list[str]
    story: list[str]

    @property
    def digest(self) -> str:
        """SHA-256 of every byte of the journal that the history left."""
        digest, disk = hashlib.sha256(), self.machine.disk
        for path in disk.paths:
            if path.suffix == ".seg":
                digest.update(disk.content(path))
        return digest.hexdigest()


class Simulator:
    """A flow, ready to be put through histories. Raises `FlowInvalid` when undisturbed it does not drain, or not twice the same."""

    def __init__(self, flow: Flow, options: Options | None = None) -> None:
        self.flow = flow
        self.options = options or Options()
        self.level = level_from(self.options.durability)
        if isinstance(self.level, Memory):
            raise UsageError(
                "a run in memory survives no crash: there is nothing to simulate", remedy="Give durability os, interval(MS) or fsync."
            )
        self.processes = 0
        self._known: dict[int | None, _Known] = {}
        nodes = flow.topology.nodes
        self._stages = [
            name for name, node in nodes.items() if isinstance(node, Transform) or (isinstance(node, Sink) and not node.simulate)
        ]

    @property
    def trusted(self) -> list[str]:
        """Sinks that promise something their own code must keep, which is not called: a recorder that keeps it stands in."""
        if self.options.real:
            return []
        sinks = [(name, node) for name, node in self.flow.nodes.items() if isinstance(node, Sink) and not node.simulate]
        return [f"{name} ({node.options.delivery})" for name, node in sinks if node.options.delivery in ("keyed", "transactional")]

    # -- histories ------------------------------------------------------------------------------

    def plan(self, seed: int) -> Plan:
        """What the seed draws."""
        items = self.options.items
        part = items if items is None else max(1, items // (1, 1, 3, 20)[seed % 4])
        return drawn(seed, part, self._measured(part), restarts=self.flow.restart.max > 0)

    def exhaustive(self, seed: int) -> Iterator[Plan]:
        """Plans for each append of the seed's undisturbed run: killed right before it, and right behind it."""
        quiet_plan = msgspec.structs.replace(self.plan(seed), items=self.options.items, crashes=(), troubles=())
        machine = self._history(quiet_plan, told=False).machine
        writes = [number for number, (operation, _) in enumerate(machine.disk.faults.calls, 1) if operation == "write"]
        yield from exhaustive(quiet_plan, writes)

    def history(self, plan: Plan, *, told: bool = False) -> History:
        """Live through the plan; with `told` the story comes with it."""
        with quiet():
            return self._history(plan, told=told)

    def violation(self, plan: Plan) -> Violation | None:
        """What the plan's history breaks, made smaller and told; None when it breaks nothing."""
        if not self.history(plan).problems:
            return None
        least = self._shrunk(plan)
        found = self.history(least, told=True)
        return Violation(seed=plan.seed, plan=least, problems=tuple(found.problems), story=tuple(found.story))

    def _shrunk(self, plan: Plan) -> Plan:
        tries = 0
        while True:
            items = plan.items
            fewer = [msgspec.structs.replace(plan, items=less) for less in (1, 3, 10, 30, 100) if items is None or less < items]
            for candidate in [*fewer, *smaller(plan)]:
                tries += 1
                if tries > _TRIES:
                    return plan
                if self.history(candidate).problems:
                    plan = candidate
                    break
            else:
                return plan

    def _history(self, plan: Plan, *, told: bool) -> History:
        known = self._references(plan.items)
        machine = Machine(plan, self.options.durability)
        flow = self._staged(plan.items, machine)
        teller = Teller(machine) if told else None
        problems: list[str] = []
        acknowledged = Acknowledged(self.level)
        for crash in (*plan.crashes, None):
            life = machine.live(flow, crash, known.bounds)
            self.processes += 1
            problems += acknowledged.missing(machine.disk) + self._orphans(machine, life)
            if teller is not None:
                teller.tell(life)
            if life.ending == "drained" or problems:
                break
            if life.crash is None:
                if not (self._lossy(machine) and life.error is not None and life.error.code == "sink_changed"):
                    problems.append(_unexpected(life))
                break
            acknowledged.note(life, machine)
            machine.after(life.crash, life.number)
        if not problems and machine.lives[-1].ending == "drained":
            problems += self._judge(machine, flow, known.reference)
        story = [preface(plan), *(teller.lines if teller is not None else ())]
        return History(machine, problems, story)

    def _judge(self, machine: Machine, flow: Flow, reference: Reference) -> list[str]:
        evidence = evidence_on(machine.disk)
        handle = machine.lives[-1].handle
        assert handle is not None
        problems = [*rules(machine.disk, evidence), *differences(reference, evidence)]
        if not self.options.real:
            problems += sinks(self.flow, self._sinks(machine, handle, evidence))
        return problems or _uncertified(machine, flow)

    def _orphans(self, machine: Machine, life: Life) -> list[str]:
        """At level `fsync`: what was delivered before the power went and is not in the journal that came back."""
        before = machine.lives[life.number - 1].crash if life.number else None
        if before is None or before.kind != "power" or not isinstance(self.level, Fsync) or not life.marks or life.handle is None:
            return []
        evidence = evidence_on(machine.disk, life.marks[0].position - 1)
        known = self._sinks(machine, life.handle, evidence)
        return orphans(self.flow, known, machine.lives[life.number - 1].delivered)

    def _sinks(self, machine: Machine, handle: Handle, evidence: Evidence) -> Sinks:
        wired = handle.pipeline.wired

        def declared(stage: str, index: int) -> type:
            return wired.log.codecs[stage].declared[index].origin

        broken = sum(each.seconds < 0 for each in machine.plan.troubles)
        crashed = [life for life in machine.lives if life.crash is not None]
        taken = sum(life.head - life.synced for life in crashed if life.crash is not None and life.crash.kind == "power")
        reference = self._references(machine.plan.items).reference
        return Sinks(reference, evidence, machine.world.places, wired.edges, declared, len(crashed) + broken + taken, self._lossy(machine))

    def _lossy(self, machine: Machine) -> bool:
        """Whether the journal was allowed to lose its tail. A transactional sink may then know more than the run, and refuses it."""
        return not isinstance(self.level, Fsync) and any(life.crash is not None and life.crash.kind == "power" for life in machine.lives)

    # -- undisturbed ----------------------------------------------------------------------------

    def _staged(self, items: int | None, machine: Machine) -> Flow:
        return staged(self.flow, machine.troubles, items=partial(_most, self.flow, items), real=self.options.real)

    def _measured(self, items: int | None) -> Measure:
        with quiet():
            known = self._references(items)
        return Measure(known.operations, self._stages, max(1, known.calls), known.deliveries)

    def _references(self, items: int | None) -> "_Known":
        if items not in self._known:
            self._known[items] = self._undisturbed(items)
        return self._known[items]

    def _undisturbed(self, items: int | None) -> "_Known":
        lives: list[Life] = []
        runs = []
        operations = 0
        for number in range(_UNDISTURBED):
            plan = Plan(seed=-1 - number, items=items, jitter=float(number), look=(2e-5, 1e-6, 1e-4)[number], delay=0.001 * number)
            machine = Machine(plan, self.options.durability)
            life = machine.live(self._staged(items, machine), None, _FIRST)
            if life.ending != "drained":
                raise FlowInvalid(
                    f"flow {self.flow.name!r} does not drain even without a crash: {_unexpected(life)}",
                    remedy="A simulation needs sources that end (or --items) and handlers that work offline.",
                )
            operations = max(operations, len(machine.disk.faults.calls))
            lives.append(life)
            runs.append((evidence_on(machine.disk), machine.world.places))
            if not self._known and not number:
                self._repeatable(machine)
        self._given_again([evidence for evidence, _ in runs])
        bounds = Bounds(max(life.seconds for life in lives) * 20 + 3600.0, max(life.ran for life in lives) * 50 + 100_000)
        calls = max((len(stream) for stream in runs[0][0].streams.values()), default=1)
        deliveries = sum(place.counted().total() for place in runs[0][1].values())
        return _Known(references(self.flow, runs), bounds, operations, calls, deliveries)

    def _repeatable(self, machine: Machine) -> None:
        """A stage that remembers outside of its state is seen at the first repetition only: later it remembers that one."""
        for wrong in _uncertified(machine, self._staged(machine.plan.items, machine)):
            raise FlowInvalid(
                f"flow {self.flow.name!r} gives something else when the same comes again, even without a crash: {wrong}",
                remedy="What a stage remembers belongs into its state; time and chance come from ctx.now(), ctx.random and ctx.uuid().",
            )

    def _given_again(self, runs: Sequence[Evidence]) -> None:
        """A source without offsets is asked for everything again by each process."""
        for name, node in self.flow.nodes.items():
            first, *others = (evidence.streams.get(name, []) for evidence in runs)
            for other in others:
                if isinstance(node, Source) and not node.seek and other != first:
                    raise FlowInvalid(
                        f"source {name} gives something else when it is run again: {len(first)} events, then {len(other)}",
                        remedy="Make what it reads anew in each call, or let it take start: oz.Offset and yield oz.At.",
                    )


class _Known(NamedTuple):
    reference: Reference
    bounds: Bounds
    operations: int
    calls: int
    deliveries: int


def _most(flow: Flow, items: int | None, source: str) -> int | None:
    """How many items this source may give: more where it only feeds the reference side of joins."""
    if items is None:
        return None
    arcs = flow.topology.downstream(source)
    return items * _REFERENCES if arcs and all(arc.port == "reference" for arc in arcs) else items


def _uncertified(machine: Machine, flow: Flow) -> list[str]:
    """What a replay of the journal finds: the code must give again what it recorded, through all crashes."""
    machine.troubles.left = {}
    loop = VirtualLoop(machine.clock)
    try:
        report = loop.run_until_complete(replaying(flow, SegmentReader.open(RUN, files=machine.disk.killed())))
    finally:
        loop.close()
    told = [_differs(each) for each in report.differences]
    return told or ([] if report.certified else [f"replay does not certify the run: {report.reason}"])


def _differs(found: Divergence) -> str:
    made = f", made of {found.input} {found.input_value}" if found.input else ""
    why = "".join(f"; {hint}" for hint in found.hints)
    return f"replay differs at {found.event} ({found.what}): recorded is {found.recorded}, now it is {found.replayed}{made}{why}"


def _unexpected(life: Life) -> str:
    """An end that nothing planned explains."""
    error = f": {life.error.message}" if life.error is not None else ""
    match life.ending:
        case "refused":
            return f"the journal did not open again: {life.why}"
        case "stuck":
            return f"process {life.number + 1} never ended: {life.why}"
    return f"process {life.number + 1} ended {life.ending}{error}"


def simulate(
    flow: Flow, seeds: int | Iterable[int] = 200, *, options: Options | None = None, told: Callable[[int], Any] = int
) -> SimulationReport:
    """Put a flow through this many seeds, or these, and stop at the first that breaks a promise.

    `told(n)` is called after each of them. In a test suite: `report = simulate(flow, 500); assert report.passed, report`.
    Raises `FlowInvalid` when without crashes the flow does not drain, or not twice the same, `UsageError` inside a
    running loop.
    """
    simulator = Simulator(flow, options)
    tried = 0
    for seed in range(seeds) if isinstance(seeds, int) else seeds:
        tried += 1
        found = simulator.violation(simulator.plan(seed))
        if found is not None:
            return SimulationReport(seeds=tried, processes=simulator.processes, violation=found)
        told(tried)
    return SimulationReport(seeds=tried, processes=simulator.processes)
