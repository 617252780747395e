"""Random flows against a plain model: outputs, parents, losses, letters, counters and contracts all agree."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import obzen_runtime as oz
from obzen_runtime.events import Block, DeadLetter, Slice, expand
from tests.stages.kit import Seen, ints, play


class A(msgspec.Struct, frozen=True):
    """An event of one class; `path` holds what it was made of, newest last."""

    path: tuple[int, ...]


class B(msgspec.Struct, frozen=True):
    """An event of another class."""

    path: tuple[int, ...]


class Plan(msgspec.Struct, frozen=True):
    """What one transform does, by the last number of an event's path."""

    kind: str
    drop: int
    fail: int
    wide: int
    crash: int
    undeclared: int
    """Every so many-th event; 0 never."""


def outcome(plan: Plan, value: int) -> Any:
    """`fail`, or the list of branch numbers given."""
    if plan.fail and value % plan.fail == plan.fail - 1:
        return "fail"
    if plan.drop and value % plan.drop == 0:
        return []
    if plan.kind in ("many", "many async"):
        return list(range(value % (plan.wide + 1)))
    return [0]


def made_of(event: Any, branch: int) -> Any:
    value = event.path[-1] * 3 + branch
    return (A if value % 2 else B)((*event.path, value))


def described(plan: Plan, name: str) -> Any:
    crashed: set[int] = set()

    def work(event: Any) -> list[Any]:
        value = event.path[-1]
        if plan.crash and value % plan.crash == 1 and not crashed:
            crashed.add(value)
            raise KeyboardInterrupt
        does = outcome(plan, value)
        if does == "fail":
            if plan.undeclared and value % plan.undeclared == 0:
                return [2**70]
            raise ValueError("planned")
        return [made_of(event, branch) for branch in does]

    def first(made):
        return made[0] if made else None

    shapes: dict[str, Any] = {}

    @oz.transform
    def plain(event: A | B) -> A | B | None:
        return first(work(event))

    @oz.transform
    async def awaited(event: A | B) -> A | B | None:
        return first(work(event))

    @oz.transform(concurrency=3)
    async def lanes(event: A | B) -> A | B | None:
        return first(work(event))

    @oz.transform(batch=7)
    def batch(events: list[A | B]) -> list[A | B | None]:
        return [first(work(event)) for event in events]

    @oz.transform
    def many(event: A | B) -> Iterator[A | B]:
        yield from work(event)

    @oz.transform
    async def many_async(event: A | B) -> AsyncIterator[A | B]:
        for each in work(event):
            yield each

    shapes = {"plain": plain, "async": awaited, "lanes": lanes, "batch": batch, "many": many, "many async": many_async}
    return shapes[plan.kind].named(name)


PLANS = st.builds(
    Plan,
    kind=st.sampled_from(["plain", "async", "lanes", "batch", "many", "many async"]),
    drop=st.sampled_from([0, 2, 3, 5]),
    fail=st.sampled_from([0, 3, 4, 7]),
    wide=st.integers(0, 5),
    crash=st.sampled_from([0, 0, 5, 11]),
    undeclared=st.sampled_from([0, 2]),
)


def accounted(done, stage):
    """Every upstream ordinal the stage took, by what became of it, read from the log alone."""
    took: list[tuple[str, int]] = []
    for record in done.of(Block, stage):
        for each in record.inputs:
            if isinstance(each, Slice):
                took.extend((each.upstream, n) for n in range(each.start, each.stop))
    return took


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(plans=st.lists(PLANS, min_size=1, max_size=3), count=st.integers(0, 60), window=st.sampled_from([1, 3, 8, 8192]))
def test_a_chain_accounts_for_every_event_once(plans, count, window):
    @oz.transform
    def start(n: int) -> A | B:
        return (A if n % 2 else B)((n,))

    path, names = ints(count) >> start, ["start"]
    for number, plan in enumerate(plans):
        names.append(f"t{number}")
        path = path >> described(plan, names[-1])
    seen = Seen()
    done = play(oz.Flow("f", path >> seen.sink(A | B), window=oz.Window(events=window), restart=oz.Restart(max=9)))

    assert done.error is None, done.error
    assert done.state == "drained"
    assert all(verdict.passed for verdict in done.verdicts)
    model = [(A if n % 2 else B)((n,)) for n in range(count)]
    for name, upstream, plan in zip(names[1:], names, plans, strict=False):
        does = [outcome(plan, event.path[-1]) for event in model]
        outputs = [made_of(event, branch) for event, branches in zip(model, does, strict=True) if branches != "fail" for branch in branches]
        origins = [number for number, branches in enumerate(does) if branches != "fail" for _ in branches]
        dead = [number for number, branches in enumerate(does) if branches == "fail"]
        dropped = [number for number, branches in enumerate(does) if branches == []]
        assert list(done.events(name).values()) == outputs
        assert list(done.parents(name).values()) == [(upstream, number) for number in origins]
        lost = done.lost(name)
        assert sorted(lost.get("dead", [])) == dead
        assert sorted(lost.get("dropped", [])) == dropped
        assert set(lost) <= {"dead", "dropped"}
        assert [letter.event for letter in done.letters(name)] == dead
        assert [msgspec.msgpack.decode(letter.payload, type=A) for letter in done.letters(name)] == [A(model[n].path) for n in dead]
        counters = done[name]
        assert (counters.received, counters.emitted, counters.dropped, counters.dead) == (len(model), len(outputs), len(dropped), len(dead))
        assert accounted(done, name) == [(upstream, n) for n in range(len(model))]
        model = outputs
    assert seen == model
    assert [letter.ordinal for letter in done.of(DeadLetter)] == list(range(len(done.letters())))


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(left=PLANS, right=PLANS, count=st.integers(0, 60), window=st.sampled_from([1, 3, 8, 8192]))
def test_routing_by_type_accounts_for_every_event_once(left, right, count, window):
    """Events of class A go left, of class B right, and both arms meet again."""

    @oz.transform
    def start(n: int) -> A | B:
        return (A if n % 3 else B)((n,))

    arms = {"left": (left, A), "right": (right, B)}
    nodes = {name: retyped(described(plan, name), kind) for name, (plan, kind) in arms.items()}
    origin, seen = ints(count) >> start, Seen()
    meet = seen.sink(A | B)
    done = play(
        oz.Flow(
            "f",
            origin >> nodes["left"] >> meet,
            start >> nodes["right"] >> meet,
            window=oz.Window(events=window),
            restart=oz.Restart(max=9),
        )
    )
    assert done.error is None, done.error
    assert done.state == "drained"
    assert all(verdict.passed for verdict in done.verdicts)
    started = [(A if n % 3 else B)((n,)) for n in range(count)]
    outputs = []
    for name, (plan, kind) in arms.items():
        taken = [n for n, event in enumerate(started) if type(event) is kind]
        does = {n: outcome(plan, started[n].path[-1]) for n in taken}
        mine = [made_of(started[n], branch) for n in taken if does[n] != "fail" for branch in does[n]]
        assert list(done.events(name).values()) == mine
        assert list(done.parents(name).values()) == [("start", n) for n in taken if does[n] != "fail" for _ in does[n]]
        lost = done.lost(name)
        assert sorted(lost.get("dead", [])) == [n for n in taken if does[n] == "fail"]
        assert sorted(lost.get("dropped", [])) == [n for n in taken if does[n] == []]
        assert [letter.event for letter in done.letters(name)] == [n for n in taken if does[n] == "fail"]
        assert done[name].received == len(taken)
        outputs.extend(mine)
    assert sorted(seen, key=repr) == sorted(outputs, key=repr)


def retyped(node: Any, kind: type) -> Any:
    """The same transform, which takes events of one class only."""
    signature = node.signature
    [declared] = [[each for each in signature.inputs[0] if each.origin is kind]]
    return type(node)(node.name, node.handler, signature=signature._replace(inputs=(tuple(declared),)), options=node.options)


@given(st.lists(st.integers(0, 3), max_size=40), st.sampled_from([1, 2, 5, 8192]))
@settings(max_examples=40)
def test_slices_and_losses_of_a_generator_cover_each_input_exactly_once(widths, window):
    @oz.transform
    def spread(n: int) -> Iterator[int]:
        for _ in range(widths[n]):
            yield n

    done = play(oz.Flow("f", ints(len(widths)) >> spread >> Seen().sink(), window=oz.Window(events=window)))
    assert done.state == "drained"
    gave = {n for _, n in done.parents("spread").values()}
    lost = {n for offsets in done.lost("spread").values() for n in offsets}
    assert gave | lost == set(range(len(widths)))
    assert not gave & lost
    for block in done.blocks("spread"):
        assert all(offset >= 0 for each in block.errors for offset in expand(each.runs))
