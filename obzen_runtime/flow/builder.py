"""A flow as described, and the wiring of its workers when it starts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NoReturn

import msgspec

from obzen_runtime.actor import Ground, Restart
from obzen_runtime.events import StageInfo
from obzen_runtime.flow.topology import Arc, Ignored, Topology
from obzen_runtime.journal import MemoryJournal
from obzen_runtime.kernel import ConfigInvalid, FlowInvalid, UsageError, check_seconds
from obzen_runtime.stages import (
    DEAD_LETTERS,
    Codec,
    DeadLetters,
    Edge,
    JoinStage,
    Letters,
    Link,
    Log,
    Node,
    Path,
    Port,
    SourceStage,
    Stage,
    Window,
    dead_letters,
)

__all__ = ["Flow", "Wired", "wire"]

_OVERFLOW = (
    "the stream side of {} waits for a reference that it feeds itself, so it must be read back from the journal: "
    "use segment files, or MemoryJournal(keep=True)"
)
_DEFAULT_RESTART = Restart()
_DEFAULT_WINDOW = Window()


class Flow:
    """A graph of stages under a name, checked when it is made. Immutable.

    `paths` are joined stages (`a >> b >> c`), and `oz.ignored(T)` for output types that need no consumer.
    `restart` says what a crashed stage may do, `window` how much may wait on an edge, `stall_after` the seconds after
    which a writer without credit is reported. More letters than `max_dead_letters` fail the flow: an int is their number,
    a float between 0 and 1 their share of the events that the sources gave, judged from 1,000 of these on and at the end;
    with None any number is fine. Raises `FlowInvalid` with every problem of the graph, `ConfigInvalid` for such an option.
    """

    name: str
    restart: Restart
    window: Window
    max_dead_letters: float | None
    stall_after: float
    paths: tuple[Path, ...]
    ignoring: tuple[type, ...]
    """Output types that need no consumer."""
    _checked: Topology | FlowInvalid

    def __init__(
        self,
        name: str,
        *paths: Path | Node | Ignored,
        restart: Restart = _DEFAULT_RESTART,
        window: Window = _DEFAULT_WINDOW,
        max_dead_letters: float | None = None,
        stall_after: float = 30.0,
    ) -> None:
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise UsageError(f"{name!r} is not a name for a flow", remedy='Give one line of text: oz.Flow("orders", ...).')
        _check_options(restart, window, max_dead_letters, stall_after)
        joined = tuple(Path.of(path) for path in paths if not isinstance(path, Ignored))
        ignoring = tuple(each for path in paths if isinstance(path, Ignored) for each in path.types)
        try:
            checked: Topology | FlowInvalid = Topology.of(name, joined, ignoring)
        except FlowInvalid as invalid:
            if not all("needs its parameter" in problem for problem in invalid.problems):
                raise
            checked = invalid
        vars(self).update(
            name=name,
            restart=restart,
            window=window,
            max_dead_letters=max_dead_letters,
            stall_after=stall_after,
            paths=joined,
            ignoring=ignoring,
            _checked=checked,
        )

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"flow {self.name!r} does not change: describe another one instead of setting {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"flow {self.name!r} does not change: {name!r} cannot be removed")

    @property
    def dead_letters(self) -> DeadLetters:
        """The stream of the flow's dead letters, to be wired like a source."""
        return dead_letters

    @property
    def topology(self) -> Topology:
        """The checked graph. Raises `FlowInvalid` while a required parameter is not bound."""
        if isinstance(self._checked, FlowInvalid):
            raise self._checked
        return self._checked

    @property
    def nodes(self) -> Mapping[str, Node]:
        """Stages by name, in the order they were given."""
        return MappingProxyType({node.name: node for path in self.paths for node in path.nodes})

    def bind(self, settings: Mapping[str, Mapping[str, list[str]]]) -> "Flow":
        """The flow with parameters set from text: stage name to parameter to texts. Raises `UsageError` on unknown ones."""
        changed: dict[str, Node] = {}
        nodes = self.nodes
        for stage, parameters in settings.items():
            if stage not in nodes:
                raise UsageError(f"flow {self.name!r} has no stage {stage!r}", code="unknown_option", remedy=f"It has: {', '.join(nodes)}.")
            node = nodes[stage]
            for parameter, texts in parameters.items():
                node = node.bind_text(parameter, texts)
            changed[stage] = node
        return self._with(changed)

    def started_with(self, parameters: Mapping[str, Mapping[str, Any]]) -> "Flow":
        """The flow with the parameters a manifest holds. Raises `FlowInvalid` (`flow_changed`) when they do not fit it any more."""
        changed: dict[str, Node] = {}
        nodes = self.nodes
        for stage, values in parameters.items():
            try:
                changed[stage] = nodes[stage].bind_plain(values)
            except (KeyError, TypeError, ValueError, msgspec.MsgspecError) as error:
                why = f"there is no {error}" if isinstance(error, KeyError) else error
                raise FlowInvalid(
                    f"flow {self.name!r} does not take the parameters that the run was started with, {stage}: {dict(values)!r} ({why})",
                    code="flow_changed",
                    remedy="Resume with the flow as it was, or start a new run.",
                ) from error
        return self._with(changed)

    def _with(self, changed: Mapping[str, Node]) -> "Flow":
        if not changed:
            return self
        links: dict[Link, Link] = {}
        return Flow(
            self.name,
            *(_rebound(path, changed, links) for path in self.paths),
            Ignored(self.ignoring),
            restart=self.restart,
            window=self.window,
            max_dead_letters=self.max_dead_letters,
            stall_after=self.stall_after,
        )


def flow_from(given: object) -> Flow:
    """A flow that a user gives. Raises `UsageError` for what is none."""
    if isinstance(given, Flow):
        return given
    raise UsageError(f"a flow is wanted, not {given!r}", remedy="Give what oz.Flow(name, path, …) returned.")


def _check_options(restart: object, window: object, max_dead_letters: object, stall_after: object) -> None:
    """Refuse options that mean nothing, before they surprise a run that has begun."""
    if not isinstance(restart, Restart):
        raise ConfigInvalid(f"restart={restart!r} is not a policy", remedy="Give oz.Restart(strategy=..., max=..., within=...).")
    if not isinstance(window, Window):
        raise ConfigInvalid(f"window={window!r} is not a window", remedy="Give oz.Window(events=..., size=...).")
    most = max_dead_letters
    if not (most is None or (type(most) is int and most >= 0) or (isinstance(most, float) and 0 < most < 1)):
        raise ConfigInvalid(
            f"max_dead_letters={most!r} is neither a count nor a share",
            remedy="Give a whole number from 0 on, a share between 0.0 and 1.0, or None for any number.",
        )
    check_seconds("stall_after", stall_after)


def _rebound(path: Path, changed: Mapping[str, Node], links: dict[Link, Link]) -> Path:
    """The path with changed stages; edges that paths share stay shared."""

    def new(node: Node) -> Node:
        return changed.get(node.name, node)

    for link in path.links:
        links.setdefault(link, Link(new(link.source), new(link.target), link.port))
    return Path(
        tuple(Port(new(port.node), port.port) for port in path.heads),
        tuple(new(node) for node in path.tails),
        tuple(links[link] for link in path.links),
        tuple(new(node) for node in path.nodes),
    )


@dataclass
class Wired:
    """The workers of one run, in start order, and what they share."""

    flow: Flow
    stages: dict[str, Stage]
    edges: list[Edge]
    log: Log
    infos: tuple[StageInfo, ...]


def wire(flow: Flow, ground: Ground, noted: Callable[[], None]) -> Wired:
    """Make the workers of a flow and the edges between them. Nothing runs yet."""
    topology = flow.topology
    forgetful = isinstance(ground.journal, MemoryJournal) and not ground.journal.keep
    if forgetful and topology.overflow:
        raise FlowInvalid(
            f"flow {flow.name!r} has 1 problem",
            problems=(_OVERFLOW.format(", ".join(topology.overflow)),),
        )
    codecs = {name: Codec(name, declared) for name, declared in topology.outputs.items()}
    log = Log(ground, Letters(flow.max_dead_letters), codecs, noted, flow.stall_after)
    if DEAD_LETTERS in topology.nodes:
        log.letters.behind = frozenset(topology.behind(DEAD_LETTERS))
    stages: dict[str, Stage] = {}
    for name, node in topology.nodes.items():
        builder: Any = node
        stages[name] = builder.build(log, codecs[name])
    sources = [stage for stage in stages.values() if isinstance(stage, SourceStage)]
    log.letters.given = lambda: sum(source.taken for source in sources)
    edges = [_edge(arc, stages, flow.window, spills=arc.spills and not forgetful) for arc in topology.arcs]
    infos = tuple(
        StageInfo(
            name,
            node.kind,
            tuple(arc.source for arc in topology.upstream(name)),
            tuple(each.text for each in topology.outputs[name]),
            {arc.source: taken for arc in topology.upstream(name) if (taken := _taken(arc)) is not None},
        )
        for name, node in topology.nodes.items()
    )
    return Wired(flow, stages, edges, log, infos)


def _edge(arc: Arc, stages: Mapping[str, Stage], window: Window, *, spills: bool) -> Edge:
    source, target = stages[arc.source], stages[arc.target]
    inbox = target.inbox
    if isinstance(target, JoinStage) and arc.port == "reference":
        inbox = target.references
        target.reference = arc.source
    edge = Edge(arc.source, arc.target, inbox, window=window, spills=spills)
    edge.writer = source.wake
    if arc.routed is not None:
        edge.routed = {}
        edge.routes = _route(arc.routed)
    source.edges.append(edge)
    target.inputs.append(edge)
    return edge


def _taken(arc: Arc) -> tuple[int, ...] | None:
    """Indices of the declared types that an edge delivers; None when it delivers all, or only some events of a type."""
    routed = arc.routed
    if routed is None or any(issubclass(kind, each.origin) and kind is not each.origin for kind in routed for each in arc.declared):
        return None
    return tuple(number for number, each in enumerate(arc.declared) if issubclass(each.origin, routed))


def _route(taken: tuple[type, ...]) -> Callable[[type], bool]:
    """An edge delivers what its consumer declares: that class, and classes below it."""

    def routes(kind: type) -> bool:
        return issubclass(kind, taken)

    return routes
