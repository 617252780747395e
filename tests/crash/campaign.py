"""Rounds of `kill -9` at an append drawn from the uninterrupted run's count, each resumed until done.

The outputs must be the bytes of the uninterrupted run (behind a fan-in: the same lines in another order), every edge's
contract passed, every input of every stage taken once.
"""

import asyncio
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from obzen_runtime.events import Block, Contract, Receipt, RunCompleted, RunResumed, Slice
from obzen_runtime.journal import SegmentReader, check

__all__ = ["CAMPAIGNS", "Campaign", "Failed"]

HERE = Path(__file__).parent


class Failed(AssertionError):
    """A round did not end as the uninterrupted run."""


def _nothing(folder: Path, size: int) -> None:
    """Most flows bring their input along."""


def _text(folder: Path, size: int) -> None:
    """Words of a language that nobody speaks, with a few that everybody uses."""
    chance = random.Random(7)
    known = ["".join(chance.choices("abcdefghiklmnoprstuw", k=chance.randint(2, 9))) for _ in range(20_000)]
    common = known[:60]
    with (folder / "text.txt").open("w", encoding="utf-8") as file:
        while size > 0:
            line = " ".join(chance.choices(common, k=6) + chance.choices(known, k=6)) + ".\n"
            size -= file.write(line)


@dataclass(frozen=True)
class Campaign:
    """One flow, its outputs and its size."""

    name: str
    outputs: tuple[str, ...]
    settings: Callable[[int], Sequence[str]]
    sizes: tuple[int, int]
    """Of the input: for every push, and for a night."""
    make: Callable[[Path, int], None] = _nothing
    ordered: bool = True
    """Whether the order of the lines is the same in every run."""

    def begin(self, folder: Path, size: int) -> "Rounds":
        """Make the input and run it once without a death."""
        folder.mkdir(parents=True, exist_ok=True)
        self.make(folder, size)
        rounds = Rounds(self, folder, size)
        rounds.whole()
        return rounds


CAMPAIGNS = {
    each.name: each
    for each in (
        Campaign("flights", ("departures.csv", "totals.csv"), lambda size: (), (1, 1)),
        Campaign("words", ("counts.csv",), lambda size: (), (500_000, 52_000_000), make=_text),
        Campaign("orders", ("accounts.jsonl",), lambda size: ("--set", f"orders.count={size}"), (60_000, 2_000_000)),
        Campaign(
            "fanin",
            ("readings.jsonl",),
            lambda size: ("--set", f"north.count={size * 3 // 5}", "--set", f"south.count={size * 2 // 5}"),
            (30_000, 1_000_000),
            ordered=False,
        ),
    )
}


@dataclass
class Rounds:
    """The rounds of one campaign, one after the other."""

    campaign: Campaign
    folder: Path
    size: int
    appends: int = 0
    """Of the uninterrupted run."""
    expected: dict[str, object] = field(default_factory=dict)
    deaths: int = 0

    def whole(self) -> None:
        """The uninterrupted run: what is expected, and how many appends it took."""
        place = self._place("whole")
        told = place / "appends"
        self._command(place, self._run(), told=told)
        self.appends = int(told.read_text())
        self.expected = {name: self._content(place / name) for name in self.campaign.outputs}
        if not all(self.expected.values()):
            raise Failed(f"{self.campaign.name}: an output is empty")
        shutil.rmtree(place)

    def round(self, seed: int) -> int:
        """One run that dies at a drawn append, and perhaps again while it is resumed; returns how often it died."""
        chance = random.Random(f"{self.campaign.name} {seed}")
        place = self._place(f"round{seed}")
        died = 0
        arguments, left = self._run(), self.appends
        for _ in range(1 if chance.random() < 0.7 else 3):
            at, when = chance.randint(1, max(1, left)), chance.choice(["before", "after"])
            code = self._command(place, arguments, die=(at, when))
            died += code == -9
            if code == 0:
                break
            if (place / "runs" / "r").exists() and any((place / "runs" / "r" / "journal").glob("*.seg")):
                arguments = ("resume", "r")
            left -= at
        else:
            self._command(place, arguments)
        self._judge(place, f"{self.campaign.name}, round {seed}, size {self.size}")
        shutil.rmtree(place)
        self.deaths += died
        return died

    def _run(self) -> Sequence[str]:
        return ("run", str(HERE / f"{self.campaign.name}.py"), "--run-id", "r", *self.campaign.settings(self.size))

    def _place(self, name: str) -> Path:
        place = self.folder / name
        if place.exists():
            shutil.rmtree(place)
        place.mkdir()
        for path in self.folder.glob("*.txt"):
            (place / path.name).symlink_to(path)
        return place

    def _command(self, place: Path, arguments: Sequence[str], *, die: tuple[int, str] = (0, ""), told: Path | None = None) -> int:
        environment = {**os.environ, "DIE_AT": str(die[0]), "DIE_WHEN": die[1], "APPENDS": str(told or "")}
        done = subprocess.run(
            [sys.executable, str(HERE / "dying.py"), *arguments, "--runs", "runs", "--quiet"],
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode not in (0, -9 if die[0] else 0):
            raise Failed(f"{self.campaign.name}: {' '.join(arguments)} ended with {done.returncode}: {done.stderr[-2000:]}")
        return done.returncode

    def _content(self, path: Path) -> object:
        data = path.read_bytes()
        return data if self.campaign.ordered else Counter(data.splitlines())

    def _judge(self, place: Path, told: str) -> None:
        for name, expected in self.expected.items():
            if self._content(place / name) != expected:
                raise Failed(f"{told}: {name} is not what the uninterrupted run wrote; see {place}")
        problems = check(place / "runs" / "r").problems
        if problems:
            raise Failed(f"{told}: {problems[0]}; see {place}")
        asyncio.run(_account(place / "runs" / "r", f"{told}; see {place}"))


async def _account(run: Path, told: str) -> None:
    """Every event of every upstream was taken once by each who takes from it, and every contract passed."""
    following: dict[tuple[str, str], int] = {}
    completed = 0
    async for _, record in SegmentReader.open(run).read(kinds=frozenset({Block, Receipt, Contract, RunCompleted, RunResumed})):
        match record:
            case Block() | Receipt():
                for piece in record.inputs:
                    if isinstance(piece, Slice):
                        key = record.stage, piece.upstream
                        if piece.start != following.get(key, 0):
                            raise Failed(f"{told}: {record.stage} took {piece.upstream}@{piece.start}, expected {following.get(key, 0)}")
                        following[key] = piece.stop
            case Contract(passed=False):
                raise Failed(f"{told}: the contract {record.edge} was violated")
            case RunCompleted():
                completed += 1
    if completed != 1:
        raise Failed(f"{told}: completed {completed} times")
