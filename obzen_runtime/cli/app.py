"""The command's table of contents, and the one place where it ends."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from obzen_runtime.cli.check import CheckOptions, journal_check
from obzen_runtime.cli.command import EXIT_USAGE, Common, add, tell
from obzen_runtime.cli.diff import DiffOptions, diff
from obzen_runtime.cli.draw import DrawOptions, draw
from obzen_runtime.cli.export import ExportOptions, export
from obzen_runtime.cli.fork import ForkOptions, fork_run
from obzen_runtime.cli.inspect import InspectOptions, inspect
from obzen_runtime.cli.letters import LettersOptions, dead_letters
from obzen_runtime.cli.repair import RepairOptions, journal_repair
from obzen_runtime.cli.replay import ReplayOptions, replay_run
from obzen_runtime.cli.resolve import ResolveOptions, resolve
from obzen_runtime.cli.resume import ResumeOptions, resume
from obzen_runtime.cli.run import RunOptions, run
from obzen_runtime.cli.runs import ListOptions, runs
from obzen_runtime.cli.say import hint, open_streams, say, silence
from obzen_runtime.cli.simulate import SimulateOptions, simulate
from obzen_runtime.cli.stop import StopOptions, stop
from obzen_runtime.cli.trace import TraceOptions, trace
from obzen_runtime.cli.verify import VerifyOptions, verify_runs
from obzen_runtime.kernel import VERSION

__all__ = ["app", "execute", "main"]

app = typer.Typer(
    name="obzen",
    help="Durable, supervised streaming in plain Python, over one append-only journal.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
_journal = typer.Typer(help="Look after a run's journal.", no_args_is_help=True, pretty_exceptions_enable=False)
_PARSING: type[Exception] = typer.BadParameter.__mro__[2]
"""What every error of parsing arguments is: the class is the parser's own, and typer does not show it."""


def _show_version(asked: bool) -> None:
    if asked:
        say(f"obzen {VERSION}")
        raise typer.Exit


@app.callback()
def _root(
    *, version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)] = False
) -> None:
    """Options of `obzen` itself."""


def _tell_version(options: Common) -> int:
    """Show the version."""
    say(f"obzen {VERSION}")
    return 0


_RUNNING, _LOOKING, _PROVING, _MENDING = "Run", "Look", "Prove", "Mend"

add(app, "run", RunOptions, run, panel=_RUNNING)
add(app, "resume", ResumeOptions, resume, panel=_RUNNING)
add(app, "stop", StopOptions, stop, panel=_RUNNING)
add(app, "runs", ListOptions, runs, panel=_LOOKING)
add(app, "inspect", InspectOptions, inspect, panel=_LOOKING)
add(app, "trace", TraceOptions, trace, panel=_LOOKING)
add(app, "export", ExportOptions, export, panel=_LOOKING)
add(app, "draw", DrawOptions, draw, panel=_LOOKING)
add(app, "version", Common, _tell_version, panel=_LOOKING)
add(app, "simulate", SimulateOptions, simulate, panel=_PROVING)
add(app, "replay", ReplayOptions, replay_run, panel=_PROVING)
add(app, "verify", VerifyOptions, verify_runs, panel=_PROVING)
add(app, "diff", DiffOptions, diff, panel=_PROVING)
add(app, "dead-letters", LettersOptions, dead_letters, panel=_MENDING)
add(app, "resolve", ResolveOptions, resolve, panel=_MENDING)
add(app, "fork", ForkOptions, fork_run, panel=_MENDING)
add(_journal, "check", CheckOptions, journal_check)
add(_journal, "repair", RepairOptions, journal_repair)
app.add_typer(_journal, name="journal", rich_help_panel=_MENDING)


def execute(arguments: Sequence[str]) -> int:
    """Run the command with these arguments and return its exit code. What it says goes to the standard streams."""
    code = _parse_and_run(arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        silence(sys.stdout)
    return code


def _parse_and_run(arguments: Sequence[str]) -> int:
    try:
        code = app(list(arguments), prog_name="obzen", standalone_mode=False)
    except _PARSING as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "obzen"
        text = getattr(error, "format_message", error.__str__)()
        if text:  # without arguments the parser has shown the help instead
            sentence = text.rstrip(".")
            hint(f"obzen: {sentence}{'' if sentence.endswith('?') else '.'} Try `{command} --help`.")
        return EXIT_USAGE
    except typer.Abort:
        return tell(KeyboardInterrupt())
    except Exception as error:  # noqa: BLE001 - told as a bug
        return tell(error)
    return code if isinstance(code, int) else 0


def main() -> None:
    """The entry point of the command `obzen`."""
    open_streams()
    sys.exit(execute(sys.argv[1:]))
