"""The graph of a flow, and everything that can be wrong with it, found before anything runs.

All problems are reported in one error, each with the names it concerns and its fix.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from obzen_runtime.kernel import FlowInvalid, UsageError, counted
from obzen_runtime.stages import DEAD_LETTERS, DeadLetters, Declared, Join, Link, Node, Path, Sink, Source, payload_problem, same_class

__all__ = ["Arc", "Ignored", "Topology", "ignored"]


@dataclass(frozen=True)
class Ignored:
    """Output types of a flow that nobody needs to take."""

    types: tuple[type, ...]


def ignored(*types: type) -> Ignored:
    """Say that events of these types need no consumer: `oz.Flow(..., oz.ignored(Declined))`."""
    for each in types:
        if not isinstance(each, type):
            raise UsageError(
                f"oz.ignored({each!r}): {each!r} is not a class", remedy="Give the classes of events, such as oz.ignored(Declined)."
            )
    return Ignored(types)


@dataclass(frozen=True)
class Arc:
    """One edge of the graph, by name."""

    source: str
    target: str
    port: str
    declared: tuple[Declared, ...] = ()
    """What the source declares to give."""
    routed: tuple[type, ...] | None = None
    """The classes delivered, where that is not everything the source gives."""
    spills: bool = False
    """The consumer may be unwilling for a while, or nobody waits for it, as with letters: the log is the overflow."""


@dataclass
class Topology:
    """The checked graph: stages in topological order, and the edges between them."""

    name: str
    nodes: dict[str, Node] = field(default_factory=dict)
    arcs: list[Arc] = field(default_factory=list)
    outputs: dict[str, tuple[Declared, ...]] = field(default_factory=dict)
    overflow: tuple[str, ...] = ()
    """Joins that cannot work without a journal to read back from."""

    @classmethod
    def of(cls, name: str, paths: Sequence[Path], ignoring: Iterable[type] = ()) -> "Topology":
        """Read paths into a graph and check it. Raises `FlowInvalid` with every problem."""
        return _Reader(name, paths, tuple(ignoring)).read()

    def upstream(self, name: str) -> list[Arc]:
        return [arc for arc in self.arcs if arc.target == name]

    def downstream(self, name: str) -> list[Arc]:
        return [arc for arc in self.arcs if arc.source == name]

    def behind(self, name: str) -> set[str]:
        """Every stage that `name` feeds, directly or not."""
        return _reach([name], {node: [arc.target for arc in self.downstream(node)] for node in self.nodes}) - {name}


class _Reader:
    def __init__(self, name: str, paths: Sequence[Path], ignoring: tuple[type, ...]) -> None:
        self.topology = Topology(name)
        self.paths = paths
        self.ignoring = ignoring
        self.problems: list[str] = []
        self.links: list[Link] = []
        self.after: dict[str, list[str]] = {}
        self.before: dict[str, list[str]] = {}

    def read(self) -> Topology:
        self._collect()
        nodes = self.topology.nodes
        if nodes:
            self._shape()
            order = self._order()
            self._parameters()
            self._files()
            self.topology.nodes = {name: nodes[name] for name in order}
            self._types(order)
            self._overflow()
        if self.problems:
            raise FlowInvalid(f"flow {self.topology.name!r} has {counted(len(self.problems), 'problem')}", problems=tuple(self.problems))
        return self.topology

    # -- the graph ------------------------------------------------------------------------------

    def _collect(self) -> None:
        nodes = self.topology.nodes
        seen: dict[tuple[str, str, str], Link] = {}
        for path in self.paths:
            for node in path.nodes:
                known = nodes.setdefault(node.name, node)
                if known is not node and not _same(known, node):
                    self._once(
                        f"two stages are called {node.name!r}: rename one with .named('...'), or bind its parameters once "
                        "and use that description everywhere"
                    )
            for link in path.links:
                key = (link.source.name, link.target.name, link.port)
                first = seen.get(key)
                if first is None:
                    seen[key] = link
                    self.links.append(link)
                elif first is not link and _same(first.source, link.source) and _same(first.target, link.target):
                    self.problems.append(f"the edge {_arrow(link)} stands there twice: remove one")
        for name in nodes:
            self.after[name] = [link.target.name for link in self.links if link.source.name == name]
            self.before[name] = [link.source.name for link in self.links if link.target.name == name]
        for name, node in nodes.items():
            if isinstance(node, DeadLetters) and name != DEAD_LETTERS:
                self.problems.append(f"the dead letters are renamed to {name!r}: use oz.dead_letters as it is")
            if not isinstance(node, DeadLetters) and name == DEAD_LETTERS:
                self.problems.append(f"a stage is called {name!r}, which is the flow's own: rename it")
        if not nodes:
            self.problems.append("it has no stages: give it at least one path, such as source >> sink")

    def _shape(self) -> None:
        nodes = self.topology.nodes
        sources = [name for name, node in nodes.items() if isinstance(node, Source)]
        sinks = [name for name, node in nodes.items() if isinstance(node, Sink)]
        if not sources:
            self.problems.append("it has no source: begin a path with a function decorated with @oz.source")
        if not sinks:
            self.problems.append("it has no sink: end a path with a function decorated with @oz.sink")
        for link in self.links:
            if isinstance(link.target, Source):
                self.problems.append(f"the edge {_arrow(link)} goes into a source: a source takes no events")
            if isinstance(link.target, DeadLetters):
                self.problems.append(
                    f"the edge {_arrow(link)} goes into the dead letters: raise an error in the stage, or yield oz.Bad in a source"
                )
            if isinstance(link.source, Sink):
                self.problems.append(f"the edge {_arrow(link)} leaves a sink: a sink gives no events; use a transform")
        fed = _reach([name for name, node in nodes.items() if isinstance(node, Source | DeadLetters)], self.after)
        drained = _reach(sinks, self.before)
        for name, node in nodes.items():
            if name not in fed and sources and not isinstance(node, Source):
                self.problems.append(f"stage {name!r} is not reached by any source: join it behind one")
            if name not in drained and sinks and not isinstance(node, Sink):
                self.problems.append(f"stage {name!r} reaches no sink: join one behind it")
            self._ports(name, node)
        self._connected(sources)

    def _ports(self, name: str, node: Node) -> None:
        if not isinstance(node, Join):
            return
        for port in node.ports:
            feeding = [link.source.name for link in self.links if link.target.name == name and link.port == port]
            if not feeding:
                self.problems.append(f"join {name!r} has nothing on its {port} side: wire it with `... >> {name}.{port}`")
            if port == "reference" and len(feeding) > 1:
                self.problems.append(f"join {name!r} has {len(feeding)} references ({', '.join(feeding)}): join them in a transform first")
        twice = {link.source.name for link in self.links if link.target.name == name and self._both_sides(link)}
        for source in sorted(twice):  # the log knows what a stage took by its upstream's name alone
            self.problems.append(f"join {name!r} reads {source} on both sides: put a transform between them on one side")

    def _both_sides(self, link: Link) -> bool:
        return any(
            each.source.name == link.source.name and each.target.name == link.target.name and each.port != link.port for each in self.links
        )

    def _connected(self, sources: list[str]) -> None:
        """One connected graph; the dead letters come from every stage, so they connect to all."""
        both = {name: self.after[name] + self.before[name] for name in self.topology.nodes}
        for letters in (name for name, node in self.topology.nodes.items() if isinstance(node, DeadLetters)):
            both[letters] = [*both[letters], *sources]
            for name in sources:
                both[name] = [*both[name], letters]
        first = next(iter(both))
        apart = sorted(set(both) - _reach([first], both))
        if apart:
            self.problems.append(
                f"it falls apart: {', '.join(apart)} {'is' if len(apart) == 1 else 'are'} not connected to {first}: "
                "make a flow of its own of each part"
            )

    def _order(self) -> list[str]:
        """Stages in an order in which every stage stands behind those it reads; those of a circle and behind it at the end."""
        waiting = {name: len(self.before[name]) for name in self.topology.nodes}
        order = [name for name, count in waiting.items() if not count]
        for name in order:
            for target in self.after[name]:
                waiting[target] -= 1
                if not waiting[target]:
                    order.append(target)
        among = [name for name in waiting if name not in order]
        if among:
            cycle = self._cycle(set(among))
            self.problems.append(f"it goes round in a circle: {' >> '.join([*cycle, cycle[0]])}: take out one of these edges")
        return [*order, *among]

    def _cycle(self, among: set[str]) -> list[str]:
        walk = [min(among)]
        while True:
            back = next(name for name in self.before[walk[-1]] if name in among)
            if back in walk:
                return walk[walk.index(back) :][::-1]
            walk.append(back)

    def _parameters(self) -> None:
        for name, node in self.topology.nodes.items():
            for parameter in node.unbound:
                self.problems.append(
                    f"stage {name!r} needs its parameter {parameter!r}: "
                    f"bind it with {name}({parameter}=...) or --set {name}.{parameter}=..."
                )

    def _files(self) -> None:
        """A sink begins its file anew and writes where it stood: nobody else of the flow may use it."""
        users: dict[object, list[str]] = {}
        for name, node in self.topology.nodes.items():
            if node.file is not None:
                users.setdefault(node.file, []).append(name)
        for file, names in users.items():
            if len(names) > 1 and any(isinstance(self.topology.nodes[name], Sink) for name in names):
                self.problems.append(f"{' and '.join(names)} use one file, {file}, which a sink begins anew: give each its own path")

    # -- types ------------------------------------------------------------------------------------

    def _types(self, order: list[str]) -> None:
        outputs = self.topology.outputs
        for name in order:
            node = self.topology.nodes[name]
            given = [declared for upstream in self.before[name] for declared in outputs.get(upstream, ())]
            declared = node.outputs(list(dict.fromkeys(given)))
            if declared is None or (not declared and not isinstance(node, Sink) and node.kind != "top"):
                self.problems.append(f"stage {name!r} does not say what it gives: annotate what its function returns")
                declared = ()
            outputs[name] = declared
            if len(declared) > 256:
                self.problems.append(f"stage {name!r} declares {len(declared)} types, at most 256")
            if alike := same_class(declared):
                texts, kind = " and ".join(each.text for each in alike), alike[0].origin.__name__
                self.problems.append(f"stage {name!r} gives {texts}, which are both {kind} when they run: give each a struct of its own")
            if not isinstance(node, DeadLetters | Sink) and node.kind != "top":
                self.problems.extend(f"stage {name!r}: {problem}" for each in declared if (problem := payload_problem(each)) is not None)
        for link in self.links:
            self._arc(link)
        for name in order:
            self._consumed(name)

    def _arc(self, link: Link) -> None:
        source, target = link.source.name, link.target.name
        given = self.topology.outputs.get(source, ())
        taken = link.target.accepts(link.port)
        routed: tuple[type, ...] | None = None
        if taken and given:
            matching = [each for each in given if any(_fits(each, other) for other in taken)]
            if not matching:
                self.problems.append(
                    f"{_arrow(link)}: {source} gives {_texts(given)}, {target} takes {_texts(taken)}: no event would ever pass"
                )
            if len(matching) < len(given) or any(_narrower(each, taken) for each in given):
                routed = tuple(each.origin for each in taken)
        spills = isinstance(link.source, DeadLetters) or (isinstance(link.target, Join) and link.port == "stream")
        self.topology.arcs.append(Arc(source, target, link.port, given, routed, spills))

    def _consumed(self, name: str) -> None:
        """Every declared output type has a consumer, or is said to be ignored."""
        targets = [link for link in self.links if link.source.name == name]
        untaken = [
            each
            for each in self.topology.outputs.get(name, ())
            if not any(
                not link.target.accepts(link.port) or any(_fits(each, other) for other in link.target.accepts(link.port))
                for link in targets
            )
        ]
        if not targets or untaken == list(self.topology.outputs[name]):
            return  # every edge has been told that nothing would pass
        for each in untaken:
            if each.origin not in self.ignoring:
                takers = ", ".join(sorted({link.target.name for link in targets}))
                self.problems.append(
                    f"stage {name!r} gives {each.text}, which none of {takers} takes: join a stage that does, "
                    f"or add oz.ignored({each.text}) to the flow"
                )

    # -- overflow ---------------------------------------------------------------------------------

    def _overflow(self) -> None:
        """Joins whose waiting stream side would hold up a reference: with credit alone they would deadlock."""
        joins = [name for name, node in self.topology.nodes.items() if isinstance(node, Join)]
        reads = {
            name: _reach([arc.source for arc in self.topology.upstream(name) if arc.port == "reference"], self.before) for name in joins
        }
        blocks = {name: _reach([arc.source for arc in self.topology.upstream(name) if arc.port == "stream"], self.before) for name in joins}
        waits = {one: [other for other in joins if reads[one] & blocks[other]] for one in joins}
        self.topology.overflow = tuple(name for name in joins if name in _reach(waits[name], waits))

    def _once(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)


def _same(one: Node, other: Node) -> bool:
    """Whether two descriptions are of the same stage."""
    return one is other or (type(one) is type(other) and vars(one) == vars(other))


def _reach(start: Iterable[str], along: Mapping[str, Sequence[str]]) -> set[str]:
    found: set[str] = set()
    waiting = list(start)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(along[name])
    return found


def _fits(given: Declared, taken: Declared) -> bool:
    """Whether some event of type `given` may be taken as `taken`: the same class, a base of it, or one of its kinds."""
    if given.origin is taken.origin:
        one, other = get_args(given.annotation), get_args(taken.annotation)
        return not one or not other or one == other
    return issubclass(given.origin, taken.origin) or issubclass(taken.origin, given.origin)


def _narrower(given: Declared, taken: tuple[Declared, ...]) -> bool:
    """Whether only some events of `given` are taken: the consumer names a class below the declared one."""
    return not any(issubclass(given.origin, other.origin) for other in taken)


def _texts(declared: Iterable[Declared]) -> str:
    return " | ".join(each.text for each in declared)


def _arrow(link: Link) -> str:
    return f"{link.source.name} >> {link.target.name}{'.' + link.port if link.port else ''}"
