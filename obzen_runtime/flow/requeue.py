"""Dead letters taken up again: a flow cut open at the stages that failed, with the letters' events as its only input.

What stood before a stage that failed is left out; a source in its place gives the events it failed on, from the
journal of the run that has them. Everything behind is as it was. A join whose other side is left out that way gets
its whole reference from that journal too, as it was recorded.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path as FilePath
from types import MappingProxyType
from typing import Any

import msgspec

from obzen_runtime.events import Block, DeadLetter, Record, RunResumed
from obzen_runtime.flow.builder import Flow
from obzen_runtime.flow.changes import schemas_written
from obzen_runtime.flow.topology import Ignored
from obzen_runtime.journal import RunDirectory, SegmentReader
from obzen_runtime.kernel import FlowInvalid, StateFailed
from obzen_runtime.stages import DEAD_LETTERS, LATEST, Bad, Codec, Declared, Join, Link, Parameter, Path, Signature, Source, Undecoded

__all__ = ["Requeue", "Wanted", "refusal", "requeued", "source_name"]

_LONGEST = 50
"""Of a stage's name in those of the sources made for it."""


class Wanted(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which letters of a run are meant."""

    stage: str | None = None
    """Of this stage only."""
    code: str | None = None
    """With this error code, or error of this type, only."""

    def holds(self, letter: DeadLetter) -> bool:
        """Whether a letter is one of them."""
        return self.stage in (None, letter.stage) and self.code in (None, letter.error.code, letter.error.type)


class Requeue(msgspec.Struct, frozen=True, kw_only=True):
    """What is requeued: enough to cut the same flow open in the same way again."""

    run: str
    """Directory of the run that has the letters."""
    upto: int
    """Letters at this position of its journal and below it."""
    wanted: Wanted = Wanted()
    stages: dict[str, tuple[str, ...]] = {}
    """Per stage that failed the upstreams its letters' events came from."""


def source_name(stage: str) -> str:
    """Name of the source that gives a stage its letters' events."""
    return f"{stage[:_LONGEST]}_requeued"


def refusal(letter: DeadLetter, flow: Flow) -> str:
    """Why a letter cannot be requeued; empty when it can."""
    nodes = flow.topology.nodes
    if not letter.upstream:
        return "never became events: correct the input and run the flow on it" if letter.place or letter.payload else "have no event"
    if letter.upstream == DEAD_LETTERS:
        return "were letters themselves"
    if letter.stage not in nodes:
        return f"failed in {letter.stage}, which the flow does not have any more"
    arc = next((arc for arc in flow.topology.upstream(letter.stage) if arc.source == letter.upstream), None)
    if arc is None:
        return f"came to {letter.stage} from {letter.upstream}, which does not feed it any more"
    if arc.port == "reference":
        return f"belong to the reference of {letter.stage}: what they would have matched has passed"
    return ""


def requeued(flow: Flow, requeue: Requeue) -> Flow:
    """The flow that takes up these letters. Raises `FlowInvalid` when its stages are not those of the run any more."""
    topology = flow.topology
    missing = sorted({name for stage, ups in requeue.stages.items() for name in (stage, *ups)} - topology.nodes.keys())
    if missing:
        raise FlowInvalid(
            f"flow {flow.name!r} has no {', '.join(missing)} any more", code="flow_changed", remedy="Restore the stage, or its name."
        )
    kept = set(requeue.stages).union(*(topology.behind(name) for name in requeue.stages))
    letters = [name for name in topology.nodes if topology.nodes[name].kind == "dead_letters"]
    kept = kept.union(letters, *(topology.behind(name) for name in letters))
    links = [link for path in flow.paths for link in path.links if {link.source.name, link.target.name} <= kept]
    added = [_letters_link(flow, requeue, stage, ups) for stage, ups in requeue.stages.items()]
    for name in sorted(kept):
        node = topology.nodes[name]
        if isinstance(node, Join):
            added += _sides(flow, requeue, node, [*links, *added])
    ignored = {declared.origin for link in added for declared in link.source.outputs(()) or ()}
    nodes = [node for name, node in topology.nodes.items() if name in kept]
    path = Path((), (), (*dict.fromkeys(links), *added), (*nodes, *(link.source for link in added)))
    return Flow(
        flow.name,
        path,
        Ignored((*flow.ignoring, *ignored)),
        restart=flow.restart,
        window=flow.window,
        max_dead_letters=flow.max_dead_letters,
        stall_after=flow.stall_after,
    )


def _letters_link(flow: Flow, requeue: Requeue, stage: str, upstreams: Sequence[str]) -> Link:
    """The source of a stage's letters, and its edge."""
    outputs = flow.topology.outputs

    async def letters(*, run: str, upto: int) -> AsyncIterator[Any]:
        codecs = {name: Codec(name, outputs[name]) for name in upstreams}
        async for record in _past(FilePath(run), upto, DeadLetter, codecs):
            if isinstance(record, DeadLetter) and record.stage == stage and requeue.wanted.holds(record) and record.upstream in codecs:
                yield _event(codecs[record.upstream], record)

    node = flow.topology.nodes[stage]
    port = "stream" if isinstance(node, Join) else ""
    given = tuple(dict.fromkeys(each for name in upstreams for each in outputs[name]))
    return Link(_source(source_name(stage), letters, given, requeue), node, port)


async def _past(run: FilePath, upto: int, kind: type[Record], codecs: Mapping[str, Codec]) -> AsyncIterator[Record]:
    """Records of one kind up to a position; each codec is told under which schemas its stage's events stand there."""
    manifest = RunDirectory(run).read_manifest()
    schemas_written(codecs, manifest, {})
    async for _, record in SegmentReader.open(run).read(0, upto + 1, kinds=frozenset({kind, RunResumed})):
        if isinstance(record, RunResumed):
            schemas_written(codecs, manifest, record.schemas)
        else:
            yield record


def _event(codec: Codec, letter: DeadLetter) -> Any:
    """The event of a letter as its upstream declares it today."""
    then = letter.event if letter.error.code == "undecodable" else LATEST
    (event,) = codec.decode(Block(codec.stage, then, 1, 0, b"\x91" + letter.payload, letter.type))
    return _given(event, f"dead_letters@{letter.ordinal}")


def _given(event: Any, place: str) -> Any:
    """An event, or what stands for one that cannot be read any more."""
    return Bad(event.raw, event.error, place) if isinstance(event, Undecoded) else event


def _sides(flow: Flow, requeue: Requeue, join: Join, links: Iterable[Link]) -> list[Link]:
    """What a join's sides need whose upstreams were left out."""
    fed = {link.port for link in links if link.target.name == join.name}
    made: list[Link] = []
    for arc in flow.topology.upstream(join.name):
        if arc.port not in fed:
            fed.add(arc.port)
            recorded = arc.port == "reference"
            name = f"{arc.source[:_LONGEST]}_{'recorded' if recorded else 'nothing'}"
            made.append(Link(_source(name, _recorded(flow, arc.source, empty=not recorded), arc.declared, requeue), join, arc.port))
    return made


def _recorded(flow: Flow, stage: str, *, empty: bool) -> Any:
    """A source of all events a stage gave in the run."""

    async def recorded(*, run: str, upto: int) -> AsyncIterator[Any]:
        codec, due = Codec(stage, flow.topology.outputs[stage]), 0
        if empty:
            return
        async for record in _past(FilePath(run), upto, Block, {stage: codec}):
            if isinstance(record, Block) and record.stage == stage and record.count:
                if record.base != due:
                    raise StateFailed(f"{stage}@{due} is not kept any more", remedy="Requeue while the run's journal is whole.")
                for ordinal, event in enumerate(codec.decode(record), due):
                    yield _given(event, f"{stage}@{ordinal}")
                due += record.count

    return recorded


def _source(name: str, handler: Any, outputs: tuple[Declared, ...], requeue: Requeue) -> Source:
    parameters = {"run": Parameter("run", str), "upto": Parameter("upto", int)}
    handler.__name__ = name
    signature = Signature((), outputs, optional=False, many=True, asynchronous=True, context=False, parameters=parameters)
    return Source(name, handler, MappingProxyType({"run": requeue.run, "upto": requeue.upto}), signature)
