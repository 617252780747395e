"""Proving a journal: every byte read, every record decoded, every seal and chain followed, every stage's story told whole.

A pure reader: no lock, no change, also beside a living writer. Damage raises; what only breaks the rules between
records (an ordinal left out, a cursor that went back) is a bug of a writer and is listed in the report.
"""

from collections import Counter
from functools import partial
from pathlib import Path

import msgspec

from obzen_runtime.events import Block, Checkpoint, Cursor, DeadLetter, Dropped, Receipt, Record
from obzen_runtime.journal.place import Place, unusable
from obzen_runtime.journal.scan import Frame, records_of
from obzen_runtime.journal.survey import survey
from obzen_runtime.kernel import Files, NotFound, SystemFiles

__all__ = ["CheckReport", "StageCheck", "check"]

_LETTERS = "dead_letters"
_MOST_PROBLEMS = 100


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a journal, all of it read."""

    directory: str
    first: int = 1
    """Position of the first record kept: those below were dropped."""
    head: int
    """Position of the last record."""
    durable: int
    """Everything up to this position was proven synced."""
    closed: bool
    """Closed cleanly; otherwise the run lives or died."""
    epoch: int
    """How often the journal was opened for writing."""
    segments: int
    frames: int
    size: int
    """Bytes of the segments that hold the records."""
    kinds: dict[str, int]
    """Records of each type."""
    stages: dict[str, int]
    """Events each stage wrote."""
    tail: int = 0
    """Bytes behind the last record that recovery will cut away."""
    tail_why: str = ""
    """Why they are no record: an append that was under way when the process or the machine died."""
    problems: tuple[str, ...] = ()
    """Rules between records that are broken, at most 100."""


class StageCheck:
    """The rules that hold between the records of a run, fed record by record."""

    def __init__(self, *, begun: bool = False) -> None:
        """`begun`: the log's first records were dropped, so that a stage may be met in the middle of its story."""
        self.written: Counter[str] = Counter()
        """Per stage its next ordinal."""
        self.problems: list[str] = []
        self._cursors: dict[str, Cursor] = {}
        self._dead: int | None = None if begun else 0
        self._begun = begun

    def feed(self, position: int, record: Record) -> None:
        """Take the next record of the log."""
        match record:
            case Block():
                self._block(position, record)
            case Receipt():
                self._cursor(position, record.stage, record.cursor)
            case DeadLetter():
                if self._dead is not None and record.ordinal != self._dead:
                    self._report(position, f"dead letter {record.ordinal}, expected {self._dead}")
                self._dead = record.ordinal + 1
            case Checkpoint():
                if self._dead is not None and record.dead_letters != self._dead:
                    self._report(position, f"the checkpoint has {record.dead_letters} dead letters, the log {self._dead}")
                for stage, ordinal in record.written.items():
                    if stage == _LETTERS:  # its events are the letters themselves, but for those it must not hand on
                        continue
                    if ordinal != self._expected(stage, ordinal):
                        self._report(position, f"the checkpoint has {stage} at {ordinal}, its blocks end at {self.written[stage]}")
            case _:
                return

    def _expected(self, stage: str, found: int) -> int:
        """The ordinal a stage must be at, which is what is found where its story has no beginning."""
        if self._begun and stage not in self.written:
            self.written[stage] = found
        return self.written[stage]

    def _block(self, position: int, block: Block) -> None:
        expected = self._expected(block.stage, block.base)
        if block.base != expected:
            self._report(position, f"{block.stage} goes on at ordinal {block.base}, expected {expected}")
        self.written[block.stage] = block.base + block.count
        self._cursor(position, block.stage, block.cursor)

    def _cursor(self, position: int, stage: str, cursor: Cursor | None) -> None:
        if cursor is None:
            return
        before = self._cursors.get(stage, Cursor())
        self._cursors[stage] = cursor
        if cursor.taken < before.taken:
            self._report(position, f"{stage} took {cursor.taken} inputs, {before.taken} before")
        for upstream, ordinal in before.next.items():
            if cursor.next.get(upstream, 0) < ordinal:
                self._report(position, f"{stage} went back from {upstream}@{ordinal} to {cursor.next.get(upstream, 0)}")
        for upstream, gaps in cursor.gaps.items():
            if any(not 0 <= start < stop <= cursor.next.get(upstream, 0) for start, stop in gaps):
                self._report(position, f"{stage} has a gap of {upstream} that is not behind its cursor")

    def _report(self, position: int, problem: str) -> None:
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(f"position {position}: {problem}")


def check(directory: Path, *, files: Files | None = None, archive: Path | None = None) -> CheckReport:
    """Read all of a journal, with `archive` also what was moved there.

    Raises `NotFound` (`run_not_found`) when there is none, `JournalDamaged` when it is damaged.
    """
    files, place = files or SystemFiles(), Place(directory)
    if not files.exists(place.epoch) and not place.names(files):
        raise NotFound(
            f"{directory} holds no journal", code="run_not_found", remedy="Give the directory of a run", directory=str(directory)
        )
    return place.steadily(files, partial(_check, place, files, archive))


def _check(place: Place, files: Files, archive: Path | None) -> CheckReport:
    kinds: Counter[str] = Counter()
    floor = place.read_floor(files)
    rules = StageCheck(begun=archive is None and floor.position > 1)
    proofs: set[int] = set()

    def visit(frame: Frame, path: Path) -> None:
        for position, record in records_of(frame, path, None):
            if isinstance(record, Dropped):
                proofs.add(record.upto)
            kinds[type(record).__name__] += 1
            rules.feed(position, record)

    found = survey(files, place, visit=visit, archive=archive)
    if floor.record and floor.position not in proofs:
        unusable(place.floor, f"the log holds no record that what lies below position {floor.position} was dropped")
    size = sum(segment.size for segment in found.segments)
    tail = sum(files.size(path) for path in found.paths) - size if found.cut else 0
    return CheckReport(
        directory=str(place.directory),
        first=found.floor.position,
        head=found.head,
        durable=min(found.proven, found.head),
        closed=found.mark is not None and bool(found.mark.closed),
        epoch=found.epoch.number if found.epoch else 0,
        segments=len(found.segments),
        frames=found.frames,
        size=size,
        kinds=dict(kinds),
        stages=dict(rules.written),
        tail=tail,
        tail_why=found.cut.why if found.cut else "",
        problems=tuple(rules.problems),
    )
