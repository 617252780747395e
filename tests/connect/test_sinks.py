import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from obzen_runtime.connect import csv_sink, csv_source, json_sink, json_source, jsonl_sink, jsonl_source
from obzen_runtime.kernel import IoFailed, NotFound, UsageError
from tests.connect.kit import Row, read

SINKS = [csv_sink, json_sink, jsonl_sink]
FILLED = {
    csv_sink: "id,text,size\n1,a,\n",
    json_sink: '[\n{"id":1,"text":"a","size":null}\n]\n',
    jsonl_sink: '{"id":1,"text":"a","size":null}\n',
}
EMPTY = {csv_sink: "id,text,size\n", json_sink: "[\n\n]\n", jsonl_sink: ""}


def opened(sink, position=None):
    writer = sink.handler(**sink.bound)
    writer.resume(position)
    return writer


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out"


@pytest.mark.parametrize("make", SINKS)
def test_a_file_is_made_when_the_sink_opens_and_replaces_what_was_there(make, path):
    path.write_text("something long that was there before")
    opened(make("out", Row, path=path)).close()
    assert path.read_text() == EMPTY[make]


@pytest.mark.parametrize("make", SINKS)
def test_what_was_added_is_in_the_file_after_a_flush_and_the_end_after_close(make, path):
    writer = opened(make("out", Row, path=path))
    writer.write([Row(1, "a")])
    writer.flush()
    assert FILLED[make].startswith(path.read_text())
    assert "a" in path.read_text()
    writer.flush()
    writer.close()
    writer.close()
    assert path.read_text() == FILLED[make]


@pytest.mark.parametrize(("make", "source"), [(csv_sink, csv_source), (json_sink, json_source), (jsonl_sink, jsonl_source)])
def test_events_of_many_batches_are_read_back(make, source, path):
    events = [Row(n, f"text {n}", n / 3 if n % 2 else None) for n in range(1000)]
    writer = opened(make("out", Row, path=path))
    for start in range(0, 1000, 7):
        writer.write(events[start : start + 7])
        if start % 3:
            writer.flush()
    writer.flush()
    writer.close()
    assert read(source("in", Row, path=path)) == events


def test_json_stays_one_array_over_empty_flushes_and_new_beginnings(path):
    writer = opened(json_sink("out", Row, path=path))
    for number in range(3):
        writer.flush()
        writer.write([Row(number, "a")])
        writer.flush()
        writer.close()
        writer = opened(json_sink("out", Row, path=path), writer.position())
    writer.close()
    assert [each["id"] for each in json.loads(path.read_text())] == [0, 1, 2]


@pytest.mark.parametrize("make", SINKS)
def test_a_place_that_cannot_be_written_is_told_with_its_remedy(make, tmp_path):
    (tmp_path / "file").touch()
    for path, kind, said, remedy in [
        (tmp_path / "no" / "out", NotFound, f"no directory {tmp_path / 'no'}", "mkdir -p"),
        (tmp_path / "a b" / "out", NotFound, f"no directory {tmp_path / 'a b'}", f"mkdir -p '{tmp_path / 'a b'}'"),
        (tmp_path, IoFailed, "it is a directory", "Give the path of a file."),
        (tmp_path / "file" / "out", IoFailed, "a part of the path is not a directory", "Check the path."),
    ]:
        with pytest.raises(kind) as failed:
            opened(make("out", Row, path=path))
        assert failed.value.message == f"cannot write {path}: {said}"
        assert remedy in failed.value.remedy
    with pytest.raises(IoFailed, match="no file can be called that"):
        opened(make("out", Row, path="a\0b"))


@pytest.mark.parametrize("make", SINKS)
@pytest.mark.parametrize("position", [None, 3])
def test_a_file_that_another_process_writes_is_refused_and_left_alone_until_that_one_ends(make, path, position):
    path.write_text("of the other")
    hold = f"import fcntl, sys; file = open({str(path)!r}, 'r+'); fcntl.lockf(file, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(IoFailed, match=f"cannot write {path}: another process is writing it") as failed:
            opened(make("out", Row, path=path), position)
        assert failed.value.remedy == "Wait until that one has ended, or give another path."
        other.communicate()
    assert path.read_text() == "of the other"
    opened(make("out", Row, path=path), position).close()


def test_a_file_system_that_cannot_lock_is_written_all_the_same(path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", refuse)
    opened(json_sink("out", Row, path=path)).close()
    assert path.read_text() == EMPTY[json_sink]


def test_a_file_that_cannot_be_cut_is_told_and_left_alone(path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EIO, "Input/output error")

    path.write_text("what was there")
    monkeypatch.setattr(os, "ftruncate", refuse)
    sink = json_sink("out", Row, path=path)
    writer = sink.handler(**sink.bound)
    with pytest.raises(IoFailed, match=f"cannot write {path}: Input/output error"):
        writer.resume(4)
    writer.close()
    assert path.read_text() == "what was there"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("make", SINKS)
def test_a_full_disk_is_told_once_and_nothing_is_written_behind_it(make):
    with pytest.raises(IoFailed) as failed:
        writer = opened(make("out", Row, path="/dev/full"))
        writer.write([Row(1, "a")])
        writer.flush()
    assert failed.value.message == "cannot write /dev/full behind byte 0: No space left on device"
    assert "Make room" in failed.value.remedy
    if make is jsonl_sink:
        writer.write([Row(2, "b")])
        writer.flush()
        writer.close()


@pytest.mark.parametrize("make", SINKS)
def test_a_write_that_fails_half_way_leaves_no_torn_row(make, path, monkeypatch):
    writer = opened(make("out", Row, path=path))
    writer.write([Row(1, "a")])
    writer.flush()
    before = path.read_bytes()
    really = os.write
    room = [10]

    def little(fd, data):
        if not room[0]:
            raise OSError(28, "No space left on device")
        taken = really(fd, bytes(data)[: room[0]])
        room[0] -= taken
        return taken

    monkeypatch.setattr(os, "write", little)
    writer.write([Row(2, "a long text that does not fit")])
    with pytest.raises(IoFailed, match=f"behind byte {len(before)}: No space left on device"):
        writer.flush()
    writer.flush()
    writer.close()
    assert path.read_bytes() == before


@pytest.mark.parametrize("make", SINKS)
def test_short_writes_are_gone_on_with(make, path, monkeypatch):
    really = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: really(fd, bytes(data)[:3]))
    writer = opened(make("out", Row, path=path))
    writer.write([Row(1, "a")])
    writer.flush()
    writer.close()
    assert path.read_text() == FILLED[make]


def test_one_event_that_cannot_be_encoded_takes_no_other_along(path):
    made = msgspec.defstruct("Keyed", [("id", int), ("table", dict)])
    writer = opened(jsonl_sink("out", made, path=path))
    writer.write([made(1, {"a": 1})])
    with pytest.raises(TypeError):
        writer.write([made(2, {"a": 1}), made(3, {(1, 2): 1})])
    writer.flush()
    writer.close()
    assert path.read_text() == '{"id":1,"table":{"a":1}}\n'


def test_the_path_is_a_parameter_and_decodes_from_text(path):
    sink = csv_sink("out", Row, path="elsewhere.csv").bind_text("path", [str(path)])
    assert sink.bound["path"] == path
    assert sink.name == "out"
    assert list(sink.parameters) == ["path"]


def test_a_path_of_digits_from_the_command_line_is_a_path():
    assert csv_sink("out", Row, path="x").bind_text("path", ["2024"]).bound["path"] == Path("2024")
    assert csv_source("in", Row, path="x").bind_text("path", ["2024"]).bound["path"] == Path("2024")


def test_csv_refuses_nested_fields_when_it_is_described_and_json_takes_them(path):
    nested = msgspec.defstruct("Nested", [("row", Row), ("tags", tuple[str, ...])], frozen=True)
    with pytest.raises(UsageError, match=r"csv_sink: field Nested\.row is Row, which does not fit a cell"):
        csv_sink("out", nested, path=path)
    writer = opened(json_sink("out", nested, path=path))
    writer.write([nested(Row(1, "a"), ("x",))])
    writer.flush()
    writer.close()
    assert read(json_source("in", nested, path=path)) == [nested(Row(1, "a"), ("x",))]


@pytest.mark.parametrize("make", SINKS)
def test_types_that_are_no_structs_are_refused_when_described(make, path):
    with pytest.raises(UsageError, match="int is not a msgspec struct or a dataclass"):
        make("out", int, path=path)
    assert not path.exists()


def test_encoded_names_are_the_header(path):
    renamed = msgspec.defstruct("Renamed", [("first_name", str), ("n", int)], rename="camel")
    writer = opened(csv_sink("out", renamed, path=path))
    writer.write([renamed("Ada", 1)])
    writer.flush()
    writer.close()
    assert path.read_text() == "firstName,n\nAda,1\n"


def test_a_single_column_keeps_rows_of_nothing(path):
    one = msgspec.defstruct("One", [("maybe", str | None)], frozen=True)
    writer = opened(csv_sink("out", one, path=path))
    writer.write([one("x"), one(None), one("y")])
    writer.flush()
    writer.close()
    assert read(csv_source("in", one, path=path)) == [one("x"), one(None), one("y")]
