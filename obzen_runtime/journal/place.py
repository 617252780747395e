"""Where a run's journal keeps its files, and the two small ones read."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn, TypeVar

from obzen_runtime.journal.floor import BEGINNING, Floor, read_floor
from obzen_runtime.journal.format import Epoch, read_epoch, segment_start
from obzen_runtime.journal.watermark import Watermark, read_watermark
from obzen_runtime.kernel import Files, JournalDamaged, StorageFailed

__all__ = ["Place", "unusable"]

T = TypeVar("T")


class Place(NamedTuple):
    """Where a run's journal keeps its files."""

    directory: Path

    @property
    def segments(self) -> Path:
        return self.directory / "journal"

    @property
    def lock(self) -> Path:
        return self.directory / "LOCK"

    @property
    def epoch(self) -> Path:
        return self.directory / "EPOCH"

    @property
    def watermark(self) -> Path:
        return self.directory / "WATERMARK"

    @property
    def floor(self) -> Path:
        return self.directory / "FLOOR"

    def names(self, files: Files) -> list[str]:
        """The segments' names, in order."""
        if not files.exists(self.segments):
            return []
        return [name for name in files.names(self.segments) if segment_start(name) is not None]

    def read_epoch(self, files: Files) -> Epoch | None:
        """What EPOCH says; None when it is not there."""
        if not files.exists(self.epoch):
            return None
        found = read_epoch(files.read(self.epoch))
        if found is None:
            unusable(self.epoch, "its content does not match its checksum")
        return found

    def read_floor(self, files: Files) -> Floor:
        """What FLOOR says; the beginning when it is not there."""
        if not files.exists(self.floor):
            return BEGINNING
        found = read_floor(files.read(self.floor))
        if found is None:
            unusable(self.floor, "its content does not match its checksum")
        return found

    def steadily(self, files: Files, look: Callable[[], T]) -> T:
        """What `look` finds; it looks again when a living writer has dropped segments meanwhile: that those are missing is no damage."""
        while True:
            floor = self.read_floor(files)
            try:
                return look()
            except (FileNotFoundError, StorageFailed):
                if self.read_floor(files) == floor:
                    raise

    def read_watermark(self, files: Files) -> Watermark | None:
        """What WATERMARK says; None when it is not there."""
        if not files.exists(self.watermark):
            return None
        found = read_watermark(files.read(self.watermark))
        if found is None:
            unusable(self.watermark, "no slot of it matches its checksum")
        return found


def unusable(path: Path, why: str) -> NoReturn:
    """Refuse a journal because of one of its files."""
    raise JournalDamaged(
        f"{path}: {why}",
        remedy="Restore the run's directory from a copy, or see with `obzen journal repair` what going on would lose",
        file=str(path),
    )
