"""From `FILE[:VARIABLE]` to a flow: the file is imported as its own program would be, but for `__main__`.

Whatever goes wrong in the user's file is told with its line and the error, not with our traceback.
"""

import ast
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

import msgspec

from obzen_runtime.flow import Flow, Requeue, requeued
from obzen_runtime.host import LOADING
from obzen_runtime.journal import Manifest, RunDirectory
from obzen_runtime.kernel import FlowInvalid, NotFound, UsageError
from obzen_runtime.stages import Node
from obzen_runtime.stages import Path as StagePath

__all__ = ["Loaded", "Settings", "import_file", "load", "load_started", "pick", "settings_from", "split"]

Settings = dict[str, dict[str, list[str]]]
"""Stage to parameter to the texts given for it."""

_FLOW = 'flow = oz.Flow("name", source >> sink)'


class Loaded(NamedTuple):
    """A flow and where it stands."""

    file: Path
    variable: str
    flow: Flow
    module: ModuleType


def load(text: str) -> Loaded:
    """Load the flow that `FILE` or `FILE:VARIABLE` names.

    Raises `NotFound` or `UsageError` when the file or the variable is not what is needed, `FlowInvalid` when the
    file cannot be imported or holds no flow.
    """
    file, variable = split(text)
    module = import_file(file)
    name = pick(module, file, variable)
    return Loaded(file, name, vars(module)[name], module)


def load_started(run: RunDirectory, *, call: str = "", override: str | None = None) -> Loaded:
    """Load the flow that a run was started from, with its parameters, by its manifest or by the file named in `override`.

    `override` is None for a command that takes none. `call` is what a program calls instead, for a flow that only a
    function of its own can build, such as `oz.resume`. Raises what `load` raises, and `FlowInvalid` when the manifest
    does not say where the flow stands.
    """
    manifest = run.read_manifest()
    if override:
        loaded = load(override)
    elif manifest.file is None or manifest.variable is None:
        raise FlowInvalid(
            f"run {run.run_id} does not say where its flow stands: it was built inside a function",
            code="manifest_invalid",
            remedy=f"{f'Call `{call}(flow, {str(run.run_id)!r})` in the program that builds it, or name' if call else 'Name'} it: "
            "--flow FILE:VARIABLE",
        )
    elif not Path(manifest.file).exists():
        raise NotFound(
            f"there is no file {manifest.file}, which run {run.run_id} was started from",
            code="file_not_found",
            remedy="Put it there again" if override is None else "Put it there again, or give it with --flow FILE[:VARIABLE]",
        )
    else:
        loaded = load(f"{manifest.file}:{manifest.variable}")
    return loaded._replace(flow=_as_started(loaded.flow, manifest))


def _as_started(flow: Flow, manifest: Manifest) -> Flow:
    """The flow of a file as a run was started with it: its parameters bound, cut open where letters were requeued."""
    requeue = manifest.options.get("requeue")
    if requeue is None:
        return flow.started_with(manifest.parameters)
    cut = msgspec.convert(requeue, Requeue)
    again = requeued(_as_started(flow, RunDirectory(Path(cut.run)).read_manifest()), cut)
    return again.started_with(manifest.parameters)


def split(text: str) -> tuple[Path, str]:
    """The file and the variable (or "") that the user named. Raises when there is no such file."""
    file, variable = Path(text), ""
    if not file.exists() and ":" in text:
        path, _, variable = text.rpartition(":")
        file = Path(path)
        if not variable.isidentifier():
            raise UsageError(f"{text}: {variable!r} is not a name for a variable", remedy="Write FILE:VARIABLE, such as flow.py:orders")
    if file.is_dir():
        inside = sorted(path.name for path in file.glob("*.py"))[:5]
        hint = f", such as {file / inside[0]}" if inside else ""
        raise UsageError(f"{file} is a directory", remedy=f"Give the Python file that defines the flow{hint}")
    if not file.exists():
        raise NotFound(f"there is no file {file}", code="file_not_found", remedy="Give the path of the Python file that defines the flow")
    if file.suffix not in ("", ".py"):
        raise UsageError(f"{file} is not a Python file", remedy="Give the .py file that defines the flow")
    return file, variable


def import_file(file: Path) -> ModuleType:
    """Import a program: its directory first on `sys.path`, its stem as the module's name."""
    path = file.resolve()
    folder = str(path.parent)
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)
    name = _module_name(path)
    spec = spec_from_file_location(name, path, loader=_Program(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    token = LOADING.set(str(file))
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        sys.modules.pop(name, None)
        raise _at_import(error, file, path) from error
    finally:
        LOADING.reset(token)
    return module


class _Program(SourceFileLoader):
    """Reads a program from its source, always: Python keeps no bytecode of what it is told to run either."""

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.get_data(self.path), self.path, "exec", dont_inherit=True)


def _module_name(path: Path) -> str:
    """The stem, unless a module of that name is at work already: a program may well be called `json.py`."""
    known = sys.modules.get(path.stem)
    return path.stem if known is None or getattr(known, "__file__", None) == str(path) else f"{path.stem}__flow"


def _at_import(error: BaseException, file: Path, path: Path) -> FlowInvalid:
    """What went wrong, by the line of the user's file that began it."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        shown = f"\n  {(error.text or '').strip()}" if error.text else ""
        return FlowInvalid(f"{file}:{error.lineno or 1}: not valid Python: {error.msg}{shown}")
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == str(path)]
    where = f"{file}:{own[-1].lineno}" if own else str(file)
    if isinstance(error, FlowInvalid) and error.problems:
        return FlowInvalid(f"{where}: {error.message}", problems=error.problems)
    line = f": {own[-1].line}" if own and own[-1].line else ""
    inner = frames[-1] if frames else None
    ours = inner is None or inner.filename == str(path) or _is_ours(inner.filename)
    place = f" (at {inner.filename}:{inner.lineno})" if inner is not None and not ours and not isinstance(error, ImportError) else ""
    return FlowInvalid(f"{where}{line}\n  {type(error).__name__}: {error}{place}", remedy=_remedy(error))


def _is_ours(filename: str) -> bool:
    return __package__.partition(".")[0] in Path(filename).parts or filename.startswith("<frozen")


def _remedy(error: BaseException) -> str:
    match error:
        case ModuleNotFoundError():
            return f"Install it for {sys.executable}, or put it beside the file"
        case SystemExit():
            return 'The file ended the program while it was read: put that under `if __name__ == "__main__":`'
    return ""


def pick(module: ModuleType, file: Path, variable: str = "") -> str:
    """The name of the flow in a module: the one that is named, else the only one there is."""
    flows = {name: value for name, value in vars(module).items() if isinstance(value, Flow)}
    if variable:
        if variable in flows:
            return variable
        raise _not_a_flow(module, file, variable, flows)
    distinct = {id(flow): name for name, flow in reversed(flows.items())}
    if len(distinct) > 1:
        raise UsageError(
            f"{file} has {len(distinct)} flows: {', '.join(flows)}", remedy=f"Name one: {' or '.join(f'{file}:{name}' for name in flows)}"
        )
    if not distinct:
        raise FlowInvalid(f"{file} has no flow at module level", remedy=_how_to_make(file))
    return next(iter(distinct.values()))


def _not_a_flow(module: ModuleType, file: Path, variable: str, flows: Iterable[str]) -> UsageError:
    known = f"Its flows: {', '.join(flows)}" if flows else _how_to_make(file)
    if not hasattr(module, variable):
        return UsageError(f"{file} has no variable {variable!r}", remedy=known)
    value: Any = getattr(module, variable)
    match value:
        case FunctionType():
            known = f"If it makes a flow, call it at module level: `flow = {variable}()`; then `obzen run {file}:flow`"
        case StagePath():
            known = f'Make a flow of it: `flow = oz.Flow("name", {variable})`'
        case Node():
            known = f"It is one stage; join it with others and make a flow of them: `{_FLOW}`"
    return UsageError(f"{file}: {variable} is a {type(value).__name__}, not a flow", remedy=known)


def _how_to_make(file: Path) -> str:
    """How a file without a flow gets one: by calling the function that builds it, where there is such a function."""
    for line, function in _builders(ast.parse(file.read_bytes())):
        return f"{function}() makes one in line {line}; call it at module level: `flow = {function}()`"
    return f"Write `{_FLOW}` at module level"


def _builders(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for function in tree.body:
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "Flow":
                    yield node.lineno, function.name


def settings_from(texts: Sequence[str]) -> Settings:
    """Read `--set stage.parameter=value` options. Raises `UsageError` naming the malformed one."""
    settings: Settings = {}
    for text in texts:
        key, equals, value = text.partition("=")
        stage, dot, parameter = key.strip().partition(".")
        if not (equals and dot and stage.isidentifier() and parameter.isidentifier()):
            raise UsageError(f"--set {text!r} is not STAGE.PARAMETER=VALUE", remedy="Write, for instance, --set lines.paths=README.md")
        settings.setdefault(stage, {}).setdefault(parameter, []).append(value)
    return settings
