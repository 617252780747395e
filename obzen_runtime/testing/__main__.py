"""`python -m obzen_runtime.testing [SEEDS] [FIRST]`: the runtime's own flows through this many drawn histories.

Seeds are dealt to the flows of `obzen_runtime.testing.flows` in turn, each at level `os` and at level `fsync`. Prints a
line for each flow and level, and the first failing seed with its story; exits with 1 then.
"""

import argparse
import sys
import time
from collections.abc import Sequence

from obzen_runtime.testing.flows import FLOWS
from obzen_runtime.testing.simulation import Options, simulate


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the seeds; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m obzen_runtime.testing", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("seeds", nargs="?", type=int, default=2000, help="over all flows and levels (default: 2000)")
    parser.add_argument("first", nargs="?", type=int, default=0, help="the first seed of each (default: 0)")
    given = parser.parse_args(arguments)
    seeds, first, levels = given.seeds, given.first, ("os", "fsync")
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
    sys.exit(main())
