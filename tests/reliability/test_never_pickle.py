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


def test_no_module_of_ours_imports_what_unpickles():
    unpickles = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "") or ""]
            assert not unpickles.intersection(name.partition(".")[0] for name in names if isinstance(node, ast.Import | ast.ImportFrom)), (
                path
            )
