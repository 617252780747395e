"""Processes that die at an append, with the files they leave: what a kill leaves is what stood there at that moment."""

import contextlib
import shutil
from pathlib import Path

import obzen_runtime as oz
from obzen_runtime.kernel import JournalFailed
from tests.flow.kit import play


class Mortal(oz.MemoryJournal):
    """A journal that outlives the processes that use it. One dies at its append number `at`, before or behind the writing of it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(keep=True)
        self.folder = folder
        self.left: int | None = None
        self.written = False
        self.appends = 0
        self.dead = False

    def append(self, records, *, expected=None):
        self.appends += 1
        if self.dead:
            raise JournalFailed("the process is dead")
        if self.left is not None:
            if not self.left:
                if self.written:
                    super().append(records, expected=expected)
                self._die()
            self.left -= 1
        return super().append(records, expected=expected)

    def _die(self):
        self.dead = True
        shutil.copytree(self.folder, self._grave)
        raise JournalFailed("the process is dead")

    @property
    def _grave(self):
        return self.folder.with_name(self.folder.name + ".left")

    def bury(self):
        """What the dead process did after its death did not happen."""
        if self.dead:
            shutil.rmtree(self.folder)
            self._grave.rename(self.folder)
        self.dead = False


def lived(flow_of, folder, deaths, *, written=False, between=lambda journal: None):
    """Run a flow in one process after the other, each dying at its append of that number; the last one lives."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    journal = Mortal(folder)
    journal.written = written
    for death in deaths:
        journal.left = death
        with contextlib.suppress(JournalFailed):  # a death before anything runs
            play(flow_of(), journal=journal)
        journal.bury()
        between(journal)
    journal.left = None
    return play(flow_of(), journal=journal)


def appends_of(flow_of, folder):
    """How often one process appends that does it all."""
    folder.mkdir(exist_ok=True)
    journal = Mortal(folder)
    played = play(flow_of(), journal=journal)
    assert played.state == "drained", played.error
    return journal.appends
