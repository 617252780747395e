"""`obzen simulate`: a user's flow through simulated crashes, seed by seed, until one breaks a promise."""

import os
import shlex
import sys
import time
from collections.abc import Iterator
from typing import Annotated

import msgspec
import typer

from obzen_runtime.cli.command import EXIT_FAILED, Common
from obzen_runtime.cli.loading import load, settings_from
from obzen_runtime.cli.say import hint, say
from obzen_runtime.kernel import UsageError, counted
from obzen_runtime.testing import Options, Plan, Simulator, Violation

__all__ = ["SimulateOptions", "simulate"]

_HASHES = "PYTHONHASHSEED"
_EVERY = 2.0
"""Seconds between two lines of progress."""


class SimulateOptions(Common, frozen=True, kw_only=True):
    """What `obzen simulate` takes."""

    file: Annotated[str, typer.Argument(metavar="FILE[:VARIABLE]", help="The Python file that defines the flow.")]
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", help="How many histories to try.")] = 200
    from_seed: Annotated[int, typer.Option("--from-seed", metavar="K", help="The first seed.")] = 0
    seed: Annotated[int | None, typer.Option("--seed", metavar="K", help="Try this seed alone.")] = None
    exhaustive: Annotated[bool, typer.Option("--exhaustive", help="Instead: kill one run before and behind each of its appends.")] = False
    real: Annotated[bool, typer.Option("--real", help="Call the sinks' own handlers instead of stand-ins.")] = False
    items: Annotated[int, typer.Option("--items", metavar="N", help="Items a source gives at the most; 0: all.")] = 300
    durability: Annotated[str, typer.Option("--durability", metavar="LEVEL", help="Level of the journal: os, interval(MS) or fsync.")] = (
        "os"
    )
    set: Annotated[
        list[str], typer.Option("--set", metavar="STAGE.PARAMETER=VALUE", help="Set a parameter of a stage; repeat it for a list.")
    ] = []  # noqa: RUF012 - a struct copies it
    json: Annotated[bool, typer.Option("--json", help="What was found as one line of JSON.")] = False


def simulate(options: SimulateOptions) -> int:
    """Run a flow's real code through simulated crashes, and check what it promises after each.

    A seed draws one to five crashes (the process killed, the power gone, the disk failing or full, a stop), slow and
    breaking handlers and the order of wake-ups; time and disk are simulated. Sinks are replaced: by what they name as
    simulate=, else by a recorder of their class of delivery. Checked are: nothing lost, nothing twice beyond the class,
    acknowledged records kept, an end. Prints the first failing seed with the command that repeats it, and exits with 1.
    """
    if os.environ.get(_HASHES, "random") == "random":
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, "-m", "obzen_runtime", *sys.argv[1:]], {**os.environ, _HASHES: "0"})  # noqa: S606 - ourselves
    if options.seeds < 1 or options.items < 0:
        raise UsageError("--seeds and --items count", remedy="Give --seeds 1 or more, and --items 0 (all) or more.")
    flow = load(options.file).flow.bind(settings_from(options.set))
    simulator = Simulator(flow, Options(items=options.items or None, durability=options.durability, real=options.real))
    if simulator.trusted:
        hint(f"taken at their word, since no simulate= names a stand-in: {', '.join(simulator.trusted)}")
    tried, found = _search(simulator, options)
    histories = counted(tried, "crash", "crashes") if options.exhaustive else counted(tried, "seed")
    if options.json:
        told = {"tried": tried, "processes": simulator.processes, "violation": found, "replay": _replay(options, found) if found else ""}
        say(msgspec.json.encode(told).decode())
    elif found is None:
        say(f"{histories}, 0 violations")
    else:
        say("\n".join(_told(options, found)))
    return EXIT_FAILED if found is not None else 0


def _search(simulator: Simulator, options: SimulateOptions) -> tuple[int, Violation | None]:
    """Try one history after the other; how many, and the first violation."""
    tried, said = 0, time.monotonic()
    for plan in _plans(simulator, options):
        tried += 1
        found = simulator.violation(plan)
        if found is not None:
            return tried, found
        if time.monotonic() - said > _EVERY:
            said = time.monotonic()
            hint(f"{tried} tried, {simulator.processes} processes")
    return tried, None


def _plans(simulator: Simulator, options: SimulateOptions) -> Iterator[Plan]:
    if options.exhaustive:
        yield from simulator.exhaustive(options.seed or options.from_seed)
    elif options.seed is not None:
        yield simulator.plan(options.seed)
    else:
        for seed in range(options.from_seed, options.from_seed + options.seeds):
            yield simulator.plan(seed)


def _told(options: SimulateOptions, found: Violation) -> Iterator[str]:
    yield f"seed {found.seed}{', killed at one append,' if options.exhaustive else ''} breaks a promise:"
    for problem in found.problems:
        yield f"  {problem}"
    yield f"again: {_replay(options, found)}"
    yield "the smallest history found that fails:"
    for line in found.story:
        yield f"  {line}"


def _replay(options: SimulateOptions, found: Violation) -> str:
    """The command that repeats the failing seed."""
    words = [f"{_HASHES}={os.environ.get(_HASHES, '0')}", "obzen", "simulate", shlex.quote(options.file), "--seed", str(found.seed)]
    if options.exhaustive:
        words.append("--exhaustive")
    if options.real:
        words.append("--real")
    words += ["--items", str(options.items), "--durability", shlex.quote(options.durability)]
    for each in options.set:
        words += ["--set", shlex.quote(each)]
    return " ".join(words)
