"""Processes that die at an append, with the files they leave: what a kill leaves is what stood there at that moment."""

import shutil
from pathlib import Path

from tests.flow.kit import Mortal


class MortalWithFiles(Mortal):
    """Keeps the files of a folder as they were at the death."""

    def __init__(self, folder: Path, *, written: bool = False) -> None:
        super().__init__(written=written)
        self.folder = folder

    def died(self):
        shutil.copytree(self.folder, self._grave)

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
    journal = MortalWithFiles(folder, written=written)
    for death in deaths:
        journal.live(flow_of(), death)
        journal.bury()
        between(journal)
    return journal.live(flow_of())


def appends_of(flow_of, folder):
    """How often one process appends that does it all."""
    folder.mkdir(exist_ok=True)
    journal = MortalWithFiles(folder)
    played = journal.live(flow_of())
    assert played.state == "drained", played.error
    return journal.appends
