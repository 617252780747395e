"""A stage's code is known again: in another process, in another place of its file, and not once it does something else."""

import functools
import os
import subprocess
import sys

import pytest

import obzen_runtime as oz
from obzen_runtime.stages import code_fingerprint

IN_ANOTHER_PROCESS = """
import obzen_runtime as oz
from obzen_runtime.stages import code_fingerprint

@oz.transform
def known(word: str) -> str | None:
    return word if word in {"a", "b", "cc", "ddd", "eeee"} else None

print(code_fingerprint(known))
"""


def of(source, name="stage"):
    """The fingerprint of what `name` is in a module of this source."""
    module = {"oz": oz, "functools": functools, "__name__": "module"}
    exec(compile(source, "module.py", "exec"), module)
    return code_fingerprint(module[name])


def test_it_is_the_same_in_every_process():
    found = {
        subprocess.run(
            [sys.executable, "-c", IN_ANOTHER_PROCESS],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1


PLAIN = "@oz.transform\ndef stage(n: int) -> int:\n    return n + 1"


@pytest.mark.parametrize(
    "same",
    [
        "\n\n\n" + PLAIN,
        "# a comment\n" + PLAIN + "  # another",
        PLAIN.replace("    return", '    """Says something."""\n    return'),
        PLAIN.replace("@oz.transform", "@oz.transform()"),
        "@oz.transform\ndef other(n: int) -> int:\n    return n + 1\nstage = other.named('stage')",
    ],
)
def test_what_does_not_run_does_not_count(same):
    assert of(same) == of(PLAIN)


def test_a_docstring_does_not_count_in_a_function_without_a_return_either():
    assert of(PROPERTY.replace("-> None:", '-> None:\n        """Adds."""')) == of(PROPERTY)


HELPED = "def helper(n):\n    return n + 1\n@oz.transform\ndef stage(n: int) -> int:\n    return helper(n)"
DEFAULT = "def helper(n):\n    return n + 1\n@oz.transform\ndef stage(n: int, *, by=helper, count: int = 1) -> int:\n    return by(n)"
WRAPPED = """
def logged(function):
    @functools.wraps(function)
    def around(n: int) -> int:
        return function(n)
    return around
@oz.transform
@logged
def stage(n: int) -> int:
    return n + 1
"""
CLOSED = """
def adding(step):
    def stage(n: int) -> int:
        return step(n)
    return oz.transform(stage)
stage = adding(lambda n: n + 1)
"""
CACHED = "@oz.transform\n@functools.lru_cache\ndef stage(n: int) -> int:\n    return n + 1"
METHOD = "class Adder:\n    def stage(self, n: int) -> int:\n        return n + 1\nstage = oz.transform(Adder().stage)"
WRITER = """
class Base:
    def put(self, n: int) -> None:
        self.total = n + 1
@oz.sink
class stage(Base):
    def write(self, n: int) -> None:
        self.put(n)
"""
PROPERTY = """
@oz.stateful(key=lambda n: n % 3, emit=oz.at_end())
class stage:
    total: int = 0
    @property
    def next(self) -> int:
        return self.total + 1
    def fold(self, n: int) -> None:
        self.total += self.next
    def emit(self, key: int) -> int:
        return self.total
"""
KEYED = PROPERTY.replace("lambda n: n % 3", "functools.partial(lambda n, by: (n + 1) % by, by=3)")
SUMMED = "@oz.fold((0, {'a': 1}), emit=oz.at_end())\ndef stage(sums: tuple[int, dict], n: int) -> int:\n    return sums[0]"
STEPPED = "@oz.transform\ndef stage(n: int, *, low: int = 1, high: int = 2, step: int = 1) -> int:\n    return n"
JOINED = "@oz.transform\ndef stage(n: int) -> str:\n    return ''.join('n + 1' for _ in range(n))"
EVERY = [PLAIN, HELPED, DEFAULT, WRAPPED, CLOSED, CACHED, METHOD, WRITER, PROPERTY, KEYED]
IDS = ["plain", "helped", "default", "wrapped", "closed", "cached", "method", "writer", "property", "keyed"]


@pytest.mark.parametrize("source", EVERY, ids=IDS)
def test_a_change_of_what_runs_is_seen_wherever_it_stands(source):
    assert of(source) == of(source)
    assert of(source.replace("n + 1", "n + 2").replace("total + 1", "total + 2")) != of(source)


@pytest.mark.parametrize(
    ("source", "old", "new"),
    [
        (JOINED, "'n + 1'", "'n + 2'"),
        (STEPPED, "step: int = 1", "step: int = 2"),
        (PROPERTY, "total: int = 0", "total: int = 5"),
        (PROPERTY.replace("int = 0", "dict[str, list[int]] = {'a': [0]}"), "[0]", "[1]"),
        (SUMMED, "(0,", "(1,"),
        (SUMMED, "'a': 1", "'a': 2"),
    ],
    ids=["a text in a comprehension", "a default that another has too", "a field", "a field in parts", "a fold's start", "a part of it"],
)
def test_another_constant_is_seen_wherever_it_stands(source, old, new):
    assert of(source) == of(source)
    assert of(source.replace(old, new)) != of(source)


def test_what_a_function_keeps_for_itself_does_not_count():
    source = "def helper(n, kept={}):\n    return kept.setdefault(n, n)\n@oz.transform\ndef stage(n: int) -> int:\n    return helper(n)"
    assert of(source.replace("{}", "{1: 1}")) == of(source)


def test_a_function_that_names_itself_is_read_once():
    assert of("@oz.transform\ndef stage(n: int) -> int:\n    return inner(n)\ndef inner(n):\n    return inner(n - 1) if n else 0")
