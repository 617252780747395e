"""Tables: every type a cell can hold, what the database refuses, and who is to blame for it."""

import asyncio
import datetime
import decimal
import enum
import sqlite3
import uuid
from collections.abc import Iterator

import msgspec
import pytest

import obzen_runtime as oz
from obzen_runtime.connect import sqlite_sink
from obzen_runtime.flow import StopFlow
from obzen_runtime.kernel import IoFailed, ObzenError, UsageError, ValidationFailed
from tests.connect.kit import Colour, Every, Row
from tests.flow.kit import Mortal, ints, play


class Number(enum.Enum):
    ONE = 1


def table(path, kind=Row, name="out", table="rows"):
    return sqlite_sink(name, kind, path=path, table=table)


def opened(path, kind=Row, **names):
    sink = table(path, kind, **names)
    writer = sink.handler(**sink.bound)
    try:
        writer.stored("run", "out")
    except ObzenError:
        writer.close()
        raise
    return writer


def found(path, query="SELECT * FROM rows"):
    database = sqlite3.connect(path)
    try:
        return database.execute(query).fetchall()
    finally:
        database.close()


def flow(path, events, kind=Row):
    def given():
        yield from events

    given.__annotations__["return"] = Iterator[kind]
    return oz.Flow("f", oz.source(given) >> table(path, kind))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "db"


@pytest.fixture
def connections(monkeypatch):
    """Every connection that is opened; all must be closed when the test ends."""
    opened = []

    class Watched(sqlite3.Connection):
        closed = False

        def close(self):
            self.closed = True
            super().close()

    def connect(*arguments, connect=sqlite3.connect, **options):
        opened.append(connect(*arguments, factory=Watched, **options))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", connect)
    yield opened
    left = [each for each in opened if not each.closed]
    for each in left:
        each.close()
    assert not left


def test_rows_and_the_position_are_one_transaction(path, connections):
    writer = opened(path)
    writer.write([Row(1, "a", 0.5), Row(2, "b")])
    assert found(path) == []
    writer.commit(b"two")
    assert found(path) == [(1, "a", 0.5), (2, "b", None)]
    assert found(path, "SELECT * FROM obzen_position") == [("run", "out", b"two")]
    writer.write([Row(3, "c")])
    writer.close()
    writer.close()
    assert found(path, "SELECT id FROM rows") == [(1,), (2,)]
    again = table(path).handler(path=path, table="rows")
    assert again.stored("run", "out") == b"two"
    assert again.stored("run", "other") is None
    assert again.stored("other", "out") is None
    again.close()


def test_every_type_has_its_column(path):
    moment = datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    one = Every(
        whole=-(2**63),
        real=0.1,
        truth=True,
        text="é\0x",
        data=b"\0\xff",
        money=decimal.Decimal("1.10"),
        moment=moment,
        day=moment.date(),
        time=datetime.time(1, 2),
        span=datetime.timedelta(hours=1),
        key=uuid.UUID(int=7),
        colour=Colour.RED,
        maybe_whole=None,
        maybe_truth=False,
        maybe_day=None,
        maybe_colour=None,
    )
    writer = opened(path, Every)
    writer.write([one])
    writer.commit(b"")
    writer.close()
    (row,) = found(path)
    assert row[:6] == (-(2**63), 0.1, 1, "é\0x", b"\0\xff", "1.10")
    assert row[6:12] == ("2024-01-02T03:04:05Z", "2024-01-02", "01:02:00", "PT3600S", str(uuid.UUID(int=7)), "red")
    assert row[12:] == (None, 0, None, None)
    types = [column[2] for column in found(path, "PRAGMA table_info(rows)")]
    assert types == ["INTEGER", "REAL", "INTEGER", "TEXT", "BLOB", *["TEXT"] * 7, "INTEGER", "INTEGER", "TEXT", "TEXT"]


def test_names_are_quoted_and_encoded_ones_are_the_columns(path):
    odd = msgspec.defstruct("Odd", [("select", int), ("n", Number | None, msgspec.field(name="a 'b'; DROP TABLE x"))], frozen=True)
    writer = opened(path, odd, table='my "table"')
    writer.write([odd(1, Number.ONE), odd(2, None)])
    writer.commit(b"")
    writer.close()
    assert found(path, 'SELECT "select", "a \'b\'; DROP TABLE x" FROM "my ""table"""') == [(1, 1), (2, None)]


def test_a_single_column_is_enough(path):
    one = msgspec.defstruct("One", [("n", int)], frozen=True)
    writer = opened(path, one)
    writer.write([one(1), one(2)])
    writer.commit(b"")
    writer.close()
    assert found(path) == [(1,), (2,)]


def test_a_row_that_fits_no_column_or_breaks_a_constraint_is_a_dead_letter_and_takes_no_other_along(path):
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, text TEXT CHECK (text <> 'bad'), size REAL, extra TEXT DEFAULT 'x')")
    database.close()
    events = [Row(1, "a"), Row(1, "twice"), Row(2, "bad"), Row(2**63 - 1, "b"), Row(4, "c")]
    played = play(flow(path, events))
    assert (played.state, played.error) == ("drained", None)
    assert [letter.event for letter in played.of(oz.DeadLetter)] == [1, 2]
    assert [(letter.error.code, letter.error.message) for letter in played.of(oz.DeadLetter)] == [
        ("bad_row", "table rows refuses the row: UNIQUE constraint failed: rows.id"),
        ("bad_row", "table rows refuses the row: CHECK constraint failed: text <> 'bad'"),
    ]
    assert played.of(oz.DeadLetter)[0].error.remedy == "Correct the event, or what the table asks of it."
    assert found(path) == [(1, "a", None, "x"), (4, "c", None, "x"), (2**63 - 1, "b", None, "x")]


def test_a_number_beyond_64_bits_is_refused_alone(path):
    writer = opened(path)
    writer.write([Row(1, "a")])
    with pytest.raises(ValidationFailed, match="refuses the row: Python int too large"):
        writer.write([Row(2, "b"), Row(2**63, "c")])
    writer.write([Row(3, "d")])
    writer.commit(b"")
    writer.close()
    assert found(path, "SELECT id FROM rows") == [(1,), (3,)]


def test_a_database_that_fails_is_no_event_s_failure(path):
    writer = opened(path)
    writer.write([Row(1, "a")])
    writer.commit(b"one")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("DROP TABLE rows")
    writer.write([Row(2, "b")])
    writer.write([Row(3, "c")])
    with pytest.raises(IoFailed, match="no such table: rows"):
        writer.commit(b"three")
    writer.close()
    assert other.execute("SELECT position FROM obzen_position").fetchall() == [(b"one",)]
    other.close()


def test_a_trigger_that_rolls_back_takes_all_of_it_back_and_the_sink_fails(path):
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE rows (id, text, size)")
    database.execute("CREATE TRIGGER no BEFORE INSERT ON rows WHEN new.id = 2 BEGIN SELECT RAISE(ROLLBACK, 'never'); END")
    database.close()
    writer = opened(path)
    writer.write([Row(1, "a")])
    writer.write([Row(2, "b")])
    with pytest.raises(IoFailed, match="never"):
        writer.commit(b"two")
    writer.close()
    assert found(path) == []


def test_a_database_that_another_process_holds_is_waited_for_and_may_be_free_later(path, monkeypatch):
    monkeypatch.setattr("obzen_runtime.connect.sqlite._BUSY", 0.0)
    writer = opened(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    writer.write([Row(1, "a")])
    with pytest.raises(oz.Transient, match="locked"):
        writer.commit(b"one")
    other.execute("COMMIT")
    other.close()
    writer.close()
    assert found(path) == []


def test_what_cannot_be_a_table_is_refused_when_it_is_described_or_opened(path, tmp_path):
    nested = msgspec.defstruct("Nested", [("row", Row)], frozen=True)
    twice = msgspec.defstruct("Twice", [("a", int), ("b", int, msgspec.field(name="A"))], frozen=True)
    for kind, name, said in [
        (nested, "rows", r"Nested\.row is Row, which does not fit a cell"),
        (twice, "rows", "two fields for the column 'a'"),
        (int, "rows", "int is not a msgspec struct"),
        (Row, "sqlite_x", "cannot be the name of a table"),
        (Row, "obzen_position", "cannot be the name of a table"),
        (Row, "", "cannot be the name of a table"),
    ]:
        with pytest.raises(UsageError, match=said):
            table(path, kind, table=name)
    assert not path.exists()
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE rows (id, text)")
    database.close()
    with pytest.raises(UsageError, match=r"table rows of .* has no column 'size'"):
        opened(path)
    with pytest.raises(IoFailed, match="unable to open database file"):
        opened(tmp_path / "no" / "db")
    with pytest.raises(IoFailed, match=r"cannot open 'a\\x00b': no file can be called that"):
        opened("a\0b")
    with pytest.raises(UsageError, match="a database in memory is gone when the run ends"):
        opened(":memory:")
    wide = msgspec.defstruct("Wide", [(f"f{number}", int) for number in range(2001)])
    with pytest.raises(UsageError, match=r"Wide has 2001 fields, a table has at most 2000 columns"):
        table(path, wide)
    (tmp_path / "text").write_text("this is no database, but a text of some length")
    with pytest.raises(IoFailed, match="not a database"):
        opened(tmp_path / "text")


def rows_into(path):
    @oz.transform
    def row(number: int) -> Row:
        return Row(number, "")

    return oz.Flow("f", ints(36) >> row >> table(path), window=oz.Window(events=6))


@pytest.mark.parametrize("passes", range(0, 200, 9))
@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_the_database_is_closed_whenever_its_flow_is(how, passes, path, connections):
    async def beside(pipeline):
        for _ in range(passes):
            await asyncio.sleep(0)
        if how == "stopped":
            pipeline.command(StopFlow())
        else:
            pipeline.mailbox.kill("enough")

    played = play(rows_into(path), beside=beside)
    assert played.state in ({"cancelled", "drained"} if how == "stopped" else {"failed", "drained"})


def test_the_database_is_closed_in_a_process_that_goes_on_after_its_journal_failed(path, connections):
    for death in range(50):
        Mortal().live(rows_into(path), death)
        path.unlink(missing_ok=True)
    assert len(connections) > 40


def test_the_database_of_a_sink_that_is_made_anew_or_refused_is_closed(path, connections, monkeypatch):
    monkeypatch.setattr("obzen_runtime.connect.sqlite._BUSY", 0.0)
    play(rows_into(path))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("DELETE FROM obzen_position")
    other.execute("DROP TABLE rows")
    other.execute("CREATE TABLE rows (id, text, size)")
    other.execute("CREATE TRIGGER no BEFORE INSERT ON rows WHEN new.id = 30 BEGIN SELECT RAISE(ROLLBACK, 'never'); END")
    assert play(rows_into(path)).error.message == f"cannot write {path}: never"
    other.execute("BEGIN IMMEDIATE")
    assert play(rows_into(path)).error.message == f"cannot open {path}: database is locked"
    other.execute("ROLLBACK")
    other.execute("DROP TABLE rows")
    other.execute("CREATE TABLE rows (id)")
    other.close()
    assert play(rows_into(path)).error.message == f"table rows of {path} has no column 'text'"
    assert len(connections) == 5


def test_a_second_run_adds_its_rows_to_those_of_the_first(path):
    assert play(flow(path, [Row(1, "a")])).state == "drained"
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("UPDATE obzen_position SET run = 'earlier'")
    database.close()
    assert play(flow(path, [Row(1, "a")])).state == "drained"
    assert found(path, "SELECT id FROM rows") == [(1,), (1,)]


def test_parameters_are_set_from_text(path):
    sink = table("elsewhere").bind_text("path", [str(path)]).bind_text("table", ["others"])
    assert (sink.bound["path"], sink.bound["table"]) == (path, "others")
