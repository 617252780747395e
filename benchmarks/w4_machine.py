"""What does a transition cost in the compiled table, against a dict look-up and a call, and against `transitions` itself?"""

from pathlib import Path
from time import perf_counter

import msgspec
import transitions

import obzen_runtime as oz
from benchmarks.harness import Case, Question, Target, checked

__all__ = ["QUESTION"]


class Tick(msgspec.Struct, frozen=True, tag=True):
    """What moves the machine round."""


STATES = ("red", "red_amber", "green", "amber")
AFTER = dict(zip(STATES, (*STATES[1:], STATES[0]), strict=True))


class Counter:
    """The context: counts what the actions did."""

    def __init__(self) -> None:
        self.count = 0


def count(context: Counter, event: object) -> None:
    context.count += 1


LIGHTS: oz.Machine[Counter] = oz.Machine("lights", initial="red", table=[oz.on(Tick, state, AFTER[state], do=[count]) for state in STATES])


def compiled(size: int, place: Path) -> float:
    """Seconds per transition, the machine asked as the loop asks it."""
    step = LIGHTS.step
    context, event, state = Counter(), Tick(), LIGHTS.initial
    begun = perf_counter()
    for _ in range(size):
        taken = step(state, event, context)
        assert taken is not None
        state, actions = taken
        for action in actions:
            action(context, event)
    seconds = perf_counter() - begun
    checked("machine", (state, context.count), (STATES[size % 4], size))
    return seconds / size


def look_up(size: int, place: Path) -> float:
    """The least a transition can be: a dict look-up and a call."""
    table = {(state, Tick): (AFTER[state], count) for state in STATES}
    context, event, state = Counter(), Tick(), STATES[0]
    begun = perf_counter()
    for _ in range(size):
        state, action = table[state, type(event)]
        action(context, event)
    seconds = perf_counter() - begun
    checked("dict", (state, context.count), (STATES[size % 4], size))
    return seconds / size


class _Model:
    def __init__(self) -> None:
        self.count = 0

    def act(self) -> None:
        self.count += 1


def library(size: int, place: Path) -> float:
    """The library whose definitions our tables are."""
    model = _Model()
    rows = [{"trigger": "tick", "source": state, "dest": AFTER[state], "after": "act"} for state in STATES]
    transitions.Machine(model, states=list(STATES), transitions=rows, initial=STATES[0], auto_transitions=False)
    tick = model.tick
    few = max(1, size // _LIBRARY_SHARE)
    begun = perf_counter()
    for _ in range(few):
        tick()
    seconds = perf_counter() - begun
    checked("transitions", (model.state, model.count), (STATES[few % 4], few))
    return seconds / few


_LIBRARY_SHARE = 50

QUESTION = Question(
    name="w4_machine",
    unit="transitions",
    size=1_000_000,
    yardsticks={"dict look-up and call": look_up, "transitions": library},
    cases=(
        Case("against a dict", compiled, "dict look-up and call", Target(0.2)),
        Case("against transitions", compiled, "transitions", Target(20)),
    ),
)
