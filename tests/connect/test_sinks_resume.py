"""Files after a death: whatever the moment, they are in the end what one process would have written."""

import os
import random
import sqlite3
import stat

import msgspec
import pytest

import obzen_runtime as oz
from obzen_runtime.connect import csv_sink, json_sink, jsonl_sink, sqlite_sink
from obzen_runtime.events import ActorCompleted, Receipt
from obzen_runtime.flow import StopFlow
from obzen_runtime.kernel import IoFailed
from tests.connect.dying import appends_of, lived
from tests.connect.kit import Row
from tests.flow.kit import Mortal, ints, play

SINKS = {"csv": csv_sink, "json": json_sink, "jsonl": jsonl_sink}
COUNT = 36


@oz.transform
def row(number: int) -> Row:
    return Row(number, "x" * (number % 5) + '"\n', None if number % 3 else number / 7)


class Fussy(msgspec.Struct, frozen=True):
    id: int
    size: int


@oz.transform
def fussy(number: int) -> Fussy:
    return Fussy(number, 2**63 if number % 7 == 3 else number)


def flow(name, folder):
    return oz.Flow("f", ints(COUNT) >> row >> SINKS[name]("out", Row, path=folder / "out"), window=oz.Window(events=6))


def rows(folder, table="rows", columns="id"):
    database = sqlite3.connect(folder / "db")
    try:
        return database.execute(f"SELECT {columns} FROM {table} ORDER BY rowid").fetchall()
    finally:
        database.close()


@pytest.mark.parametrize("written", [False, True], ids=["before", "behind"])
@pytest.mark.parametrize("name", SINKS)
def test_T_E2E_a_file_is_the_same_whatever_append_a_process_died_at(name, written, tmp_path):
    folder = tmp_path / "files"
    total = appends_of(lambda: flow(name, folder), folder)
    whole = (folder / "out").read_bytes()
    assert total > 30
    for death in range(total):
        played = lived(lambda: flow(name, folder), folder, [death], written=written)
        assert (played.state, played.error) == ("drained", None), death
        assert (folder / "out").read_bytes() == whole, death


@pytest.mark.parametrize("name", SINKS)
def test_a_file_is_the_same_after_many_deaths_and_torn_writes(name, tmp_path):
    folder = tmp_path / "files"
    total = appends_of(lambda: flow(name, folder), folder)
    whole = (folder / "out").read_bytes()

    def torn(journal):
        done = any(isinstance(each, ActorCompleted) and each.actor == "out" for each in journal._records)
        if (folder / "out").exists() and not done:
            with (folder / "out").open("ab") as file:
                file.write(bytes(chance.randrange(256) for _ in range(chance.randrange(90))))

    for seed in range(25):
        chance = random.Random(seed)
        deaths = [chance.randrange(1 + total // 2) for _ in range(chance.randint(1, 5))]
        played = lived(lambda: flow(name, folder), folder, deaths, written=chance.random() < 0.5, between=torn)
        assert played.state == "drained", (seed, played.error)
        assert (folder / "out").read_bytes() == whole, seed


@pytest.mark.parametrize("name", SINKS)
def test_a_stopped_run_leaves_a_whole_file_and_the_resumed_one_goes_on_in_it(name, tmp_path):
    path = tmp_path / "out"
    play(flow(name, tmp_path))
    whole = path.read_bytes()
    journal = Mortal()

    running = []

    @oz.transform
    def stopping(number: int) -> Row:
        if number == 12 and running:
            running.pop().command(StopFlow())
        return row.handler(number)

    def path_of():
        return ints(COUNT) >> stopping >> SINKS[name]("out", Row, path=path)

    async def beside(pipeline):
        running.append(pipeline)

    stopped = play(oz.Flow("f", path_of(), window=oz.Window(events=6)), journal=journal, beside=beside)
    assert stopped.state == "cancelled"
    part = path.read_bytes()
    assert len(part) < len(whole)
    if name == "json":
        assert 12 <= len(msgspec.json.decode(part)) < COUNT
    assert play(oz.Flow("f", path_of()), journal=journal).state == "drained"
    assert path.read_bytes() == whole


@pytest.mark.parametrize("name", SINKS)
def test_a_file_of_a_sink_that_had_drained_is_not_touched_again(name, tmp_path):
    folder = tmp_path / "files"
    total = appends_of(lambda: flow(name, folder), folder)

    def edited(journal):
        (folder / "out").write_text("edited since")

    played = lived(lambda: flow(name, folder), folder, [total - 2], between=edited)
    assert played.state == "drained"
    assert (folder / "out").read_text() == "edited since"


@pytest.mark.parametrize("how", ["short", "gone"])
@pytest.mark.parametrize("name", SINKS)
def test_a_file_that_lost_what_was_written_is_refused_and_left_alone(how, name, tmp_path):
    folder = tmp_path / "files"
    total = appends_of(lambda: flow(name, folder), folder)
    begin = (folder / "out").read_bytes()[:20]

    def spoiled(journal):
        if how == "gone":
            (folder / "out").unlink()
        else:
            os.truncate(folder / "out", 20)

    played = lived(lambda: flow(name, folder), folder, [total // 2], between=spoiled)
    assert played.state == "failed"
    assert played.error.code == "sink_changed"
    assert ("it is gone" if how == "gone" else "it has 20 bytes") in played.error.message
    assert "Put the file back" in played.error.remedy
    assert (folder / "out").exists() == (how == "short")
    if how == "short":
        assert (folder / "out").read_bytes() == begin


@pytest.mark.parametrize("name", SINKS)
def test_every_receipt_names_the_size_the_file_has_then(name, tmp_path):
    sizes = []

    class Watching(oz.MemoryJournal):
        def append(self, records, **options):
            marks = [msgspec.msgpack.decode(each.cursor.mark) for each in records if isinstance(each, Receipt)]
            sizes.extend((mark, (tmp_path / "out").stat().st_size) for mark in marks)
            return super().append(records, **options)

    assert play(flow(name, tmp_path), journal=Watching(keep=True)).state == "drained"
    assert len(sizes) > 5
    assert all(told == found for told, found in sizes)


def test_a_sink_that_crashed_in_a_living_run_writes_each_row_once(tmp_path):
    def flow(crashing):
        left = [1, 1] if crashing else []
        sink = jsonl_sink("out", Row, path=tmp_path / "out")

        class Crashing(sink.handler):
            def write(self, batch: list[Row]) -> None:
                super().write(batch)
                if batch[-1].id > 20 and left:
                    left.pop()
                    self.flush()
                    raise SystemExit

        return oz.Flow("f", ints(COUNT) >> row >> oz.sink(batch=7)(Crashing)(path=tmp_path / "out"))

    assert play(flow(crashing=False)).state == "drained"
    whole = (tmp_path / "out").read_bytes()
    assert play(flow(crashing=True)).state == "drained"
    assert (tmp_path / "out").read_bytes() == whole


def test_what_is_no_file_is_gone_on_with_as_it_is(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        writer = csv_sink("out", Row, path=tmp_path / "pipe").handler(path=tmp_path / "pipe")
        writer.resume(12)
        writer.write([Row(1, "a")])
        writer.flush()
        writer.sync()
        assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
        assert os.read(reader, 100) == b"1,a,\n"
        writer.close()
    finally:
        os.close(reader)


def test_syncing_a_full_disk_is_told(tmp_path, monkeypatch):
    writer = csv_sink("out", Row, path=tmp_path / "out").handler(path=tmp_path / "out")
    writer.resume(None)

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(IoFailed, match="No space left"):
        writer.sync()
    with pytest.raises(IoFailed, match="No space left"):
        writer.close()
    writer.close()


@pytest.mark.parametrize("written", [False, True], ids=["before", "behind"])
def test_T_E2E_rows_of_a_table_are_stored_once_whatever_append_a_process_died_at(written, tmp_path):
    folder = tmp_path / "files"

    def flow_of():
        table = sqlite_sink("out", Fussy, path=folder / "db", table="rows")
        return oz.Flow("f", ints(40) >> fussy >> table, window=oz.Window(events=6))

    total = appends_of(flow_of, folder)
    whole = rows(folder)
    assert whole == [(number,) for number in range(40) if number % 7 != 3]
    for death in range(total):
        played = lived(flow_of, folder, [death], written=written)
        assert (played.state, played.error) == ("drained", None), death
        assert rows(folder) == whole, death
        assert [letter.event for letter in played.of(oz.DeadLetter)] == [3, 10, 17, 24, 31, 38], death
