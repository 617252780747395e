"""`python -m obzen_runtime.testing [SEEDS] [FIRST]`: the runtime's own flows through this many drawn histories.

Seeds are dealt to the flows of `obzen_runtime.testing.flows` in turn, each at level `os` and at level `fsync`. Prints a
line for each flow and level, and the first failing seed with its story; exits with 1 then.
"""

import sys
import time

from obzen_runtime.testing.flows import FLOWS
from obzen_runtime.testing.simulation import Options, simulate


def main(seeds: int, first: int) -> int:
    """Try the seeds; returns the exit code."""
    levels = ("os", "fsync")
    share = -(-seeds // (len(FLOWS) * len(levels)))
    for name, flow in FLOWS.items():
        for level in levels:
            began = time.monotonic()
            report = simulate(flow, range(first, first + share), options=Options(durability=level))
            seconds = time.monotonic() - began
            sys.stdout.write(f"{name} at {level}: {report}, {report.processes} processes, {seconds:.1f} s\n")
            sys.stdout.flush()
            if not report.passed:
                return 1
    return 0


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:3]]
    sys.exit(main(*(numbers + [2000, 0][len(numbers) :])))
