"""How a struct of options and a function become a command, and how errors become messages and exit codes.

A command's options are a frozen struct; the parser's signature is made from its fields, so that a command with many
options is still a function of one argument. Exit codes are those of `sysexits`, said once by each error class.
"""

import inspect
import re
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from obzen_runtime.cli.say import hint, silence
from obzen_runtime.kernel import ErrorInfo, ObzenError, error_from

__all__ = [
    "EXIT_BUG",
    "EXIT_DAMAGED",
    "EXIT_FAILED",
    "EXIT_IO",
    "EXIT_LATER",
    "EXIT_USAGE",
    "Common",
    "add",
    "exit_code_of",
    "tell",
    "told",
]

EXIT_FAILED = 1
EXIT_USAGE = 64
EXIT_DAMAGED = 65
EXIT_BUG = 70
EXIT_IO = 74
EXIT_LATER = 75
_EXIT_INTERRUPTED = 130
_PARAGRAPH = re.compile(r"(?<!\n)\n(?!\n)")
"""A line's end within a paragraph: the parser would keep it, whatever the width of the terminal."""


class Common(msgspec.Struct, frozen=True, kw_only=True):
    """Options of every command."""

    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False


O = TypeVar("O", bound=Common)  # noqa: E741 - a type variable is not read as a number


def add(app: typer.Typer, name: str, options: type[O], act: Callable[[O], int], *, panel: str | None = None) -> None:
    """Make `act` the command `name` of `app`; its docstring is the help text, what it returns the exit code.

    `panel` is the heading under which the command stands in the list of all.
    """

    def command(**values: Any) -> None:
        chosen = options(**values)
        try:
            code = act(chosen)
        except BrokenPipeError:  # what was asked for is read no further
            silence(sys.stdout)
            code = 0
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - what nobody caught is told, as a bug
            code = tell(error, debug=chosen.debug)
        raise typer.Exit(code)

    parameters = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=_default(field), annotation=field.type)
        for field in sorted(msgspec.structs.fields(options), key=lambda field: field.name in Common.__struct_fields__)
    ]
    parser: Any = command
    parser.__signature__ = inspect.Signature(parameters)
    parser.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    parser.__doc__ = _PARAGRAPH.sub(" ", inspect.cleandoc(act.__doc__ or ""))
    app.command(name, rich_help_panel=panel)(parser)


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default is not msgspec.NODEFAULT:
        return field.default
    return inspect.Parameter.empty if field.default_factory is msgspec.NODEFAULT else field.default_factory()


def tell(error: BaseException, *, debug: bool = False) -> int:
    """Say what went wrong on standard error and return the exit code it stands for."""
    text, code = told(error)
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    if text:
        hint(f"obzen: {text}")
    return code


def told(error: BaseException) -> tuple[str, int]:
    """The message and the exit code of an error."""
    match error:
        case ObzenError():
            text = str(error)
            return (text if error.remedy in text else f"{text}. {error.remedy}"), error.exit_code
        case KeyboardInterrupt():
            return "", _EXIT_INTERRUPTED
        case OSError():
            place = f"{error.filename}: " if error.filename is not None else ""
            return f"{place}{error.strerror or error}. Look at the path, its permissions and the space on its disk.", EXIT_IO
    return f"a bug in obzen: {type(error).__name__}: {error}. Run it again with --debug and report what it shows.", EXIT_BUG


def exit_code_of(error: ErrorInfo) -> int:
    """The exit code of a run that failed so: what the journal or the flow's description is to blame for keeps its own, else it is 1."""
    own = error.kind in ("STORAGE", "PLAN", "CONFIG") or error.code == "sink_changed"
    return error_from(error).exit_code if own else EXIT_FAILED
