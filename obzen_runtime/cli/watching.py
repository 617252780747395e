"""A run under the user's eyes: what is shown and logged while it lives, how it went, and the exit code."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import msgspec
import typer

from obzen_runtime.cli.command import EXIT_FAILED, EXIT_IO, EXIT_LATER, Common, exit_code_of
from obzen_runtime.cli.live import Lines, Table
from obzen_runtime.cli.say import hint, say
from obzen_runtime.cli.screen import Screen, in_foreground
from obzen_runtime.host import Handle, Report, failure_of, footer

__all__ = ["TellOptions", "watched"]

_TOLD_ANYWAY = ("flow failed", "actor aborted")
"""Lines of the log about what the last line of the command, or the restart that follows, tells in better words."""


class TellOptions(Common, frozen=True, kw_only=True):
    """What is told of a run, and when it counts as failed."""

    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what the stages do.")] = False
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 when there are dead letters.")] = False
    json: Annotated[bool, typer.Option("--json", help="Print the report as one line of JSON to standard output.")] = False


def watched(how: Callable[..., tuple[Report, int | None]], options: TellOptions) -> int:
    """Execute a flow, show it while it runs, tell how it went, and return the exit code."""
    began = time.monotonic()
    with _logging(options), _watching(options) as watch:
        report, number = how(watch=watch)
    failure = failure_of(report)
    if not options.quiet:
        hint(footer(report, time.monotonic() - began, failure))
    elif failure:
        hint(f"obzen: {failure}")
    if options.json:
        with contextlib.suppress(BrokenPipeError):  # how the run went is what counts
            say(msgspec.json.encode(report).decode())
    if report.error is not None:
        return exit_code_of(report.error)
    if number is not None:
        return 128 + number
    if report.reason == "journal_full":
        return EXIT_IO
    if report.state == "cancelled":
        return EXIT_LATER  # by an order from elsewhere: it is not done, and can be gone on with
    return EXIT_FAILED if report.state == "failed" or (options.strict and report.dead_letters) else 0


@contextlib.contextmanager
def _watching(options: TellOptions) -> Iterator[Callable[[Handle], Any] | None]:
    if options.quiet:
        yield None
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and in_foreground(sys.stderr):
        with Screen(sys.stderr) as screen:
            table = Table(screen)
            yield table.watch
            table.finish()
    else:
        yield Lines().watch


@contextlib.contextmanager
def _logging(options: TellOptions) -> Iterator[None]:
    """The runtime's log goes to standard error, whatever that is when a line is written."""
    log, handler = logging.getLogger("obzen"), _Errors()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    if not options.verbose:
        handler.addFilter(lambda record: not record.getMessage().startswith(_TOLD_ANYWAY))
    before = log.level, log.propagate
    log.setLevel(logging.ERROR if options.quiet else logging.INFO if options.verbose else logging.WARNING)
    log.propagate = False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])  # not `log.level =`, which leaves what the logger remembers of its levels
        log.propagate = before[1]


class _Errors(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        hint(self.format(record))
