"""The house rules as functions from a parsed module to complaints, so that each can be fed a bad sample."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "obzen_runtime"

MOST_LINES = 600
MOST_FUNCTION_LINES = 60
MOST_PARAMETERS = 6
MOST_METHODS = 20
NAMELESS = {"utils", "util", "common", "helpers", "helper", "manager", "managers", "misc", "models", "base_classes", "types", "constants"}
UNSAFE = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
MACHINE_PATHS = re.compile("|".join(re.escape(f"/{name}/") for name in ("work", "root", "farm")))

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Module:
    """A source file: its dotted name, its text, its tree."""

    name: str
    source: str
    is_package: bool = False

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @property
    def floor(self) -> str:
        """The package beneath the root it belongs to; empty for the front door."""
        return ".".join(self.name.split(".")[1:2])


def modules(root: Path = ROOT / PACKAGE) -> list[Module]:
    """Every module of a package on disk."""
    found = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        found.append(Module(name, path.read_text(encoding="utf-8"), is_package))
    return found


def too_long(module: Module) -> Iterator[str]:
    lines = len(module.source.splitlines())
    if lines > MOST_LINES:
        yield f"{module.name}: {lines} lines, at most {MOST_LINES}; split where the reader's question differs"


def without_docstring(module: Module) -> Iterator[str]:
    if not ast.get_docstring(module.tree):
        yield f"{module.name}: opens without saying why it exists"


def nameless(module: Module) -> Iterator[str]:
    if NAMELESS & {module.name.rpartition(".")[2].strip("_")}:
        yield f"{module.name}: no noun fits, so it has no idea in it"


def functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef, bool]]:
    """Every function with its qualified name, and whether it is a method that gets its object or class."""

    def walk(node: ast.AST, path: tuple[str, ...], in_class: bool) -> Iterator:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, FUNCTIONS):
                static = any(isinstance(mark, ast.Name) and mark.id == "staticmethod" for mark in child.decorator_list)
                yield ".".join((*path, child.name)), child, in_class and not static
                yield from walk(child, (*path, child.name), False)
            elif isinstance(child, ast.ClassDef):
                yield from walk(child, (*path, child.name), True)
            else:
                yield from walk(child, path, in_class)

    yield from walk(tree, (), False)


def long_functions(module: Module) -> Iterator[str]:
    for name, node, _ in functions(module.tree):
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if lines > MOST_FUNCTION_LINES:
            yield f"{module.name}:{name}: {lines} lines, at most {MOST_FUNCTION_LINES}"


def many_parameters(module: Module) -> Iterator[str]:
    """The functions with too many parameters, as `module:name`."""
    for name, node, bound in functions(module.tree):
        named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        if len(named) - bound > MOST_PARAMETERS:
            yield f"{module.name}:{name}"


def wide_classes(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef):
            public = {child.name for child in node.body if isinstance(child, FUNCTIONS) and not child.name.startswith("_")}
            if len(public) > MOST_METHODS:
                yield f"{module.name}:{node.name}: {len(public)} public methods, at most {MOST_METHODS}"


def lazy_imports(module: Module) -> Iterator[str]:
    for name, node, _ in functions(module.tree):
        if any(isinstance(inner, ast.Import | ast.ImportFrom) for inner in ast.walk(node)):
            yield f"{module.name}:{name}: imports inside a function"


def hidden_imports(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from (f"{module.name}: {target} behind TYPE_CHECKING" for target, _ in _imports(node) if _ours(target))


SIDE_DOORS = {"obzen_runtime.fsm.pictures": "20 ms of drawing code that only the command needs"}
"""Doors beside the door, each with what it spares those who come by the front."""


def doors(module: Module) -> Iterator[str]:
    """Cross by the door, siblings directly, the front door never."""
    for target, names in _imports(module.tree):
        if target.startswith("."):
            yield f"{module.name}: relative import {target}; write the full name"
        if not _ours(target):
            continue
        parts = target.split(".")
        if len(parts) == 1:
            yield f"{module.name}: imports the front door ({', '.join(names) or target})"
        elif parts[1] != module.floor and len(parts) > 2 and target not in SIDE_DOORS:
            yield f"{module.name}: imports {target}; use the door {'.'.join(parts[:2])}"
        elif parts[1] == module.floor and len(parts) == 2 and module.name.count(".") > 1:
            yield f"{module.name}: imports its own door {target}; import the sibling"


def mute_excepts(module: Module) -> Iterator[str]:
    """A broad except raises, uses the error it took, or does the work another way."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ExceptHandler) and _broad(node.type):
            inside = [inner for line in node.body for inner in ast.walk(line)]
            used = any(isinstance(inner, ast.Name) and inner.id == node.name for inner in inside)
            if not (used or any(isinstance(inner, ast.Raise | ast.Call) for inner in inside)):
                yield f"{module.name}:{node.lineno}: takes every error and says nothing"


def _broad(caught: ast.expr | None) -> bool:
    if isinstance(caught, ast.Tuple):
        return any(_broad(element) for element in caught.elts)
    return caught is None or (isinstance(caught, ast.Name) and caught.id in {"Exception", "BaseException"})


def unsafe_imports(module: Module) -> Iterator[str]:
    for target, _ in _imports(module.tree):
        if target.split(".")[0] in UNSAFE:
            yield f"{module.name}: imports {target}, which runs code from data"


def stray_transitions(module: Module) -> Iterator[str]:
    for target, _ in _imports(module.tree):
        if target.split(".")[0] == "transitions" and module.name != f"{PACKAGE}.fsm.definition":
            yield f"{module.name}: imports transitions; only fsm/definition.py does"


def machine_paths(name: str, text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        if MACHINE_PATHS.search(line):
            yield f"{name}:{number}: names a place of one machine"


def sleeps(module: Module) -> Iterator[str]:
    """Calls that wait for real time; `sleep(0)` only lets others run."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and re.fullmatch(r"(time|asyncio|anyio)\.sleep|sleep", ast.unparse(node.func)):
            for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
                if isinstance(argument, ast.Constant) and argument.value:
                    yield f"{module.name}:{node.lineno}: sleeps for {argument.value} s; wait for an event or use a virtual clock"


def door_names(module: Module) -> Iterator[str]:
    """`__all__` of a package names all that its door binds in public, and nothing else."""
    bound, declared = set(), None
    for node in module.tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {alias.asname or alias.name for alias in node.names} - {"*"}
            if any(alias.name == "*" for alias in node.names):
                yield f"{module.name}: imports *"
        elif isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {target.id for target in targets if isinstance(target, ast.Name)}
            if "__all__" in names and node.value is not None:
                declared = ast.literal_eval(node.value)
            bound |= names
    public = {name for name in bound if not name.startswith("_")}
    if declared is None:
        if public:
            yield f"{module.name}: a door without __all__"
        return
    if len(declared) != len(set(declared)):
        yield f"{module.name}: __all__ names something twice"
    if missing := public - set(declared):
        yield f"{module.name}: not in __all__: {', '.join(sorted(missing))}"
    if unknown := set(declared) - bound:
        yield f"{module.name}: in __all__ but not there: {', '.join(sorted(unknown))}"


def _ours(target: str) -> bool:
    return target.partition(".")[0] == PACKAGE


def _imports(tree: ast.AST) -> Iterator[tuple[str, list[str]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), [alias.name for alias in node.names]
