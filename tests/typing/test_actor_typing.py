"""A user's type checker finds what the loop would only find at run time."""

from pathlib import Path

import pytest
from mypy import api

from tests.house.checks import ROOT

SNIPPETS = """
import msgspec
import obzen_runtime as oz

class Dialled(msgspec.Struct, frozen=True):
    host: str

class Done(msgspec.Struct, frozen=True):
    pass

class Failed(msgspec.Struct, frozen=True):
    error: oz.ErrorInfo

class Line(msgspec.Struct):
    host: str

class Other(msgspec.Struct):
    port: int

async def greet(line: Line, event: Dialled) -> None:
    line.host = event.host

def plain(line: Line, event: Dialled) -> None:
    line.host = event.host

def any_event(line: Line, event: object) -> None: ...

def far(line: Line, event: Dialled) -> bool:
    return line.host != event.host

def strange(other: Other, event: Dialled) -> None: ...

def number(line: Line, event: Dialled) -> int:
    return 1

good: oz.Machine[Line] = oz.Machine("m", initial="idle", table=[oz.on(Dialled, "idle", "open", when=far, do=[greet, plain, any_event])])
event: oz.Machine[Line] = oz.Machine("m", initial="idle", table=[oz.on(Done, "idle", "open", do=[greet])])  # wrong
guard: oz.Machine[Line] = oz.Machine("m", initial="idle", table=[oz.on(Done, "idle", "open", when=far)])  # wrong
context: oz.Machine[Line] = oz.Machine("m", initial="idle", table=[oz.on(Dialled, "idle", "open", do=[strange])])  # wrong
answer: oz.Machine[Line] = oz.Machine("m", initial="idle", table=[oz.on(Dialled, "idle", "open", do=[number])])  # wrong
state: oz.Machine[Line] = oz.Machine("m", initial=1, table=[])  # wrong

class Right(oz.SelfSupervised[Line]):
    machine = good

    async def dispatch_state(self, state: str, line: Line) -> oz.Directive:
        return oz.Transition(Done()) if line.host else oz.Terminate("done")

    def event_for_action_error(self, error: oz.ErrorInfo) -> Failed:
        return Failed(error)

async def drive() -> str:
    await Right("right").run(Other(1))  # wrong
    await Right("right").run(Line("host"), journal=7)  # wrong
    await Right().run(Line("host"))  # wrong
    return await Right("right").run(Line("host"), journal=oz.MemoryJournal(), durability="fsync")

class Word(oz.SelfSupervised[Line]):
    machine = good

    async def dispatch_state(self, state: str, line: Line) -> str:  # wrong
        return "done"

    def event_for_action_error(self, error: str) -> Failed:  # wrong
        raise ValueError(error)

class Own(oz.SelfSupervised[Line]):
    machine = good

    async def dispatch_state(self, state: str, line: Line) -> oz.Directive:
        return oz.Terminate(7)  # wrong

    async def run(self, context: Line) -> str:  # wrong
        return ""
"""


@pytest.mark.timeout(300)  # the first run fills the checker's cache
def test_the_example_checks_and_each_mistake_is_found_in_its_line(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    snippets = tmp_path / "snippets.py"
    snippets.write_text(SNIPPETS)
    example = Path("examples/04_actor.py")
    told, errors, _ = api.run(["--config-file=", "--strict", "--no-pretty", "--no-error-summary", str(example), str(snippets)])
    assert errors == ""
    found = [line.split(":") for line in told.splitlines() if ": error:" in line]
    places = {(Path(path).name, int(number)) for path, number, *_ in found}  # the checker's cache may know another folder
    wrong = {(snippets.name, number) for number, line in enumerate(SNIPPETS.splitlines(), 1) if "# wrong" in line}
    assert places == wrong, told
