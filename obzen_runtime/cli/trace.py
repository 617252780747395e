"""`obzen trace`: the life of one event, over all stages: what it comes of, and what became of it.

One pass over the log follows what comes of the event and maps where everything stands; the way back is walked on that
map. A log being written is read up to now.
"""

import asyncio
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from obzen_runtime.cli.ancestry import Ancestors, Map, found_in
from obzen_runtime.cli.exact import Keyed, Watch, keyed_stages
from obzen_runtime.cli.find import WhichOptions, which
from obzen_runtime.cli.loading import load_started
from obzen_runtime.cli.say import hint, say
from obzen_runtime.cli.show import clock_text, json_text, plain, short
from obzen_runtime.descent import Descent, Found, Given, Leaf
from obzen_runtime.events import Block, DeadLetter, Record, StageInfo
from obzen_runtime.flow import Requeue, source_name
from obzen_runtime.journal import Manifest, RunDirectory, SegmentReader, run_started
from obzen_runtime.kernel import NotFound, ObzenError, UsageError
from obzen_runtime.stages import code_fingerprint

__all__ = ["Story", "TraceOptions", "story_lines", "trace", "traced"]

_EVENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]{0,62})@([0-9]{1,18})")
_FEW = 5
_ALL = 1 << 60
_DEEP = 1 << 30
_WORDS = {
    "delivered": "delivered by {}",
    "folded": "folded into {}",
    "intended": "about to be delivered by {}",
    "doubted": "perhaps delivered by {}: nobody knows",
    "deliver": "decided: to be delivered by {}",
    "dead": "decided: given up for {}",
}
_LETTERS: frozenset[type[Record]] = frozenset({DeadLetter})


class TraceOptions(WhichOptions, frozen=True, kw_only=True):
    """What `obzen trace` takes."""

    event: Annotated[str | None, typer.Argument(metavar="EVENT", help="The event, such as orders@1234.")] = None
    exact: Annotated[bool, typer.Option("--exact", help="Ask the flow's code which inputs of a keyed stage have an output's key.")] = False
    depth: Annotated[
        int, typer.Option("--depth", metavar="N", min=1, help="So many steps up and down; default: all.", show_default=False)
    ] = _DEEP
    all: Annotated[bool, typer.Option("--all", help="Show all events of a kind, not the first few.")] = False
    json: Annotated[bool, typer.Option("--json", help="As one line of JSON.")] = False


class Story(msgspec.Struct, frozen=True, omit_defaults=True):
    """One event's life."""

    ancestors: Found
    """The event, with what it comes of beneath it."""
    descendants: Found
    """The event, with what came of it beneath it."""
    counts: dict[str, int] = {}
    """Per stage all events that came of it."""
    ends: dict[str, dict[str, int]] = {}
    """Per stage how many of them ended how there."""


def trace(options: TraceOptions) -> int:
    """Show what an event comes of and what became of it: events, deliveries, dead letters, and where it gave nothing.

    An output of a keyed stage comes of one or more of the inputs since its key was first seen; with --exact the flow's
    code is asked which. RUN may be left out when --last is given.
    """
    which_run, stage, ordinal = _named(options)
    run = which(which_run)
    reader = SegmentReader.open(run.path)
    exact = _keyed(run) if options.exact else {}
    few = _ALL if options.all else _FEW
    story = asyncio.run(traced(reader, (stage, ordinal), few=few, depth=options.depth, exact=exact))
    asyncio.run(_origins(run, story.ancestors))
    if options.json:
        say(json_text(msgspec.to_builtins(story, builtin_types=(bytes,))))
    else:
        for line in story_lines(story):
            say(line)
    return 0


def _named(options: TraceOptions) -> tuple[WhichOptions, str, int]:
    """The run and the event meant."""
    run, event = options.run, options.event
    if options.last and event is None:
        run, event = None, run
    if event is None:
        raise UsageError("no event is named", remedy="Give one, such as orders@1234; `obzen inspect RUN --events` lists them")
    match = _EVENT.fullmatch(event)
    if match is None:
        raise UsageError(f"{event!r} is not STAGE@NUMBER", remedy="Write, for instance, orders@1234")
    return WhichOptions(run=run, last=options.last, runs=options.runs), match[1], int(match[2])


def _keyed(run: RunDirectory) -> dict[str, Keyed]:
    """The keyed stages of the run's flow. Says when their code is not what it was."""
    flow = load_started(run).flow
    code = run.read_manifest().code
    keyed = keyed_stages(flow)
    for name in keyed:
        if code.get(name) != code_fingerprint(flow.topology.nodes[name]):
            hint(f"the code of {name} has changed since the run was started: its keys may be others")
    return keyed


async def traced(reader: SegmentReader, event: tuple[str, int], *, few: int, depth: int, exact: dict[str, Keyed]) -> Story:
    """Follow an event both ways. Raises `NotFound` when there is none of that name."""
    started = await run_started(reader)
    infos: Sequence[StageInfo] = started.stages if started is not None else ()
    known = Map(infos)
    given: dict[str, Given] = {}
    descent = Descent(*event, infos, few=few, given=given)
    watches = {name: Watch(keyed, descent.marked) for name, keyed in exact.items()}
    given.update({name: watch.given for name, watch in watches.items()})

    def node(block: Block, number: int) -> Found:
        return found_in(position, block, number, known.types(block.stage))

    async for position, record in reader.read():
        known.feed(position, record)
        for watch in watches.values():
            watch.feed(record)
        descent.feed(position, record, node)
    root = descent.root
    if root is None:
        raise _unknown(known, event)
    walk = Ancestors(reader, known, few=few, resolve={name: partial(keyed.parents, reader) for name, keyed in exact.items()})
    above = await walk.of(*event, depth)
    ends: dict[str, dict[str, int]] = {}
    for (stage, what), count in descent.ends.items():
        ends.setdefault(stage, {})[what] = count
    return Story(above if above is not None else root, _cut(root, depth), dict(descent.counts), ends)


def _unknown(known: Map, event: tuple[str, int]) -> NotFound:
    stage, ordinal = event
    places = known.places.get(stage)
    if places is not None and ordinal < places.bases[0]:
        return NotFound(
            f"{stage}@{ordinal} is not kept: what stood at the beginning of the log was dropped",
            remedy=f"It may be in the archive, if there is one; the first of {stage} that is kept is {stage}@{places.bases[0]}",
        )
    if places is not None:
        return NotFound(f"there is no event {stage}@{ordinal}: {stage} gave {places.stop:,} events", remedy="They are numbered from 0")
    names = ", ".join(known.infos) or "none that is known"
    why = f"{stage} has given none" if stage in known.infos else f"the run has no stage {stage!r}"
    return NotFound(f"there is no event {stage}@{ordinal}: {why}", remedy=f"Stages of the run: {names}")


def _cut(node: Found, depth: int) -> Found:
    """A tree without what stands deeper."""
    events = [_cut(each, depth - 1) for each in node.events] if depth > 0 else []
    return msgspec.structs.replace(node, events=events, more=node.more if depth > 0 else {})


async def _origins(run: RunDirectory, root: Found) -> None:
    """Events of a requeue keep their origin: name it where the tree reaches one."""
    try:
        manifest: Manifest = run.read_manifest()
    except ObzenError:
        return
    spec = manifest.options.get("requeue")
    if spec is None:
        return
    requeue = msgspec.convert(spec, Requeue)
    wanted: dict[str, dict[int, list[Found]]] = {}
    for node in _leaves(root):
        stage, _, ordinal = node.event.rpartition("@")
        wanted.setdefault(stage, {}).setdefault(int(ordinal), []).append(node)
    stages = {stage: wanted[source_name(stage)] for stage in requeue.stages if source_name(stage) in wanted}
    if not stages or not RunDirectory(Path(requeue.run)).exists:
        return
    met = dict.fromkeys(stages, 0)
    async for _, letter in SegmentReader.open(Path(requeue.run)).read(0, requeue.upto + 1, kinds=_LETTERS):
        if not isinstance(letter, DeadLetter) or letter.stage not in stages or not requeue.wanted.holds(letter):
            continue
        if letter.upstream in requeue.stages[letter.stage]:
            for node in stages[letter.stage].get(met[letter.stage], ()):
                node.origin = f"{manifest.origin} {letter.upstream}@{letter.event}"
            met[letter.stage] += 1


def _leaves(node: Found) -> Iterator[Found]:
    if not node.events:
        yield node
    for each in node.events:
        yield from _leaves(each)


# -- for people -------------------------------------------------------------------------------------


def story_lines(story: Story) -> Iterator[str]:
    """A story as a tree."""
    yield f"{_event(story.ancestors)}  at {clock_text(story.ancestors.at)}, position {story.ancestors.position:,}"
    if story.ancestors.origin:
        yield f"  taken up from {story.ancestors.origin}"
    if story.ancestors.events:
        yield f"comes of{_among(story.ancestors)}"
        yield from _beneath(story.ancestors, "  ")
    if story.descendants.events or story.descendants.ends:
        yield "became"
        yield from _beneath(story.descendants, "  ")
    else:
        yield "nothing has come of it"
    if story.counts or story.ends:
        yield f"in all: {_counted(story)}"


def _counted(story: Story) -> str:
    events = [f"{count:,} of {stage}" for stage, count in story.counts.items()]
    ends = [
        f"{count:,} {_WORDS.get(what, f'{what} by {{}}').format(stage)}"
        for stage, whats in story.ends.items()
        for what, count in whats.items()
    ]
    return ", ".join([*events, *ends])


def _beneath(node: Found, indent: str) -> Iterator[str]:
    for leaf in node.ends:
        yield f"{indent}{_leaf(leaf)}"
    for each in node.events:
        origin = f"  taken up from {each.origin}" if each.origin else ""
        yield f"{indent}{_event(each)}{_among(each)}{origin}{'  (see above)' if each.again else ''}"
        yield from _beneath(each, f"{indent}  ")
    for stage, count in node.more.items():
        yield f"{indent}… and {count:,} more of {stage} (--all shows them)"


def _event(node: Found) -> str:
    return f"{node.event}  {node.type}  {short(plain(json_text(node.payload)))}"


def _among(node: Found) -> str:
    return f"  (one or more of {node.among:,} inputs; --exact tells which)" if node.among > 1 else ""


def _leaf(leaf: Leaf) -> str:
    words = _WORDS.get(leaf.what, f"{leaf.what} by {{}}").format(leaf.stage)
    return f"{words} at {clock_text(leaf.at)}{' (perhaps: that step took only some of these events)' if leaf.perhaps else ''}"
