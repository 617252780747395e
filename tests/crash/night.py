"""`make crash`: everything that is too long for every push, two pieces at a time, and a summary. About an hour and a half on 2 cores.

`SCALE` (default 1) makes all of it smaller: `make crash SCALE=0.01` shows in some minutes that each piece works. Each
piece writes to a log of its own, which is kept when the piece fails.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from obzen_runtime.testing.flows import FLOWS
from tests.crash.campaign import CAMPAIGNS

ROUNDS = {"flights": 400, "fanin": 300, "orders": 200, "words": 100}
"""A thousand; the larger a campaign's input, the fewer."""
SEEDS = 200_000
PARTS = 4
"""The seeds are dealt to so many pieces, so that two processes end together."""
WORKERS = 2
JOURNAL = ["tests/crash/test_errors.py", "tests/crash/test_syscalls.py", "tests/journal/test_kill.py", "tests/reliability/test_full.py"]


@dataclass(frozen=True)
class Piece:
    """A command, and how its output is told in a line."""

    name: str
    command: tuple[str, ...]
    told: Callable[[str], str]


def last_line(output: str) -> str:
    return (output.strip().splitlines() or [""])[-1]


def of_simulation(output: str) -> str:
    found = re.findall(r": (\d+) seeds, (\d+) violations.*?, (\d+) processes", output)
    seeds, violations, processes = (sum(int(each[place]) for each in found) for place in range(3))
    return f"{seeds:,} seeds, {processes:,} processes, {violations} violations"


def of_tests(output: str) -> str:
    counts = re.findall(r"^.*\b\d[\d,]* .*\b0 (?:wrong|acknowledged|events).*$", output, flags=re.MULTILINE)
    skipped = re.findall(r"^SKIPPED.*$", output, flags=re.MULTILINE)
    return "\n    ".join(["", *counts, *skipped, last_line(output)])


def pieces(scale: float) -> list[Piece]:
    """The longest first, so that none is begun late."""
    python = sys.executable
    small = ("--small",) if scale < 0.5 else ()
    rounds = {name: str(max(2, round(count * scale))) for name, count in ROUNDS.items()}
    campaigns = [Piece(name, (python, "-m", "tests.crash", name, "--rounds", rounds[name], *small), last_line) for name in CAMPAIGNS]
    lanes = 2 * len(FLOWS)
    share = max(1, round(SEEDS * scale / lanes / PARTS))
    simulate = (python, "-m", "obzen_runtime.testing", str(share * lanes))
    simulations = [Piece(f"simulation {part + 1}", (*simulate, str(share * part)), of_simulation) for part in range(PARTS)]
    pytest = (python, "-m", "pytest", "-q", "-s", "-rs", "-p", "no:randomly", "-p", "no:cacheprovider")
    return [*campaigns, *simulations, *(Piece(path, (*pytest, path), of_tests) for path in JOURNAL)]


def run(piece: Piece, folder: Path, scale: float) -> bool:
    """Run a piece to its end and tell its line; False when it failed."""
    log = folder / f"{re.sub(r'[^a-z0-9]+', '-', piece.name.lower())}.log"
    began = time.monotonic()
    with log.open("wb") as file:
        environment = {**os.environ, "OBZEN_NIGHT": str(scale), "PYTHONUNBUFFERED": "1"}
        done = subprocess.run(piece.command, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False)
    output = log.read_text(encoding="utf-8", errors="replace")
    failed = done.returncode != 0
    verdict = f"FAILED with {done.returncode}, see {log}\n{output[-2000:]}" if failed else piece.told(output)
    sys.stdout.write(f"{'FAIL' if failed else 'ok':4} {piece.name} ({time.monotonic() - began:.0f} s): {verdict}\n")
    sys.stdout.flush()
    return not failed


def main() -> int:
    """Run all of it; 1 when a piece failed."""
    scale = float(os.environ.get("SCALE") or "1")
    if not 0 < scale <= 1:
        sys.stdout.write(f"SCALE is {scale}: give more than 0 and at most 1\n")
        return 64
    folder = Path(tempfile.mkdtemp(prefix="obzen-night-"))
    began = time.monotonic()
    todo = pieces(scale)
    sys.stdout.write(f"{len(todo)} pieces at scale {scale:g}, logs in {folder}\n")
    sys.stdout.flush()
    with ThreadPoolExecutor(WORKERS) as workers:
        passed = list(workers.map(lambda piece: run(piece, folder, scale), todo))
    sys.stdout.write(f"{sum(passed)} of {len(todo)} pieces passed in {(time.monotonic() - began) / 60:.0f} minutes\n")
    if all(passed):
        shutil.rmtree(folder)
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
