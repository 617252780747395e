"""What a process was told is kept: every later one must find it, as far as the end of the first and the level promise it."""

from typing import Any

from obzen_runtime.journal import Interval, Level
from obzen_runtime.testing.disk import SimulatedDisk
from obzen_runtime.testing.life import Life, Machine

__all__ = ["Acknowledged"]

_LOOKING = 0.05
"""Seconds of virtual time that a process may spend on looking at its clock before it comes to its timers."""


class Acknowledged:
    """What was acknowledged so far, and must be found by every later process."""

    def __init__(self, level: Level) -> None:
        self._level = level
        self._kept: list[tuple[Any, int, bytes]] = []

    def note(self, life: Life, machine: Machine) -> None:
        """A process ended: what it was told is there, as far as its end and the level promise it."""
        crash = life.crash
        assert crash is not None
        upto = life.head
        if crash.kind == "power":
            self._kept.clear()
            upto = life.synced
            if isinstance(self._level, Interval):  # a sync takes time, one may be under way before it, and a held loop begins none
                held = sum(each.seconds for each in machine.plan.troubles if each.life == life.number and each.seconds > 0)
                due = machine.clock.now - self._level.ms / 1000 - 2 * machine.plan.delay - held - _LOOKING
                upto = max([upto, *(mark.position for mark in life.marks if mark.at < due)])
        ends: dict[Any, int] = {}
        for mark in life.marks:
            if mark.position <= upto:
                ends[mark.path] = mark.size
        self._kept += [(path, size, machine.disk.content(path)[:size]) for path, size in ends.items()]

    def missing(self, disk: SimulatedDisk) -> list[str]:
        """What is not there any more."""
        wrong = []
        for path, size, content in self._kept:
            now = disk.content(path)[:size] if path in disk.paths else b""
            if now != content:
                same = next((place for place, (one, other) in enumerate(zip(now, content, strict=False)) if one != other), len(now))
                wrong.append(f"acknowledged records are gone: of {size:,} bytes of {path.name} the first {same:,} are as they were")
        return wrong
