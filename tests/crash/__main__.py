"""`python -m tests.crash`: a night of deaths. Prints each campaign's number of rounds and deaths as it goes."""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.crash.campaign import CAMPAIGNS, Failed


def main() -> int:
    """Run the campaigns asked for; 1 when a round failed, whose directory is kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("campaigns", nargs="*", choices=[*CAMPAIGNS, []], help="default: all")
    parser.add_argument("--rounds", type=int, default=250, help="of each campaign (default: 250)")
    parser.add_argument("--first", type=int, default=0, help="the first round's seed")
    parser.add_argument("--small", action="store_true", help="the sizes of every push")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="obzen-crash-"))
    for name in asked.campaigns or CAMPAIGNS:
        campaign = CAMPAIGNS[name]
        size = campaign.sizes[0 if asked.small else 1]
        began = time.monotonic()
        try:
            rounds = campaign.begin(folder / name, size)
            for seed in range(asked.first, asked.first + asked.rounds):
                rounds.round(seed)
        except Failed as failed:
            sys.stdout.write(f"{failed}\n")
            return 1
        seconds = time.monotonic() - began
        sys.stdout.write(
            f"{name}: {asked.rounds} rounds, {rounds.deaths} deaths, {rounds.appends} appends a run, 0 differences, {seconds:.0f} s\n"
        )
        sys.stdout.flush()
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
