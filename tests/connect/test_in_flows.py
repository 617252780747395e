import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

import obzen_runtime as oz
from obzen_runtime.connect import csv_sink, csv_source, json_sink, json_source, jsonl_sink, jsonl_source
from obzen_runtime.kernel import FlowInvalid
from tests.connect.kit import Row, play, written


async def finished(handle):
    """The report, and the dead letters of a run in memory."""
    report = await handle.wait()
    letters = [record async for _, record in handle.journal.read(1) if isinstance(record, oz.DeadLetter)]
    return report, letters


def play_and_read_letters(*paths):
    async def main():
        async with oz.start(oz.Flow("connect", *paths), journal=oz.MemoryJournal(keep=True)) as handle:
            return await finished(handle)

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("make", "text", "place", "raw"),
    [
        (csv_source, "id,text\n1,a\nx,b\n2,c\n", "t:3", b"x,b\n"),
        (json_source, '[{"id":1,"text":"a"},{"id":"x"},{"id":2,"text":"c"}]', "t[1]", b'{"id":"x"}'),
        (jsonl_source, '{"id":1,"text":"a"}\n{"id":"x"}\n{"id":2,"text":"c"}\n', "t:2", b'{"id":"x"}'),
    ],
)
def test_a_bad_row_is_a_dead_letter_with_its_place_and_the_flow_drains(tmp_path, monkeypatch, make, text, place, raw):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "t", text)
    report, letters = play_and_read_letters(make("rows", Row, path="t") >> jsonl_sink("out", Row, path="out"))
    assert report.state == "drained"
    assert (tmp_path / "out").read_text().count("\n") == 2
    [letter] = letters
    assert (letter.stage, letter.place, letter.payload, letter.error.code) == ("rows", place, raw, "bad_row")
    assert letter.error.kind == "VALIDATION"
    assert letter.error.message.startswith(f"{place}: ")
    assert letter.error.remedy


@pytest.mark.parametrize("make", [csv_source, json_source, jsonl_source])
def test_a_missing_file_fails_the_flow_with_path_and_remedy(tmp_path, make):
    report = play(make("rows", Row, path=tmp_path / "none") >> jsonl_sink("out", Row, path=tmp_path / "out"))
    assert report.state == "failed"
    assert report.error.message == f"cannot read {tmp_path / 'none'}: there is no such file"
    assert "Check the path" in report.error.remedy


def test_a_sink_without_a_directory_fails_the_flow_before_anything_is_read(tmp_path):
    source = written(tmp_path / "t.csv", "id,text\n1,a\n")
    report = play(csv_source("rows", Row, path=source) >> csv_sink("out", Row, path=tmp_path / "no" / "out"))
    assert report.state == "failed"
    assert f"no directory {tmp_path / 'no'}" in report.error.message
    assert report.stages["rows"].received == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("make", [csv_sink, json_sink, jsonl_sink])
def test_a_full_disk_fails_the_flow_and_makes_no_dead_letters(tmp_path, make):
    source = written(tmp_path / "t.csv", "id,text\n1,a\n2,b\n")
    report = play(csv_source("rows", Row, path=source) >> make("out", Row, path="/dev/full"))
    assert report.state == "failed"
    assert "cannot write /dev/full" in report.error.message
    assert "No space left" in report.error.message
    assert report.dead_letters == 0


def test_every_row_of_a_large_file_passes_in_order(tmp_path):
    events = [Row(n, f"text {n}") for n in range(30_000)]
    source = written(tmp_path / "t.jsonl", b"\n".join(map(msgspec.json.encode, events)))
    report = play(jsonl_source("rows", Row, path=source) >> csv_sink("out", Row, path=tmp_path / "out.csv"))
    assert report.state == "drained"
    assert (tmp_path / "out.csv").read_text() == "id,text,size\n" + "".join(f"{n},text {n},\n" for n in range(30_000))


@pytest.mark.parametrize("strategy", ["one_for_one", "rest_for_one", "one_for_all"])
def test_a_restart_in_the_middle_loses_nothing_that_was_written_and_writes_nothing_twice(tmp_path, strategy):
    source = written(tmp_path / "t.csv", "id,text\n" + "".join(f"{n},t\n" for n in range(5000)))
    at = 2500

    @oz.transform
    def crash_once(row: Row) -> Row:
        nonlocal at
        if row.id == at:
            at = -1
            raise SystemExit("crash")
        return row

    report = play(
        csv_source("rows", Row, path=source) >> crash_once >> json_sink("out", Row, path=tmp_path / "out.json"),
        restart=oz.Restart(strategy=strategy),
    )
    assert report.state == "drained"
    assert at == -1
    assert [each["id"] for each in json.loads((tmp_path / "out.json").read_text())] == list(range(5000))


async def test_a_stop_leaves_a_whole_json_array(tmp_path):
    path = tmp_path / "out.json"
    seen = asyncio.Event()

    @oz.source
    async def forever() -> AsyncIterator[Row]:
        number = 0
        while True:
            yield Row(number, "x")
            number += 1
            if number == 600:
                seen.set()
            await asyncio.sleep(0)

    async with oz.start(oz.Flow("stopped", forever >> json_sink("out", Row, path=path)), journal=oz.MemoryJournal()) as handle:
        await seen.wait()
        report = await handle.stop()
    assert report.state == "cancelled"
    ids = [each["id"] for each in json.loads(path.read_text())]
    assert ids == list(range(len(ids)))
    assert len(ids) == report.stages["forever"].emitted >= 500  # what waited between the generator and its stage is given again


def test_parameters_are_set_from_text(tmp_path):
    source = written(tmp_path / "t.csv", "id;text\n1;a\n")
    flow = oz.Flow("set", csv_source("rows", Row, path="none") >> jsonl_sink("out", Row, path="none/none"))
    bound = flow.bind({"rows": {"path": [str(source)], "delimiter": [";"]}, "out": {"path": [str(tmp_path / "out")]}})

    async def main():
        async with oz.start(bound, journal=oz.MemoryJournal()) as handle:
            return await handle.wait()

    assert asyncio.run(main()).state == "drained"
    assert (tmp_path / "out").read_text() == '{"id":1,"text":"a","size":null}\n'


def test_one_description_runs_twice_and_begins_its_file_anew(tmp_path):
    source = written(tmp_path / "t.csv", "id,text\n1,a\n")
    path = csv_source("rows", Row, path=source) >> json_sink("out", Row, path=tmp_path / "out")
    for _ in range(2):
        assert play(path).state == "drained"
        assert len(json.loads((tmp_path / "out").read_text())) == 1


def test_a_flow_whose_sink_would_empty_what_another_stage_reads_or_writes_is_refused_before_anything_is_touched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path / "t.csv", "id,text\n1,a\n")
    (tmp_path / "link").symlink_to(path)
    rows = csv_source("rows", Row, path=path)
    for other in ("t.csv", "link", tmp_path / "." / "t.csv"):
        with pytest.raises(FlowInvalid, match=rf"rows and out use one file, {path}, .*give each its own path"):
            oz.Flow("f", rows >> csv_sink("out", Row, path=other))
    with pytest.raises(FlowInvalid, match=r"one and two use one file, .*new"):
        oz.Flow("f", rows >> [csv_sink("one", Row, path="new"), json_sink("two", Row, path="./new")])
    flow = oz.Flow("f", rows >> csv_sink("out", Row, path="new"))
    with pytest.raises(FlowInvalid, match="rows and out use one file"):
        flow.bind({"out": {"path": ["t.csv"]}})
    assert path.read_text() == "id,text\n1,a\n"
    assert not (tmp_path / "new").exists()


def test_what_is_no_file_of_bytes_may_be_used_by_many_and_a_file_be_read_by_many(tmp_path):
    path = written(tmp_path / "t.csv", "id,text\n1,a\n")
    both = [csv_source("one", Row, path=path), csv_source("two", Row, path=path)]
    report = play(both >> csv_sink("out", Row, path=os.devnull), both[0] >> json_sink("other", Row, path=os.devnull))
    assert report.state == "drained"
