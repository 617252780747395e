"""Lists the questions, or asks one, several or `all` of them."""

import argparse
import logging
import sys
from pathlib import Path

import msgspec

from benchmarks.harness import RESULTS, Answer, Plan, answer, asked, names
from benchmarks.report import svg, table


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Questions of speed, each beside its yardstick.")
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help="names, or `all`; none: list them")
    parser.add_argument("--size", type=_positive, help="units to run through, instead of the question's own")
    parser.add_argument("--rounds", type=_positive, help="pairs to measure (default: 5)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--plot", action="store_true", help="also draw an SVG beside the JSON file")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where results are kept and runs write meanwhile")
    given = parser.parse_args(arguments)
    known = names()
    if not given.questions:
        width = max(map(len, known))
        print("\n".join(f"{name:{width}}  {asked(name)}" for name in known))
        return 0
    wanted = known if given.questions == ["all"] else given.questions
    for name in wanted:
        if name not in known:
            parser.error(f"there is no question {name!r}; there are {', '.join(known)}")
    try:
        given.results.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"results cannot be kept in {given.results}: {error.strerror}")
    logging.disable(logging.CRITICAL)  # what is measured speaks for itself
    for name in wanted:
        found = answer(name, Plan(given.size, given.rounds, given.results))
        written = _keep(found, given.results, plot=given.plot)
        if given.json:
            print(msgspec.json.encode(found).decode())
        else:
            print(table(found), f"  {written}\n", sep="\n", flush=True)
    return 0


def _positive(text: str) -> int:
    if not text.replace("_", "").isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number from 1 on")
    return int(text)


def _keep(found: Answer, directory: Path, *, plot: bool) -> Path:
    stem = f"{found.question}-{found.at[:19].replace(':', '').replace('-', '')}"
    path = directory / f"{stem}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2))
    if plot:
        (directory / f"{stem}.svg").write_text(svg(found), encoding="utf-8")
    return path


if __name__ == "__main__":
    sys.exit(main())
