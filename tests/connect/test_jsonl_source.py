import json

import pytest

from obzen_runtime.connect import jsonl_source
from obzen_runtime.kernel import IoFailed, NotFound
from obzen_runtime.stages import Progress
from tests.connect.kit import Row, good, read, told, written


@pytest.fixture
def rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def read_text(content):
        written(tmp_path / "t.jsonl", content)
        return read(jsonl_source("rows", Row, path="t.jsonl"))

    return read_text


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_line_is_an_event_and_the_last_may_lack_its_end(rows, end):
    assert rows(f'{{"id":1,"text":"a"}}{end}{{"id":2,"text":"b","size":1.5}}') == [Row(1, "a"), Row(2, "b", 1.5)]


def test_blank_lines_are_passed_over_and_counted(rows):
    items = rows('\n{"id":1,"text":"a"}\n\n  \t\r\n{"id":"x"}\n\n{"id":2,"text":"b"}\n\n')
    assert good(items) == [Row(1, "a"), Row(2, "b")]
    assert [place for place, _ in told(items)] == ["t.jsonl:5"]


@pytest.mark.parametrize("text", ["", "\n", "\ufeff", "\ufeff\n"])
def test_a_file_without_lines_gives_nothing(rows, text):
    assert rows(text) == []


def test_bad_lines_are_told_with_what_is_wrong(rows):
    items = rows(
        b'{"id":1,"text":"\xff"}\n{bad}\n{"id":"x","text":""}\n{"id":2,"text":"b"}{"id":3,"text":"c"}\n{"id":4,\n"text":"d"}\n'
        + b'{"id":' * 50_000
        + b'\n{"id":5,"text":"e"}\n{"id":6,"text":"f'
    )
    assert good(items) == [Row(5, "e")]
    assert [place for place, _ in told(items)] == [f"t.jsonl:{line}" for line in (1, 2, 3, 4, 5, 6, 7, 9)]
    messages = [message for _, message in told(items)]
    assert "expected UTF-8, got bytes that are not" in messages[0]
    assert "expected JSON, got text that is not" in messages[1]
    assert "the object does not fit: Expected `int`, got `str` - at `$.id`" in messages[2]
    assert "trailing characters" in messages[3]


def test_bad_lines_keep_their_numbers_over_blocks(rows):
    lines = [json.dumps({"id": n, "text": "x" * 50}) if n % 997 else "bad" for n in range(1, 20_001)]
    items = rows("\n".join(lines))
    assert len(items) == 20_000
    assert [place for place, _ in told(items)] == [f"t.jsonl:{n}" for n in range(997, 20_001, 997)]
    assert {item.raw for item in items[996::997]} == {b"bad"}


@pytest.mark.parametrize("size", [16 << 20, 17 << 20, 40 << 20])
def test_a_line_over_16_mib_is_bad_and_only_its_beginning_is_kept(rows, size):
    items = rows(b'{"id":1,"text":"a"}\n' + b"x" * (size + 70_000) + b'\n{"id":2,"text":"b"}\nbad')
    assert good(items) == [Row(1, "a"), Row(2, "b")]
    assert [place for place, _ in told(items)] == ["t.jsonl:2", "t.jsonl:4"]
    assert f"expected at most 16 MiB, got a line of {size + 70_001} bytes" in told(items)[0][1]
    assert len(items[1].raw) == 65536


def test_the_last_line_may_be_over_16_mib_too(rows):
    items = rows(b'{"id":1,"text":"a"}\n' + b"x" * (17 << 20))
    assert good(items) == [Row(1, "a")]
    assert [place for place, _ in told(items)] == ["t.jsonl:2"]


def test_a_line_of_some_mib_is_an_event(rows):
    assert rows(f'{{"id":1,"text":"{"x" * (5 << 20)}"}}\n{{"id":2,"text":"b"}}\n') == [Row(1, "x" * (5 << 20)), Row(2, "b")]


def test_a_file_that_cannot_be_opened_is_told_with_its_path(tmp_path):
    with pytest.raises(NotFound, match=r"cannot read .*no\.jsonl: there is no such file"):
        read(jsonl_source("rows", Row, path=tmp_path / "no.jsonl"))
    with pytest.raises(IoFailed, match="it is a directory"):
        read(jsonl_source("rows", Row, path=tmp_path))


def test_progress_counts_bytes(tmp_path):
    path = written(tmp_path / "t.jsonl", '{"id":1,"text":"a"}\n' * 10_000)
    progress = Progress()
    source = jsonl_source("rows", Row, path=path)
    assert len(list(source.handler(**source.bound, progress=progress))) == 10_000
    assert progress.done == progress.total == 200_000


def test_a_file_that_is_one_array_is_told_what_reads_it(rows):
    [bad] = rows('[{"id":1,"text":"a"}]\n')
    assert bad.error.remedy == "Use json_source when the file is one array."
