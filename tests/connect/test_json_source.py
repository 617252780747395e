import json
import tracemalloc
from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from obzen_runtime.connect import json_source, reading
from obzen_runtime.connect.elements import Elements
from obzen_runtime.kernel import NotFound, UsageError, ValidationFailed
from obzen_runtime.stages import Progress
from tests.connect.kit import Row, good, read, told, written


@pytest.fixture
def rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def read_text(content, kind=Row):
        written(tmp_path / "t.json", content)
        return read(json_source("rows", kind, path="t.json"))

    return read_text


@pytest.mark.parametrize("text", ["[]", " [ ]\n", "\n\n[\n]\n\n", "\ufeff[]"])
def test_an_empty_array_gives_nothing(rows, text):
    assert rows(text) == []


@pytest.mark.parametrize("indent", [None, 0, 2, "\t"])
@pytest.mark.parametrize("separators", [None, (",", ":"), (" , ", " : ")])
def test_an_array_is_read_however_it_is_laid_out(rows, indent, separators):
    items = [{"id": n, "text": '}],[{"\\' * (n % 3) + "é"} for n in range(3000)]
    assert rows(json.dumps(items, indent=indent, separators=separators)) == [Row(each["id"], each["text"]) for each in items]


def test_dataclasses_and_array_like_structs_are_elements_too(rows):
    @dataclass(frozen=True)
    class Point:
        x: int

    class Pair(msgspec.Struct, frozen=True, array_like=True):
        a: int
        b: tuple[int, ...]

    assert rows('[{"x":1},{"x":2}]', Point) == [Point(1), Point(2)]
    many = [[n, [n, n]] for n in range(20_000)]
    assert rows(json.dumps(many), Pair) == [Pair(n, (n, n)) for n in range(20_000)]


def test_bad_elements_are_told_with_their_index_and_those_around_them_are_read(rows):
    items = rows('[{"id":1,"text":"a"},{"id":"x","text":"b"},{"id":3},null,4,"s",[1],{id:5},{"id":6,"text":"]},{["}]')
    assert good(items) == [Row(1, "a"), Row(6, "]},{[")]
    assert told(items) == [
        ("t.json[1]", "t.json[1]: the object does not fit: Expected `int`, got `str` - at `$.id`"),
        ("t.json[2]", "t.json[2]: the object does not fit: Object missing required field `text`"),
        ("t.json[3]", "t.json[3]: the object does not fit: Expected `object`, got `null`"),
        ("t.json[4]", "t.json[4]: the object does not fit: Expected `object`, got `int`"),
        ("t.json[5]", "t.json[5]: the object does not fit: Expected `object`, got `str`"),
        ("t.json[6]", "t.json[6]: the object does not fit: Expected `object`, got `array`"),
        ("t.json[7]", "t.json[7]: expected JSON, got text that is not: JSON is malformed: object keys must be strings (byte 1)"),
    ]
    assert items[1].raw == b'{"id":"x","text":"b"}'


def test_bad_elements_keep_their_index_over_blocks(rows):
    texts = [json.dumps({"id": n, "text": "x" * 50}) for n in range(20_000)]
    for n in range(500, 20_000, 997):
        texts[n] = '{"id":"bad"}' if n % 2 else "{broken}"
    items = rows("[" + ",\n".join(texts) + "]")
    assert len(items) == 20_000
    assert [place for place, _ in told(items)] == [f"t.json[{n}]" for n in range(500, 20_000, 997)]


@pytest.mark.parametrize(
    ("text", "ids", "letters"),
    [
        ('[{"id":1,"text":""},]', [1], ["t.json[1]"]),
        ('[{"id":1,"text":""},,{"id":2,"text":""}]', [1, 2], ["t.json[1]"]),
        ("[,]", [], ["t.json[0]", "t.json[1]"]),
    ],
)
def test_a_comma_too_many_is_a_bad_element(rows, text, ids, letters):
    items = rows(text)
    assert [item.id for item in good(items)] == ids
    assert [place for place, _ in told(items)] == letters
    assert all("there is a comma too many" in message for _, message in told(items))


@pytest.mark.parametrize(
    ("text", "ids", "raw"),
    [
        ("[", [], b""),
        ('[{"id":1,"text":"a"}', [1], b""),
        ('[{"id":1,"text":"a"},', [1], b""),
        ('[{"id":1,"text":"a"},{"id":2,"te', [1], b'{"id":2,"te'),
        ('[{"id":1,"text":"a', [], b'{"id":1,"text":"a'),
    ],
)
def test_an_array_cut_short_gives_its_whole_elements_and_one_letter_for_the_rest(rows, text, ids, raw):
    items = rows(text)
    assert [item.id for item in good(items)] == ids
    [(place, message)] = told(items)
    assert message == f"{place}: expected ']', got the end of the file: the array was cut short"
    assert place == f"t.json[{len(ids)}]"
    assert items[-1].raw == raw


def test_a_large_file_cut_short_loses_only_its_last_element(rows):
    whole = json.dumps([{"id": n, "text": "x" * 100} for n in range(5000)])
    items = rows(whole[: len(whole) // 2])
    ids = [item.id for item in good(items)]
    assert ids == list(range(len(ids)))
    assert len(ids) > 2400
    assert len(told(items)) == 1


@pytest.mark.parametrize("behind", ["[", '{"id":2,"text":"b"}', "x" * 200_000, "]"])
def test_what_stands_behind_the_array_is_a_letter(rows, behind):
    items = rows(f'[{{"id":1,"text":"a"}}]\n{behind}')
    assert good(items) == [Row(1, "a")]
    [(place, message)] = told(items)
    assert place == "t.json[1]"
    assert "expected the end of the file behind the array" in message


def test_invalid_utf_8_in_the_middle_is_one_bad_element(rows):
    items = rows(b'[{"id":1,"text":"a"},{"id":2,"text":"\xff"},{"id":3,"text":"\xc3\xa9"}]')
    assert good(items) == [Row(1, "a"), Row(3, "é")]
    assert "expected UTF-8, got bytes that are not" in told(items)[0][1]


@pytest.mark.parametrize(
    "nest", ["[" * 100_000 + "]" * 100_000, '{"id":' * 50_000 + "1" + "}" * 50_000, '{"x":' + "[" * 5000 + "]" * 5000 + "}"]
)
def test_deep_nesting_is_one_bad_element(rows, nest):
    items = rows(f'[{{"id":1,"text":"a"}},{nest},{{"id":2,"text":"b"}}]')
    assert [item.id for item in good(items)] == [1, 2]
    assert [place for place, _ in told(items)] == ["t.json[1]"]


def test_an_element_larger_than_a_block_is_read(rows):
    text = '"\\}]{[,' * 400_000
    assert rows(json.dumps([{"id": 1, "text": text}, {"id": 2, "text": "b"}])) == [Row(1, text), Row(2, "b")]


@pytest.mark.parametrize("large", ['{"id":2,"text":"' + "y" * (17 << 20) + '"}', "[" + f'["{"z" * 99}",{{}}],' * (160 << 10) + "1]"])
def test_an_element_over_16_mib_is_bad_and_those_around_it_are_read(rows, large):
    items = rows(f'[{{"id":1,"text":"a"}},{large},{{"id":3,"text":"c"}},{{"id":"x"}}]')
    assert good(items) == [Row(1, "a"), Row(3, "c")]
    assert [place for place, _ in told(items)] == ["t.json[1]", "t.json[3]"]
    assert "expected at most 16 MiB, got a larger element" in told(items)[0][1]
    assert len(items[1].raw) == 65536
    assert len(told(rows(f"[{large}]"))) == 1


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        ("", "t.json is empty, expected a JSON array of objects", "Write at least []."),
        (" \n", "t.json is empty, expected a JSON array of objects", "Write at least []."),
        ('{"items":[]}', "t.json begins with '{', expected '[': a JSON array of objects", "Use jsonl_source when every line is an object"),
        ("id,text\n", "t.json begins with 'i', expected '[': a JSON array of objects", "Check that the file is JSON."),
    ],
)
def test_a_file_that_is_no_array_fails_the_source_and_says_what_to_use(rows, text, message, remedy):
    with pytest.raises(ValidationFailed) as failed:
        rows(text)
    assert failed.value.message == message
    assert remedy in failed.value.remedy


def test_a_missing_file_is_told_with_its_path(tmp_path):
    with pytest.raises(NotFound, match="there is no such file"):
        read(json_source("rows", Row, path=tmp_path / "no.json"))


def test_the_file_is_never_held_whole(tmp_path):
    path = written(tmp_path / "t.json", json.dumps([{"id": n, "text": "x" * 80} for n in range(100_000)], indent=1))
    source = json_source("rows", Row, path=path)
    tracemalloc.start()
    try:
        progress = Progress()
        assert sum(1 for _ in source.handler(**source.bound, progress=progress)) == 100_000
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()
    assert progress.done == progress.total == path.stat().st_size > 10 << 20


def test_types_that_are_no_structs_are_refused_when_described():
    for kind in (int, dict, list[Row], Row | None):
        with pytest.raises(UsageError, match="is not a msgspec struct or a dataclass"):
            json_source("rows", kind, path="t.json")
    with pytest.raises(UsageError, match="Odd cannot be decoded"):
        json_source("rows", msgspec.defstruct("Odd", [("x", int | dict[str, int] | Row)]), path="t.json")


class Any_(msgspec.Struct, frozen=True):
    id: int
    more: msgspec.Raw = msgspec.Raw(b"null")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(max_size=8)
    | st.sampled_from(["},{", "[{", '"', "\\", '\\"},{"id":1']),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(VALUES, max_size=12), st.sampled_from([None, 1]), st.booleans(), st.integers(1, 40))
def test_elements_are_those_json_finds_wherever_the_blocks_end(tmp_path_factory, values, indent, ascii_only, block):
    items = [{"id": number, "more": value} for number, value in enumerate(values)]
    path = written(
        tmp_path_factory.mktemp("json") / "t.json", json.dumps(items, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "replace")
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "BLOCK", block)
        found = read(json_source("rows", Any_, path=path))
    assert [(each.id, json.loads(bytes(each.more))) for each in found] == [
        (each["id"], json.loads(json.dumps(each["more"]).encode("utf-8", "replace"))) for each in items
    ]


@given(st.text(alphabet='[]{},:"\\ 1a', max_size=60), st.integers(1, 20))
def test_whatever_stands_in_an_array_the_source_ends_and_tells_the_same_at_any_block_size(tmp_path_factory, text, block):
    path = written(tmp_path_factory.mktemp("json") / "t.json", "[" + text)
    whole = [getattr(item, "id", getattr(item, "place", None)) for item in read(json_source("rows", Any_, path=path))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "BLOCK", block)
        assert [getattr(item, "id", getattr(item, "place", None)) for item in read(json_source("rows", Any_, path=path))] == whole


@given(st.lists(VALUES, min_size=1, max_size=8), st.integers(1, 30))
def test_counting_alone_finds_every_seam(values, block):
    parts = [json.dumps(value).encode() for value in values]
    text = b",".join(parts) + b"] \n"
    elements = Elements()
    found = []
    for start in range(0, len(text), block):
        elements.add(text[start : start + block])
        found += elements.count()
        if elements.closed:
            break
    assert elements.closed
    assert [*found, elements.until()] == parts
