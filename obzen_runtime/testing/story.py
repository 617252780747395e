"""A simulated run told as a sequence: what each process appended, how it ended, and what the next one found."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from obzen_runtime.events import Block, DeadLetter, End, Receipt, Record, RunCompleted, RunResumed, RunStarted, Slice, Snapshot
from obzen_runtime.journal import Entry
from obzen_runtime.kernel import ObzenError
from obzen_runtime.testing.evidence import entries_on
from obzen_runtime.testing.life import Life, Machine
from obzen_runtime.testing.plan import Crash, Plan
from obzen_runtime.testing.world import Place

__all__ = ["Teller", "preface"]

_SHOWN = 8
"""Records told of one process at the most, from its end backwards."""


def preface(plan: Plan) -> str:
    """What the run was like apart from its crashes."""
    told = [f"at most {plan.items:,} items a source" if plan.items is not None else "all items"]
    if plan.jitter:
        told.append("woken tasks run in a drawn order")
    if plan.delay:
        told.append(f"syncs take up to {plan.delay:g} s")
    if plan.skew:
        told.append(f"the clock jumps {plan.skew / 1000:+,.0f} s between processes")
    told += [
        f"in process {each.life + 1} call {each.call} of {each.stage} {'breaks it' if each.seconds < 0 else f'takes {each.seconds:g} s'}"
        for each in plan.troubles
    ]
    return "; ".join(told)


class Teller:
    """Tells each process as it ends."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.lines: list[str] = []

    def tell(self, life: Life) -> None:
        """Add the lines of this process."""
        disk = self._machine.disk
        entries = []
        with suppress(ObzenError):  # what cannot be read is told by its problem
            entries = entries_on(disk)
        calls = disk.faults.calls
        began = life.marks[0].position - 1 if life.marks else entries[-1].position if entries else 0
        self.lines += _chapter(life, entries, began, calls[-1] if calls else None)
        self.lines += _outside(self._machine.world.places)


def _chapter(life: Life, entries: Sequence[Entry], began: int, last: tuple[str, Path] | None) -> list[str]:
    """The lines of one process that found `began` records; `last` is the disk operation it ended in."""
    lines = [f"process {life.number + 1} {'goes on' if began else 'begins'}{f' behind record {began}' if began else ''}"]
    if life.ending == "refused":
        return [*lines, f"  does not begin: {life.why}"]
    told = [(entry.position, text) for entry in entries if entry.position > began and (text := _told(entry.record))]
    if len(told) > _SHOWN:
        lines.append(f"  … {len(told) - _SHOWN} records of the same kinds")
    lines += [f"  {position:>6}  {text}" for position, text in told[-_SHOWN:]]
    lines.append(f"  {_end(life, entries, last)}")
    return lines


def _outside(places: Mapping[str, Place]) -> Iterator[str]:
    """What sinks have done by now. More than their receipts say is what a process did and nobody wrote down."""
    counts = [f"{name} {place.counted().total():,}" for name, place in sorted(places.items())]
    if counts:
        yield f"  outside there is: {', '.join(counts)}"


def _end(life: Life, entries: Sequence[Entry], last: tuple[str, Path] | None) -> str:
    crash = life.crash
    match life.ending:
        case "killed" if crash is not None:
            if crash.kind == "delivery":
                return f"killed right behind delivery {crash.at}"
            where = f"at disk operation {crash.at}"
            if last is not None and last[0] == "write":
                where += f", writing {last[1].name}{_torn(crash, life, entries)}"
            elif last is not None:
                where += f" ({last[0]} of {last[1].name})"
            if crash.kind == "power":
                return f"the power goes {where}; {crash.kept:.0%} of what was not synced survives"
            return f"killed {where}"
        case "failed" if crash is not None:
            what = "is full" if crash.kind == "enospc" else "fails"
            return f"the disk {what} at operation {crash.at}: {life.error.message if life.error else ''}"
        case "cancelled":
            order = "stop" if crash is None or crash.kind == "stop" else "cancel"
            return f"told to {order}: it ends {life.report.reason if life.report else ''}"
        case "drained":
            return "drained"
    return f"{life.ending}: {life.why or (life.error.message if life.error else '')}"


def _torn(crash: Crash, life: Life, entries: Sequence[Entry]) -> str:
    """What the write was that it died in."""
    unheard = [entry for entry in entries if entry.position > life.head]
    if unheard:
        texts = [text for entry in unheard if (text := _told(entry.record))]
        return f": {'; '.join(texts)} stands there whole, and nobody was told" if texts else ""
    return f", {crash.torn:.0%} of it" if 0 < crash.torn < 1 else ", before any of it"


def _told(record: Record) -> str:
    match record:
        case RunStarted():
            return "the run is started"
        case RunResumed(epoch=epoch):
            return f"the run is resumed, epoch {epoch}"
        case RunCompleted():
            return "the run is completed"
        case Block(stage=stage, base=base, count=count):
            gave = f"gives {stage}@{base}{f'…{base + count - 1}' if count > 1 else ''}" if count else "gives nothing"
            took = ", ".join(_inputs(record))
            return f"{stage} {f'takes {took}, ' if took else ''}{gave}"
        case Receipt(stage=stage):
            return f"{stage} has delivered {', '.join(_inputs(record)) or 'nothing'} (receipt)"
        case DeadLetter(stage=stage, error=error):
            return f"{stage} gives up an event: {error.message}"
        case Snapshot(actor=actor, taken=taken):
            return f"{actor} keeps its state after {taken} inputs"
    return ""


def _inputs(record: Block | Receipt) -> Iterator[str]:
    for each in record.inputs:
        match each:
            case Slice(upstream=upstream, start=start, stop=stop) if start < stop:
                yield f"{upstream}@{start}{f'…{stop - 1}' if stop - start > 1 else ''}"
            case End(upstream=upstream, end=end):
                yield f"the {end} end of {upstream}"
