"""Random graphs of random stages over random windows, disturbed at random moments, against a model of ten lines each.

Whatever happens, the run ends; when it drains, every sink has what the model says of the events that the sources
gave; and the log never takes a step back.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

import pytest

import obzen_runtime as oz
from obzen_runtime.events import ActorRestarted, ActorState, Block, End, Slice
from obzen_runtime.flow import Cancel, Drain, PauseFlow, ResumeFlow, StopFlow
from obzen_runtime.journal import StageCheck
from tests.flow.kit import Seen, play

SEEDS = 240
CHUNK = 12


class Break(BaseException):
    """Ends the stage, not the event."""


@dataclass(eq=False)
class Vertex:
    """A stage of a random graph: how it is described, and what it does to a multiset of events."""

    name: str
    node: object
    model: Callable[[Counter, Counter], Counter]
    stateless: bool = True
    inputs: list["Vertex"] = field(default_factory=list)
    references: list["Vertex"] = field(default_factory=list)


class Graph:
    """A random graph and its model. The same seed gives the same one."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.vertices: list[Vertex] = []
        self.sources: dict[str, Vertex] = {}
        self.sinks: dict[str, tuple[Vertex, Seen]] = {}
        self.crashes = 0
        for number in range(self.random.randint(1, 3)):
            self.source(f"s{number}")
        for number in range(self.random.randint(0, 7)):
            self.inner(f"t{number}")
        fed = {id(each) for vertex in self.vertices for each in (*vertex.inputs, *vertex.references)}
        leaves = [vertex for vertex in self.vertices if id(vertex) not in fed]
        for number, vertex in enumerate([*leaves, *self.random.sample(self.vertices, self.random.randint(0, 1))]):
            self.sink(f"k{number}", vertex)
        if len(self.sources) > 1:  # one connected graph
            self.sink("all", *self.sources.values())

    # -- stages -----------------------------------------------------------------------------------

    def source(self, name):
        count, first = self.random.choice([0, 1, 5, 40, 150]), 1000 * len(self.sources)

        @oz.source
        def given() -> Iterator[int]:
            yield from range(first, first + count)

        @oz.source
        async def waits() -> AsyncIterator[int]:
            for number in range(first, first + count):
                await asyncio.sleep(0)
                yield number

        chosen = self.random.choice([given, waits])
        self.vertices.append(Vertex(name, chosen.named(name), lambda *_: Counter()))
        self.sources[name] = self.vertices[-1]

    def inner(self, name):
        kind = self.random.choice(
            ["plain", "plain", "filter", "flatten", "fussy", "lanes", "batch", "fold", "keyed", "each", "join", "left"]
        )
        vertex = getattr(self, kind)(name, self.breaks())
        vertex.node = vertex.node.named(name)
        vertex.name = name
        vertex.inputs = self.random.sample(self.vertices, min(len(self.vertices), self.random.choice([1, 1, 1, 2, 3])))
        if kind in ("join", "left"):
            others = [each for each in self.vertices if each not in vertex.inputs]
            if not others:
                return
            vertex.references = [self.random.choice(others)]
        self.vertices.append(vertex)

    def sink(self, name, *inputs):
        seen = Seen()
        if self.random.random() < 0.3:

            @oz.sink(batch=self.random.choice([1, 3, 50]), within=1.0)
            def out(events: list[int]) -> None:
                seen.extend(events)
        elif self.random.random() < 0.3:

            @oz.sink
            async def out(event: int) -> None:
                await asyncio.sleep(0)
                seen.append(event)
        else:

            @oz.sink
            def out(event: int) -> None:
                seen.append(event)

        vertex = Vertex(name, out.named(name), lambda events, _: events, inputs=list({id(each): each for each in inputs}.values()))
        self.sinks[name] = vertex, seen

    def breaks(self):
        """A check that may break its stage at one event, once."""
        left = [1 if self.random.random() < 0.15 else 0]
        at = self.random.randrange(150)
        self.crashes += left[0]

        def check(number):
            if left[0] and number % 1000 == at:
                left[0] = 0
                raise Break

        return check

    def plain(self, name, check):
        @oz.transform
        def t(number: int) -> int:
            check(number)
            return number

        return Vertex(name, t, lambda events, _: events)

    def lanes(self, name, check):
        @oz.transform(concurrency=self.random.choice([2, 5]))
        async def t(number: int) -> int:
            await asyncio.sleep(0)
            check(number)
            return number

        return Vertex(name, t, lambda events, _: events)

    def batch(self, name, check):
        @oz.transform(batch=self.random.choice([1, 2, 30]), within=0.5)
        def t(numbers: list[int]) -> list[int]:
            for number in numbers:
                check(number)
            return numbers

        return Vertex(name, t, lambda events, _: events)

    def filter(self, name, check):
        modulus = self.random.choice([2, 3, 1000])

        @oz.transform
        def t(number: int) -> int | None:
            check(number)
            return number if number % modulus == 0 else None

        return Vertex(name, t, lambda events, _: Counter({n: c for n, c in events.items() if n % modulus == 0}))

    def flatten(self, name, check):
        @oz.transform
        def t(number: int) -> Iterator[int]:
            check(number)
            for _ in range(number % 4):
                yield number

        return Vertex(name, t, lambda events, _: Counter({n: c * (n % 4) for n, c in events.items() if n % 4}))

    def fussy(self, name, check):
        @oz.transform
        def t(number: int) -> int:
            check(number)
            if number % 7 == 3:
                raise ValueError("seven")
            return number

        return Vertex(name, t, lambda events, _: Counter({n: c for n, c in events.items() if n % 7 != 3}))

    def fold(self, name, check):
        @oz.fold(0, emit=oz.at_end())
        def t(total: int, number: int) -> int:
            check(number)
            return total + number

        return Vertex(name, t, lambda events, _: Counter([sum(n * c for n, c in events.items())]), stateless=False)

    def keyed(self, name, check):
        @oz.stateful(key=lambda number: number % 5, emit=oz.at_end())
        class T:
            total: int = 0

            def fold(self, number: int) -> None:
                check(number)
                self.total += number

            def emit(self, key: int) -> int:
                return self.total

        def model(events, _):
            keys = {n % 5 for n in events}
            return Counter([sum(n * c for n, c in events.items() if n % 5 == key) for key in keys])

        return Vertex(name, oz.stage(T), model, stateless=False)

    def each(self, name, check):
        @oz.fold(0, emit=oz.each())
        def t(count: int, number: int) -> int:
            check(number)
            return count + 1

        return Vertex(name, t, lambda events, _: Counter(range(1, events.total() + 1)))

    def join(self, name, check, how="inner"):
        @oz.join(how=how, stream_key=lambda number: number % 50, reference_key=lambda number: number % 50)
        def t(number: int, match: int | None) -> int:
            check(number)
            return number if match is not None else -number - 1

        def model(events, references):
            keys = {n % 50 for n in references}
            found = Counter({n: c for n, c in events.items() if n % 50 in keys})
            if how == "left":
                found.update({-n - 1: c for n, c in events.items() if n % 50 not in keys})
            return found

        return Vertex(name, t, model, stateless=False)

    def left(self, name, check):
        return self.join(name, check, how="left")

    # -- the flow and its model ---------------------------------------------------------------------

    def flow(self):
        paths = []
        for vertex in (*self.vertices, *(sink for sink, _ in self.sinks.values())):
            paths.extend(each.node >> (vertex.node.stream if vertex.references else vertex.node) for each in vertex.inputs)
            paths.extend(each.node >> vertex.node.reference for each in vertex.references)
        return oz.Flow(
            "random",
            *paths,
            window=oz.Window(events=self.random.choice([1, 2, 3, 10, 8192]), size=self.random.choice([1, 60, 2**24])),
            restart=oz.Restart(strategy=self.random.choice(["one_for_one", "rest_for_one", "one_for_all"]), max=100),
        )

    def model(self, given):
        """What each stage gives when the sources gave this."""
        outputs = {}
        for vertex in (*self.vertices, *(sink for sink, _ in self.sinks.values())):
            events = sum((outputs[each.name] for each in vertex.inputs), Counter())
            references = sum((outputs[each.name] for each in vertex.references), Counter())
            outputs[vertex.name] = Counter(given[vertex.name]) if vertex.name in given else vertex.model(events, references)
        return outputs

    def stateless(self, vertex):
        return vertex.stateless and all(map(self.stateless, vertex.inputs))


def disturbance(chance):
    """Orders at random moments, counted in rounds of the loop."""
    orders = {
        "nothing": [],
        "pause": [PauseFlow(), ResumeFlow()],
        "drain": [Drain()],
        "stop": [StopFlow(within=500.0)],
        "cancel": [Cancel()],
        "several": [PauseFlow(), Drain(), StopFlow(within=500.0), Cancel()],
    }[chance.choice(["nothing", "nothing", "nothing", "pause", "drain", "stop", "cancel", "several"])]
    moments = [chance.randrange(300) for _ in orders]

    async def beside(pipeline):
        for order, rounds in zip(orders, moments, strict=True):
            for _ in range(rounds):
                await asyncio.sleep(0)
            pipeline.command(order)

    return beside


def steps_are_sound(played):
    """Every step of every stage goes on where the one before it ended, and the journal's own rules hold."""
    rules = StageCheck()
    for position, record in enumerate(played.records, 1):
        rules.feed(position, record)
    assert rules.problems == []
    for name in played.pipeline.stages:
        taken, following, base = 0, {}, 0
        for step in played.steps(name):
            if isinstance(step, Block):
                assert step.base == base, name
                base += step.count
            ended = [each for each in step.inputs if isinstance(each, End)]
            for piece in step.inputs:
                if isinstance(piece, Slice):
                    assert piece.start == following.get(piece.upstream, 0), (name, piece)
                    assert piece.stop >= piece.start
                    following[piece.upstream] = piece.stop
            assert step.cursor is not None
            assert step.cursor.taken >= taken
            assert not ended or step.cursor.taken == taken
            taken = step.cursor.taken
            if name not in played.pipeline.sources:
                assert step.cursor.next == {upstream: stop for upstream, stop in following.items() if stop} or step.cursor.next == following
        assert base == played.pipeline.stages[name].written


def gave_up(played):
    """Whether a stage crashed while the flow was stopping: it is not restarted then, and leaves the rest in the log."""
    return any(isinstance(record, ActorState) and (record.source, record.event) == ("restarting", "Suspend") for record in played.records)


@pytest.mark.parametrize("chunk", range(SEEDS // CHUNK))
def test_a_random_graph_ends_and_loses_nothing(chunk):
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        graph = Graph(seed)
        played = play(graph.flow(), beside=disturbance(graph.random))
        told = f"seed {seed}: {played.state} {played.reason} {played.error}"
        assert played.state in ("drained", "cancelled"), told
        assert played.error is None, told
        assert played.complaints == [], told
        assert len(played.verdict) == 1, told
        steps_are_sound(played)
        given = {name: played.events(name) for name in graph.sources}
        expected = graph.model(given)
        if played.state == "drained":
            assert all(each.passed for each in played.pipeline.verdicts), told
        for name, (sink, seen) in graph.sinks.items():
            found = Counter(seen)
            if played.state == "drained":
                assert found == expected[name], f"{told}: {name}"
            elif played.reason == "user_stop" and graph.stateless(sink) and not gave_up(played):
                assert found == expected[name], f"{told}: {name} after a stop"
            elif graph.stateless(sink):
                assert found <= expected[name], f"{told}: {name} doubled"


def test_the_seeds_cover_what_they_should():
    graphs = [Graph(seed) for seed in range(SEEDS)]
    kinds = Counter(type(vertex.node).__name__ for graph in graphs for vertex in graph.vertices)
    assert {"Source", "Transform", "Fold", "Stateful", "Join"} <= kinds.keys()
    assert min(kinds.values()) > 30
    assert sum(graph.crashes > 0 for graph in graphs) > 30
    assert sum(bool(graph.flow().topology.overflow) for graph in graphs) > 10
    assert sum(len(played.of(ActorRestarted)) for played in (play(graph.flow()) for graph in graphs[:40])) > 3
