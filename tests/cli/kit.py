"""What the tests of the command share: programs as text, and the command run in this process."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

from obzen_runtime.cli.app import execute

HEAD = """
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

import obzen_runtime as oz


class Order(msgspec.Struct, frozen=True):
    id: int
    customer: str
    amount: float


@oz.source
def numbers(count: int = 10) -> Iterator[int]:
    yield from range(count)


@oz.transform
def double(n: int) -> int:
    return n * 2


@oz.transform
def odd(n: int) -> int | None:
    return n if n % 2 else None


@oz.transform
def thrice(n: int) -> Iterator[int]:
    for k in range(3):
        yield n * 10 + k


@oz.transform
def picky(n: int) -> int:
    if n % 4 == 3:
        raise ValueError(f"no {n}")
    return n


@oz.fold(0, emit=oz.at_end())
def total(acc: int, n: int) -> int:
    return acc + n


@oz.sink
def show(n: int) -> None:
    print("got", n)

"""

HELLO = HEAD + 'flow = oz.Flow("hello", numbers >> double >> total >> show)\n'
LETTERS = HEAD + 'flow = oz.Flow("letters", numbers >> picky >> show)\n'


@dataclass
class Ended:
    """What the command did."""

    code: int
    out: str
    err: str

    @property
    def lines(self):
        return [json.loads(line) for line in self.out.splitlines()]


class Command:
    """The command in this process, in a directory of its own."""

    def __init__(self, folder: Path, capsys) -> None:
        self.folder = folder
        self.capsys = capsys

    def write(self, text: str, name: str = "flow.py") -> str:
        path = self.folder / name
        path.write_text(dedent(text))
        return name

    def __call__(self, *arguments: object) -> Ended:
        self.capsys.readouterr()
        code = execute([str(argument) for argument in arguments])
        out, err = self.capsys.readouterr()
        return Ended(code, out, err)

    def run(self, text: str, *arguments: object, name: str = "flow.py") -> Ended:
        return self("run", self.write(text, name), *arguments)


def spawn(*arguments: object, **options) -> subprocess.Popen[bytes]:
    """The command as a process."""
    return subprocess.Popen([sys.executable, "-m", "obzen_runtime", *map(str, arguments)], **options)


def refused(ended: Ended, code: int, *words: str) -> None:
    """It ended with this code, one message and no traceback; the message has these words."""
    assert ended.code == code, ended
    assert "Traceback" not in ended.err
    assert ended.err.startswith("obzen: ")
    assert [word for word in words if word not in ended.err] == [], ended.err
