"""SQLite tables that a flow writes, exactly once: rows and the position they bring the sink to are one transaction.

The table `obzen_position` of the same database keeps the position, a row for each sink of each run. A run that goes on
reads it there, so an event whose rows were committed is not stored again, wherever the process died.

The database is in WAL mode, with `synchronous=FULL`: what was committed survives a power cut. It is written on the
loop's thread, at most 256 events in a transaction. An integer beyond 64 bits fits no column: its event is a dead letter.
"""

import sqlite3
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec

from obzen_runtime.connect.paths import refusal
from obzen_runtime.connect.payload import Field, checked, fields_of
from obzen_runtime.kernel import IoFailed, ObzenError, Transient, UsageError, ValidationFailed
from obzen_runtime.stages import Sink, sink

__all__ = ["sqlite_sink"]

_BATCH = 256
_BUSY = 2.0
"""Seconds to wait for another process's transaction."""
_POSITIONS = "CREATE TABLE IF NOT EXISTS obzen_position (run TEXT, stage TEXT, position BLOB NOT NULL, PRIMARY KEY (run, stage))"
_TYPES: dict[type, str] = {bool: "INTEGER", int: "INTEGER", float: "REAL", str: "TEXT", bytes: "BLOB"}
_MOST_COLUMNS = 2000
_OF_A_ROW = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError)
"""What a row is to blame for: a constraint of the user's table, or a value that no column holds."""
_BUSY_CODES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def sqlite_sink(name: str, kind: type[Any], *, path: Path | str, table: str) -> Sink:
    """Describe a table of an SQLite database as a sink of `kind`, a struct or dataclass whose fields fit cells.

    A database and a table that are missing are made, with a column for each encoded field name; a table that is there
    must have them, and rows are added to what it holds. Whole numbers and truths are INTEGER, floats REAL, texts TEXT,
    bytes BLOB; dates (ISO 8601), UUIDs, decimals and spans are TEXT, enums what their value is; None is NULL, and so is
    NaN, which SQLite does not have. `path` and `table` are parameters: `--set name.path=…`.
    """
    kind = checked("sqlite_sink", kind)
    fields = fields_of("sqlite_sink", kind)
    _check_columns(kind, fields, table)

    class Writer(TableWriter):
        def __init__(self, *, path: Path, table: str) -> None:
            super().__init__(path, table, fields)

        def write(self, batch: list[Any]) -> None:
            self.add(batch)

    Writer.__name__ = name
    Writer.write.__annotations__["batch"] = list[kind]  # type: ignore[valid-type]
    described: Sink = sink(batch=_BATCH, delivery="transactional")(Writer)
    return described(path=Path(path), table=table)


def _check_columns(kind: type[Any], fields: tuple[Field, ...], table: str) -> None:
    if table.lower().startswith(("sqlite_", "obzen_")) or not table or "\0" in table:
        raise UsageError(f"sqlite_sink: {table!r} cannot be the name of a table", remedy="Give another; sqlite_ and obzen_ are taken.")
    names = [each.column.lower() for each in fields]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(
            f"sqlite_sink: {kind.__name__} has two fields for the column {twice!r}: case does not tell columns apart",
            remedy="Rename one with msgspec.field(name=…).",
        )
    if len(names) > _MOST_COLUMNS:
        raise UsageError(f"sqlite_sink: {kind.__name__} has {len(names)} fields, a table has at most {_MOST_COLUMNS} columns")


class TableWriter:
    """A table, opened by `stored`. A batch is stored whole or not at all; `commit` makes what was stored last."""

    def __init__(self, path: Path | str, table: str, fields: tuple[Field, ...]) -> None:
        self.path = Path(path)
        self._table = table
        self._fields = fields
        self._rows = _rows(fields)
        self._insert = (
            f"INSERT INTO {_quoted(table)} ({', '.join(_quoted(each.column) for each in fields)}) "  # noqa: S608 - quoted
            f"VALUES ({', '.join('?' * len(fields))})"
        )
        self._database: sqlite3.Connection | None = None
        self._owner = ("", "")
        self._broken: Exception | None = None
        """What the database failed of; nothing is stored after it."""

    def stored(self, run: str, stage: str) -> bytes | None:
        """Open the database, make what is missing, and give the position stored last for this sink of this run."""
        self.close()
        self._owner = (run, stage)
        if str(self.path) == ":memory:":
            raise UsageError("sqlite_sink: a database in memory is gone when the run ends", remedy="Give the path of a file.")
        try:
            database = sqlite3.connect(self.path, timeout=_BUSY, isolation_level=None)
            self._database = database
            found = self._prepared(database)
        except ValueError as error:
            raise refusal(self.path, "open", error) from error
        except sqlite3.Error as error:
            raise self._refusal("open", error) from error
        return bytes(found[0]) if found is not None else None

    def _prepared(self, database: sqlite3.Connection) -> Any:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("BEGIN IMMEDIATE")
        database.execute(_POSITIONS)
        columns = ", ".join(f"{_quoted(each.column)} {_type(each)}" for each in self._fields)
        database.execute(f"CREATE TABLE IF NOT EXISTS {_quoted(self._table)} ({columns})")
        self._check_table(database)
        database.execute("COMMIT")
        return database.execute("SELECT position FROM obzen_position WHERE run = ? AND stage = ?", self._owner).fetchone()

    def add(self, events: list[Any]) -> None:
        """Store events. Raises `ValidationFailed` when a value fits no column or breaks a constraint, and then none is stored.

        That the database itself fails is no event's failure: `commit` tells it.
        """
        rows = self._rows(events)
        database = self._database
        if database is None or self._broken is not None:
            return
        try:
            self._begin(database)
            database.execute("SAVEPOINT batch")
            database.executemany(self._insert, rows)
            database.execute("RELEASE batch")
        except Exception as error:
            if not database.in_transaction:  # the database itself took back all of it: rows of other events too
                self._broken = error
                return
            database.execute("ROLLBACK TO batch")
            database.execute("RELEASE batch")
            if isinstance(error, sqlite3.Error) and not isinstance(error, _OF_A_ROW):
                self._broken = error
                return
            raise ValidationFailed(
                f"table {self._table} refuses the row: {error}", code="bad_row", remedy="Correct the event, or what the table asks of it."
            ) from error

    def commit(self, position: bytes) -> None:
        """Commit what was stored, with this position. Raises `Transient` while another process holds the database, else `IoFailed`."""
        database = self._database
        try:
            if self._broken is not None:
                raise self._broken
            if database is not None:
                self._begin(database)
                database.execute("INSERT OR REPLACE INTO obzen_position VALUES (?, ?, ?)", (*self._owner, position))
                database.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._refusal("write", error) from error

    def _begin(self, database: sqlite3.Connection) -> None:
        if not database.in_transaction:
            database.execute("BEGIN IMMEDIATE")

    def close(self) -> None:
        """Close the database; what was not committed is gone. Again is nothing."""
        database, self._database = self._database, None
        if database is not None:
            database.close()

    def _check_table(self, database: sqlite3.Connection) -> None:
        there = {row[1].lower() for row in database.execute(f"PRAGMA table_info({_quoted(self._table)})")}
        missing = [each.column for each in self._fields if each.column.lower() not in there]
        if missing:
            raise UsageError(
                f"table {self._table} of {self.path} has no column {missing[0]!r}",
                remedy="Add the column, or give another table: one that is missing is made.",
                path=str(self.path),
            )

    def _refusal(self, doing: str, error: sqlite3.Error) -> ObzenError:
        message = f"cannot {doing} {self.path}: {error}"
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY_CODES:
            return Transient(message, remedy="Let the other process end its transaction.", path=str(self.path))
        remedy = "Check the path, its directory and its permissions." if doing == "open" else "Check the disk and the table."
        return IoFailed(message, remedy=f"{remedy} What was committed is whole.", path=str(self.path))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _type(field: Field) -> str:
    return _TYPES.get(field.kind, "TEXT" if not _whole(field.kind) else "INTEGER")


def _whole(kind: type) -> bool:
    """Whether an enum's values are whole numbers."""
    members = list(getattr(kind, "__members__", {}).values())
    return bool(members) and all(type(each.value) is int for each in members)


def _rows(fields: tuple[Field, ...]) -> Callable[[list[Any]], list[Any]]:
    """A function of events that makes rows of values SQLite knows."""
    pick = attrgetter(*(each.name for each in fields))
    special = [number for number, each in enumerate(fields) if each.kind not in _TYPES]

    def rows(events: list[Any]) -> list[Any]:
        made: list[Any] = list(map(pick, events)) if len(fields) > 1 else [(pick(event),) for event in events]
        if not special:
            return made
        columns: list[Any] = list(zip(*made, strict=True))
        for number in special:
            columns[number] = msgspec.to_builtins(columns[number])
        return list(zip(*columns, strict=True))

    return rows
