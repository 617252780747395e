"""What is read back is decoded by a schema, never by pickle: whoever can write a file must not be able to run code."""

import ast
import pickle
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "obzen_runtime"


@pytest.mark.parametrize("reading", [lambda: pickle.loads(b"N."), lambda: pickle.load(None), lambda: pickle.Unpickler(None)])
def test_the_suite_runs_with_pickle_taken_away(reading):
    with pytest.raises(AssertionError, match="unpickled"):
        reading()


def imported(path):
    """The top names of what a module imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                yield from (each.name.partition(".")[0] for each in names)
            case ast.ImportFrom(module=str(module)):
                yield module.partition(".")[0]


def test_no_module_of_ours_imports_what_unpickles():
    unpickles = {"pickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal"}
    for path in PACKAGE.rglob("*.py"):
        assert not unpickles.intersection(imported(path)), path
