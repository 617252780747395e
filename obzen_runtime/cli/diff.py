"""`obzen diff`: why two runs are not the same, from what they were started with to the first event that differs."""

import asyncio
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import typer

from obzen_runtime.cli.compare import Change, Difference, Side, first_difference, first_letter, manifest_changes
from obzen_runtime.cli.find import RunsOptions, WhichOptions, which
from obzen_runtime.cli.say import say
from obzen_runtime.cli.show import json_text, letter_origin, plain, short
from obzen_runtime.descent import Found
from obzen_runtime.events import DeadLetter, RunCancelled, RunCompleted, RunFailed
from obzen_runtime.kernel import UsageError

__all__ = ["DiffOptions", "Explained", "StageDiff", "diff", "explain", "explained_lines"]


class DiffOptions(RunsOptions, frozen=True, kw_only=True):
    """What `obzen diff` takes."""

    a: Annotated[str, typer.Argument(metavar="A", help="A run's id, the beginning of one, or its directory.")]
    b: Annotated[str, typer.Argument(metavar="B", help="The other run.")]
    stage: Annotated[str | None, typer.Option("--stage", metavar="NAME", help="Look at this stage only.")] = None
    json: Annotated[bool, typer.Option("--json", help="As one line of JSON.")] = False


class StageDiff(msgspec.Struct, frozen=True, omit_defaults=True):
    """How one stage did in both runs, where that is not the same."""

    gave: tuple[int | None, int | None]
    """Events it gave; None where the run has no such stage."""
    took: tuple[int, int]
    letters: tuple[int, int]
    first: Difference | None = None
    """The first event that differs."""
    letter: tuple[str, str] | None = None
    """The first dead letters that differ; empty where there is none."""


class Explained(msgspec.Struct, frozen=True, omit_defaults=True):
    """Two runs side by side; what is the same is left out."""

    a: str
    b: str
    related: str = ""
    """How one comes from the other."""
    manifest: list[Change] = []
    ends: tuple[str, str] | None = None
    stages: dict[str, StageDiff] = {}
    same: tuple[str, ...] = ()
    """Stages that gave and took the same."""

    @property
    def equal(self) -> bool:
        """Whether they did the same, whatever they were started with."""
        return self.ends is None and not self.stages


def diff(options: DiffOptions) -> int:
    """Explain how two runs differ: what they were started with, how they ended, and per stage the first event that differs.

    Events are compared by their number in their stage. Exits with 0 when the runs did the same, with 1 when not.
    """
    sides = [Side(which(WhichOptions(run=name, runs=options.runs))) for name in (options.a, options.b)]
    found = asyncio.run(explain(sides[0], sides[1], options.stage))
    if options.json:
        say(json_text({**msgspec.to_builtins(found, builtin_types=(bytes,)), "equal": found.equal}))
    else:
        for line in explained_lines(found):
            say(line)
    return 0 if found.equal else 1


async def explain(a: Side, b: Side, only: str | None = None) -> Explained:
    """Look through both. Raises `UsageError` for a stage that neither has."""
    await a.look()
    await b.look()
    names = list(dict.fromkeys([*a.stages, *b.stages]))
    if only is not None and only not in names:
        raise UsageError(f"neither run has a stage {only!r}", remedy=f"They have: {', '.join(names)}")
    stages: dict[str, StageDiff] = {}
    same: list[str] = []
    for name in names if only is None else [only]:
        each = await _stage(a, b, name)
        if each is None:
            same.append(name)
        else:
            stages[name] = each
    ends = _end(a), _end(b)
    changes = manifest_changes(a.manifest, b.manifest) if a.manifest is not None and b.manifest is not None else []
    return Explained(a.name, b.name, _related(a, b), changes, ends if ends[0] != ends[1] else None, stages, tuple(same))


async def _stage(a: Side, b: Side, name: str) -> StageDiff | None:
    """What a stage did differently; None when nothing."""
    gave = tuple(side.events[name] if name in side.stages else None for side in (a, b))
    first, letters = await first_difference(a, b, name), await first_letter(a, b, name)
    took = a.taken[name], b.taken[name]
    if first is None and letters is None and gave[0] == gave[1] and took[0] == took[1]:
        return None
    told = None if letters is None else (_letter(letters[0]), _letter(letters[1]))
    return StageDiff((gave[0], gave[1]), took, (a.letters[name], b.letters[name]), first, told)


def _letter(letter: DeadLetter | None) -> str:
    if letter is None:
        return ""
    return f"dead_letters@{letter.ordinal}{letter_origin(letter)}: {letter.error.type or letter.error.code}: {letter.error.message}"


def _end(side: Side) -> str:
    match side.end:
        case RunCompleted():
            return "drained"
        case RunCancelled(_, reason):
            return f"cancelled ({reason})"
        case RunFailed(_, cause):
            return f"failed: {cause.type or cause.code}: {cause.message}"
    state = side.run.state()
    return state if state == "running" else "without a word about its end"


def _related(a: Side, b: Side) -> str:
    for one, other in ((a, b), (b, a)):
        if one.forked is not None and one.forked[1].origin == other.name:
            position, record = one.forked
            return f"{one.name} was forked from {other.name} at position {position:,}{'' if record.live else ', delivering nothing'}"
        if one.manifest is not None and one.manifest.origin == other.name:
            requeued = "requeue" in one.manifest.options
            return f"{one.name} takes up dead letters of {other.name}" if requeued else f"{one.name} comes from {other.name}"
    if a.forked is not None and b.forked is not None and a.forked[1].origin == b.forked[1].origin:
        return f"both were forked from {a.forked[1].origin}, at positions {a.forked[0]:,} and {b.forked[0]:,}"
    return ""


# -- for people -------------------------------------------------------------------------------------


def explained_lines(found: Explained) -> Iterator[str]:
    """What is explained, in lines."""
    yield f"A  {found.a}"
    yield f"B  {found.b}"
    if found.related:
        yield found.related
    if found.manifest:
        yield "started with"
        for change in found.manifest:
            yield f"  {change.what}: {_value(change.a)} | {_value(change.b)}"
    if found.ends is not None:
        yield "ended"
        yield from (f"  {side}  {plain(end)}" for side, end in zip("AB", found.ends, strict=True))
    for name, each in found.stages.items():
        yield from _stage_lines(name, each)
    if found.equal:
        yield f"they did the same in {len(found.same)} stages"
    elif found.same:
        yield f"the same: {', '.join(found.same)}"


def _stage_lines(name: str, each: StageDiff) -> Iterator[str]:
    missing = [side for side, count in zip("AB", each.gave, strict=True) if count is None]
    if missing:
        yield f"{name}: {missing[0]} has no such stage"
        return
    counts = [("gave", (each.gave[0] or 0, each.gave[1] or 0)), ("took", each.took), ("dead letters", each.letters)]
    yield f"{name}: {', '.join(_count(word, *pair) for word, pair in counts if any(pair))}"
    if each.first is not None:
        yield from _difference(each.first)
    if each.letter is not None:
        yield "  first dead letter that differs"
        yield from (f"    {side}  {short(plain(text)) or 'none'}" for side, text in zip("AB", each.letter, strict=True))


def _count(word: str, a: int, b: int) -> str:
    return f"{word} {a:,}" if a == b else f"{word} {a:,} | {b:,}"


_WHY = {
    "stage": "of the same inputs: the stage itself made something else",
    "inputs": "its inputs differ already",
    "source": "it comes from outside",
    "end": "one gave more",
}


def _difference(first: Difference) -> Iterator[str]:
    yield f"  first difference {first.event}: {_WHY[first.why]}"
    for side, node in (("A", first.a), ("B", first.b)):
        yield f"    {side}  {_node(node)}"
        if node is not None:
            yield from (f"         of {_node(each)}" for each in node.events)
            yield from (f"         … and {count:,} more of {stage}" for stage, count in node.more.items())


def _node(node: Found | None) -> str:
    return "no such event" if node is None else f"{node.event}  {node.type}  {short(plain(json_text(node.payload)))}"


def _value(value: Any) -> str:
    return "none" if value is None else short(plain(json_text(value)))
