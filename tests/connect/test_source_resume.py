"""File sources go on from every place they give: exactly the rows that follow, with their own numbers."""

import itertools
import json
import random

import pytest

import obzen_runtime as oz
from obzen_runtime.connect import csv_source, json_source, jsonl_source, reading
from obzen_runtime.events import DeadLetter
from obzen_runtime.kernel import ConfigInvalid, IoFailed
from obzen_runtime.stages import At, Bad, Progress
from tests.connect.kit import Row, written
from tests.flow.kit import Mortal, Seen, play

SOURCES = {"csv": csv_source, "jsonl": jsonl_source, "json": json_source}
ROWS = 6000


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Small blocks, and a place wherever there can be one."""
    monkeypatch.setattr(reading, "BLOCK", 1000)
    monkeypatch.setattr(reading, "APART", 1)


def rows_of(form: str, count: int, *, seed: int = 1, plain: bool = False) -> str:
    """A file with all that may stand in one: bad rows, blank lines, line ends inside texts."""
    draw = random.Random(seed)
    lines = []
    for number in range(count):
        text = draw.choice(["a", "bé" * draw.randrange(40), "x" * 80] if plain else ["a", "é\n,{}[]\"'" * draw.randrange(9), "x\r\ny"])
        if not plain and draw.random() < 0.03:
            lines.append({"csv": f"{number},too,many,cells", "jsonl": "{bad", "json": '{"id": "x"}'}[form])
        elif form == "csv":
            lines.append(f'{number},"{text.replace(chr(34), chr(34) * 2)}",{number / 2}')
        else:
            lines.append(json.dumps({"id": number, "text": text, "size": number / 2}, ensure_ascii=False))
        if not plain and draw.random() < 0.03 and form != "json":
            lines.append("")
    match form:
        case "csv":
            return "id,text,size\n" + "\n".join(lines) + "\n"
        case "jsonl":
            return "\n".join(lines) + "\n"
    return "[" + ",\n ".join(lines) + "]\n"


def given(source, start=None, progress=None):
    return list(source.handler(**source.bound, progress=progress or Progress(), start=start))


def told(items):
    """What can be compared: events, and the bad rows with their places and bytes."""
    plain = [each.item if isinstance(each, At) else each for each in items]
    return [(each.place, each.error.message, bytes(each.raw)) if isinstance(each, Bad) else each for each in plain]


@pytest.mark.parametrize("form", SOURCES)
@pytest.mark.parametrize("begin", [b"", b"\xef\xbb\xbf", b"\n\n"])
def test_every_place_leads_to_exactly_the_rows_behind_it(form, begin, tmp_path):
    path = written(tmp_path / "f", begin + rows_of(form, 400).encode())
    source = SOURCES[form]("rows", Row, path=path)
    whole = given(source)
    told_whole = told(whole)
    assert sum(isinstance(each, tuple) for each in told_whole) > 5
    places = [(number, each.offset) for number, each in enumerate(whole, 1) if isinstance(each, At)]
    assert len(places) > 3
    for number, place in places:
        assert told(given(source, place)) == told_whole[number:]


@pytest.mark.parametrize("form", SOURCES)
def test_places_are_megabytes_apart(form, tmp_path, monkeypatch):
    monkeypatch.undo()
    path = written(tmp_path / "f", rows_of(form, 60_000, plain=True))
    size = path.stat().st_size
    places = [each.offset for each in given(SOURCES[form]("rows", Row, path=path)) if isinstance(each, At)]
    assert size // (3 << 20) <= len(places) <= size // (2 << 20)
    assert all(later.byte - place.byte >= 1.8 * (1 << 20) for place, later in itertools.pairwise(places))


@pytest.mark.parametrize("form", SOURCES)
def test_progress_goes_on_from_the_place(form, tmp_path):
    path = written(tmp_path / "f", rows_of(form, 400))
    source = SOURCES[form]("rows", Row, path=path)
    place = [each.offset for each in given(source) if isinstance(each, At)][-1]
    progress = Progress()
    items = source.handler(**source.bound, progress=progress, start=place)
    next(items, None)
    assert progress.done >= place.byte
    assert progress.total == path.stat().st_size


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_rows_that_were_appended_since_are_read(form, tmp_path):
    path = written(tmp_path / "f", rows_of(form, 200))
    source = SOURCES[form]("rows", Row, path=path)
    before = given(source)
    place = [each.offset for each in before if isinstance(each, At)][-1]
    more = rows_of(form, 230).encode()
    assert more.startswith(path.read_bytes())
    path.write_bytes(more)
    assert told([*before, *given(source, place)])[-1].id == 229


@pytest.mark.parametrize("form", SOURCES)
def test_a_file_that_shrank_is_refused(form, tmp_path):
    path = written(tmp_path / "f", rows_of(form, 400))
    source = SOURCES[form]("rows", Row, path=path)
    place = [each.offset for each in given(source) if isinstance(each, At)][-1]
    path.write_bytes(path.read_bytes()[: place.byte - 1])
    with pytest.raises(ConfigInvalid, match=f"f shrank from {place.size} bytes to {place.byte - 1} bytes") as refused:
        given(source, place)
    assert (refused.value.code, refused.value.exit_code) == ("source_changed", 78)


@pytest.mark.parametrize("form", SOURCES)
def test_a_file_that_was_edited_before_the_place_is_refused(form, tmp_path):
    path = written(tmp_path / "f", rows_of(form, 400))
    source = SOURCES[form]("rows", Row, path=path)
    place = [each.offset for each in given(source) if isinstance(each, At)][-1]
    content = bytearray(path.read_bytes())
    content[place.byte - 500] ^= 1
    path.write_bytes(content)
    with pytest.raises(ConfigInvalid, match=f"f was changed before byte {place.byte}") as refused:
        given(source, place)
    assert refused.value.code == "source_changed"


@pytest.mark.parametrize("form", SOURCES)
def test_a_disk_that_fails_where_a_place_is_known_again_is_told(form, tmp_path, monkeypatch):
    path = written(tmp_path / "f", rows_of(form, 400))
    source = SOURCES[form]("rows", Row, path=path)
    place = [each.offset for each in given(source) if isinstance(each, At)][-1]

    def fails(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.pread", fails)
    with pytest.raises(IoFailed, match=r"cannot read .* at byte 0: Input/output error"):
        given(source, place)


def test_a_header_that_was_changed_is_refused_however_far_away_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "WINDOW", 100)
    path = written(tmp_path / "f.csv", "id,text,size\n" + "1,2,3\n" * 1000)
    source = csv_source("rows", Row, path=path)
    place = [each.offset for each in given(source) if isinstance(each, At)][-1]
    path.write_bytes(path.read_bytes().replace(b"text,size", b"size,text"))
    with pytest.raises(ConfigInvalid, match="was changed before byte"):
        given(source, place)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "cp1252", "utf-8-sig"])
def test_every_encoding_goes_on_or_gives_no_place(encoding, tmp_path):
    path = written(tmp_path / "f", rows_of("csv", 200).encode(encoding))
    source = csv_source("rows", Row, path=path, encoding=encoding)
    whole = given(source)
    places = [(number, each.offset) for number, each in enumerate(whole, 1) if isinstance(each, At)]
    assert bool(places) is (encoding != "utf-16")
    for number, place in places:
        assert told(given(source, place)) == told(whole)[number:]


def test_bytes_that_are_not_in_the_encoding_do_not_shift_a_place(tmp_path):
    lines = [b"%d,caf\xe9,1" % n if n % 40 == 0 else b"%d,caf\xc3\xa9,1" % n for n in range(600)]
    path = written(tmp_path / "f", b"id,text,size\n" + b"\n".join(lines) + b"\n")
    source = csv_source("rows", Row, path=path)
    whole = given(source)
    for number, each in enumerate(whole, 1):
        if isinstance(each, At):
            assert told(given(source, each.offset)) == told(whole)[number:]


def flow_of(form, path):
    seen = Seen()
    return oz.Flow("f", SOURCES[form]("rows", Row, path=path) >> seen.sink(), window=oz.Window(events=64))


@pytest.mark.parametrize("form", SOURCES)
def test_a_run_over_a_file_that_died_ends_as_one_that_lived(form, tmp_path):
    path = written(tmp_path / "f", rows_of(form, ROWS))
    lived = play(flow_of(form, path), journal=oz.MemoryJournal(keep=True))
    assert lived.state == "drained"
    journal, stood = Mortal(), []
    for appends in (40, 60, 30, 60):
        journal.left = appends
        died = play(flow_of(form, path), journal=journal)
        assert died.state == "failed"
        stood.append(died.pipeline.stages["rows"].written)
    assert 0 < stood[0] < stood[1] < stood[2] < stood[3] < ROWS
    journal.left = None
    last = play(flow_of(form, path), journal=journal)
    assert last.state == "drained", last.error
    assert last.events("rows") == lived.events("rows")
    letters = [(each.place, each.payload, each.error.message) for each in last.of(DeadLetter)]
    assert letters == [(each.place, each.payload, each.error.message) for each in lived.of(DeadLetter)]


@pytest.mark.parametrize("form", SOURCES)
def test_a_run_over_a_file_that_was_edited_says_so(form, tmp_path):
    path = written(tmp_path / "f", rows_of(form, ROWS))
    journal = Mortal()
    journal.left = 60
    play(flow_of(form, path), journal=journal)
    journal.left = None
    whole = path.read_bytes()
    path.write_bytes(b"".join(each.swapcase() if number else each for number, each in enumerate(whole.splitlines(keepends=True))))
    played = play(flow_of(form, path), journal=journal)
    assert played.state == "failed"
    assert played.error.code == "source_changed"
    assert "was changed before byte" in played.error.message
