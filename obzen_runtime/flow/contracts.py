"""Contracts: what was written is accounted for, edge by edge, or the run says both numbers.

The writer's side of the evidence is the count in its completion; the reader's is what its own steps took. A run
completes only when every contract has passed; missing evidence is named.
"""

from collections.abc import Iterable, Mapping

import msgspec

from obzen_runtime.events import Contract
from obzen_runtime.kernel import ErrorInfo, counted
from obzen_runtime.stages import Edge, SourceStage, Stage

__all__ = ["Verdict", "judge", "records", "violation"]


class Verdict(msgspec.Struct, frozen=True):
    """The verdict on one edge."""

    edge: str
    written: int
    """Events handed over by the writer."""
    accounted: int
    """Events processed, dropped or dead-lettered by the reader."""
    passed: bool
    missing: str = ""
    """Evidence that is not there, by name, or a source's word that was not kept."""


def judge(edges: Iterable[Edge], stages: Mapping[str, Stage]) -> list[Verdict]:
    """Judge every edge, and every source that knows its count, after all stages have drained."""
    verdicts = []
    for edge in edges:
        writer, reader = stages[edge.source], stages[edge.target]
        missing = ""
        if edge.ended is None:
            missing = f"{edge.source} never said how much it wrote"
        elif edge.source not in reader.ends:
            missing = f"{edge.target} never took the end of {edge.source}"
        elif edge.routed is None and edge.ended.total != edge.delivered:
            missing = f"{edge.source} wrote {writer.written} events, {edge.delivered} were handed over"
        passed = not missing and edge.delivered == edge.accounted
        verdicts.append(Verdict(edge.name, edge.delivered, edge.accounted, passed, missing))
    for name, stage in stages.items():
        if isinstance(stage, SourceStage) and stage.progress.expected is not None and not stage.told_to_drain:
            expected, given = stage.progress.expected, stage.taken
            told = "" if given == expected else f"{name} said that it gives {expected} items, and gave {given}"
            verdicts.append(Verdict(f"{name} gives {expected}", expected, given, not told, told))
    return verdicts


def records(verdicts: Iterable[Verdict], at: int) -> list[Contract]:
    """The verdicts as records."""
    return [Contract(each.edge, each.written, each.accounted, each.passed, at, each.missing) for each in verdicts]


def violation(verdicts: Iterable[Verdict]) -> ErrorInfo | None:
    """The failure that violated contracts are, or None when all have passed."""
    broken = [each for each in verdicts if not each.passed]
    if not broken:
        return None
    told = "; ".join(each.missing or f"{each.edge}: {each.written} written, {each.accounted} accounted for" for each in broken)
    return ErrorInfo(
        kind="PROTOCOL",
        code="contract_violated",
        message=f"{counted(len(broken), 'contract')} violated: {told}",
        remedy="If a source did not keep its word, correct its progress.expected or its input. "
        "If an edge disagrees, that is a bug of the runtime: keep the run directory and report it.",
        category="scheduler",
    )
