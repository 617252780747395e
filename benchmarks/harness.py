"""How a question of speed is asked so that a shared, noisy machine can answer it.

A time by itself says nothing here: the same loop is a third faster a minute later. So each case is measured right
after its yardstick, again and again, and what counts is the median of the ratios of these pairs. A measurement
checks what it computed, so that nothing is fast by not working.
"""

import ast
import datetime
import gc
import importlib
import os
import platform
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

__all__ = [
    "RESULTS",
    "Answer",
    "Case",
    "CaseAnswer",
    "Plan",
    "Question",
    "Target",
    "answer",
    "asked",
    "checked",
    "find",
    "machine",
    "names",
]

RESULTS = Path(__file__).parent / "results"

Measure = Callable[[int, Path], float]
"""Given the size and an empty directory: seconds per unit, or for a figure the figure itself."""


class Target(msgspec.Struct, frozen=True):
    """What a case must reach. `of` ratio: to its yardstick; `of` figure: as measured."""

    bound: float
    sense: Literal["at least", "at most"] = "at least"
    of: Literal["ratio", "figure"] = "ratio"

    def met(self, value: float) -> bool:
        return value >= self.bound if self.sense == "at least" else value <= self.bound

    @property
    def text(self) -> str:
        return f"{'≥' if self.sense == 'at least' else '≤'} {self.bound:g}"


class Case(msgspec.Struct, frozen=True):
    """One thing to measure, and the yardstick it is held against, by name ("" for none)."""

    name: str
    measure: Measure
    against: str = ""
    target: Target | None = None
    share: float = 1.0
    """Part of the question's size that this case runs at: slow ones need less."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What one file of this package asks."""

    name: str
    unit: str
    """What is counted (`events`), or the unit of a figure (`MiB`)."""
    size: int
    """Units a measurement runs through, unless told otherwise."""
    yardsticks: dict[str, Measure] = {}
    cases: tuple[Case, ...]
    figure: bool = False
    """What is measured is no time per unit but a figure of its own."""
    cost: bool = False
    """Ratios are of costs (case over yardstick), not of speeds."""
    rounds: int = 5


class Plan(msgspec.Struct, frozen=True):
    """How to ask: None takes the question's own."""

    size: int | None = None
    rounds: int | None = None
    place: Path = RESULTS
    """Where runs write while they are measured: on the disk that is meant."""


class CaseAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured of one case. Values are units per second, or figures."""

    case: str
    size: int
    values: list[float]
    yardstick: str = ""
    yardstick_values: list[float] = []
    ratios: list[float] = []
    """One a pair."""
    ratio: float | None = None
    """Median of the ratios."""
    target: str = ""
    met: bool | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A question's results, as they stand in its JSON file."""

    question: str
    asks: str
    unit: str
    figure: bool
    cost: bool
    at: str
    """When it was asked, UTC."""
    machine: dict[str, str | int | float]
    rounds: int
    cases: list[CaseAnswer]


def names() -> list[str]:
    """The questions there are: files of this package with a `QUESTION`."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if "\nQUESTION = " in path.read_text(encoding="utf-8"))


def asked(name: str) -> str:
    """What a question asks: the first line of its file. The others need not be importable for that."""
    tree = ast.parse((Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def find(name: str) -> Question:
    """A question by its name. Raises KeyError."""
    if name not in names():
        raise KeyError(name)
    found: Question = importlib.import_module(f"benchmarks.{name}").QUESTION
    return found


def checked(what: str, got: object, expected: object) -> None:
    """Raise when a measurement computed something else than it should."""
    if got != expected:
        raise AssertionError(f"{what}: got {got!r}, expected {expected!r}: this measurement did not do its work")


def answer(name: str, plan: Plan) -> Answer:
    """Measure: in every round each case right after its yardstick."""
    question = find(name)
    rounds = plan.rounds or question.rounds
    size = plan.size or question.size
    pairs: dict[str, list[tuple[float | None, float]]] = {case.name: [] for case in question.cases}
    at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    described = machine()
    for case in _interleaved(question.cases, rounds):
        units = _units(case, size)
        base = _quiet(question.yardsticks[case.against], units, plan.place) if case.against else None
        pairs[case.name].append((base, _quiet(case.measure, units, plan.place)))
    return Answer(
        question=name,
        asks=asked(name),
        unit=question.unit,
        figure=question.figure,
        cost=question.cost,
        at=at,
        machine=described,
        rounds=rounds,
        cases=[_judged(question, case, _units(case, size), pairs[case.name]) for case in question.cases],
    )


def _units(case: Case, size: int) -> int:
    return max(1, round(size * case.share))


def _interleaved(cases: Sequence[Case], rounds: int) -> Iterator[Case]:
    """Every case once a round, each round beginning with another one."""
    for number in range(rounds):
        turn = number % len(cases)
        yield from (*cases[turn:], *cases[:turn])


def _quiet(measure: Measure, size: int, directory: Path) -> float:
    """Measure in a directory of its own, with nothing left to collect from before."""
    directory.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix="run-") as place:
        gc.collect()
        return measure(size, Path(place))


def _judged(question: Question, case: Case, size: int, pairs: list[tuple[float | None, float]]) -> CaseAnswer:
    def value(cost: float) -> float:
        return cost if question.figure else 1 / cost

    yardstick_values = [value(base) for base, _ in pairs if base is not None]
    ratios = [cost / base if question.cost else base / cost for base, cost in pairs if base is not None]
    values = [value(cost) for _, cost in pairs]
    ratio = statistics.median(ratios) if ratios else None
    target = case.target
    judged = None
    if target is not None:
        judged = ratio if target.of == "ratio" else statistics.median(values)
    return CaseAnswer(
        case=case.name,
        size=size,
        values=values,
        yardstick=case.against,
        yardstick_values=yardstick_values,
        ratios=ratios,
        ratio=ratio,
        target=target.text if target is not None else "",
        met=target.met(judged) if target is not None and judged is not None else None,
    )


def machine() -> dict[str, str | int | float]:
    """What the measurements were made on."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count() or 0,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else -1.0,
        "system": platform.platform(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "msgspec": msgspec.__version__,
    }


def _cpu() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
