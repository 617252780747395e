import csv
import datetime
import decimal
from dataclasses import dataclass
from typing import Annotated, Literal, NewType

import msgspec
import pytest

from obzen_runtime.connect import csv_source
from obzen_runtime.kernel import IoFailed, NotFound, UsageError, ValidationFailed
from obzen_runtime.stages import Progress
from tests.connect.kit import Every, Row, good, read, told, written

OrderId = NewType("OrderId", int)


@pytest.fixture
def rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def read_text(content, kind=Row, **options):
        written(tmp_path / "t.csv", content)
        return read(csv_source("rows", kind, path="t.csv", **options))

    return read_text


def test_columns_are_found_by_name_in_any_order_and_others_are_passed_over(rows):
    assert rows("extra,text,id\nx,one,1\ny,two,2\n") == [Row(1, "one"), Row(2, "two")]


def test_encoded_names_map_a_header_of_any_words(rows):
    class Renamed(msgspec.Struct, frozen=True, rename="camel"):
        first_name: str
        number: int = msgspec.field(name="Nº of things")

    assert rows("Nº of things,firstName\n3,Ada\n", Renamed) == [Renamed("Ada", 3)]


def test_an_empty_cell_is_none_only_where_none_is_allowed(rows):
    items = rows("id,text,size\n1,,\n,x,2.5\n")
    assert good(items) == [Row(1, "", None)]
    assert told(items) == [("t.csv:3", "t.csv:3: column 'id': expected int (such as -12), got an empty cell")]


def test_a_column_that_is_missing_takes_the_fields_default(rows):
    class Defaults(msgspec.Struct, frozen=True):
        id: int
        tag: str = "none"
        seen: datetime.date = msgspec.field(default_factory=lambda: datetime.date(2020, 1, 1))

    assert rows("id\n7\n", Defaults) == [Defaults(7, "none", datetime.date(2020, 1, 1))]


def test_new_types_literals_and_limits_of_a_type_are_columns(rows):
    class Order(msgspec.Struct, frozen=True):
        id: OrderId
        size: Literal["S", "M"] | None
        count: Annotated[OrderId, msgspec.Meta(ge=1)] = OrderId(1)

    items = rows("id,size,count\n1,S,2\n2,,1\n3,L,1\n4,M,0\n", Order)
    assert good(items) == [Order(OrderId(1), "S", OrderId(2)), Order(OrderId(2), None)]
    assert [place for place, _ in told(items)] == ["t.csv:4", "t.csv:5"]


def test_dataclasses_and_keyword_only_fields_are_made_too(rows):
    @dataclass(frozen=True)
    class Point:
        x: int
        y: float = 0.5

    class Keyword(msgspec.Struct, frozen=True, kw_only=True):
        b: str = "b"
        a: int

    assert rows("y,x\n1.5,2\n", Point) == [Point(2, 1.5)]
    assert rows("a\n1\n", Keyword) == [Keyword(a=1)]


@pytest.mark.parametrize(
    "cell", [" 12", "12 ", "+5", "007", "1_000", "1e3", "1.0", "0x10", "null", "99999999999999999999", "-9223372036854775809"]
)
def test_an_int_cell_is_plain_digits_within_64_bits(rows, cell):
    items = rows(f"id,text\n{cell},x\n2,y\n")
    assert good(items) == [Row(2, "y")]
    [(place, message)] = told(items)
    assert place == "t.csv:2"
    assert "column 'id': expected int" in message
    assert repr(cell) in message


@pytest.mark.parametrize(
    ("cell", "value"), [("0", 0), ("-12", -12), ("18446744073709551615", 2**64 - 1), ("-9223372036854775808", -(2**63))]
)
def test_every_int_that_crosses_an_edge_is_read(rows, cell, value):
    assert rows(f"id,text\n{cell},x\n") == [Row(value, "x")]


@pytest.mark.parametrize(
    ("kind", "cell", "expected"),
    [
        (bool, "yes", "expected bool (true, false, 1 or 0), got 'yes'"),
        (float, "1,5", "expected float (such as -1.5 or 2e9), got '1,5'"),
        (float | None, "null", "expected float (such as -1.5 or 2e9), got 'null'"),
        (decimal.Decimal, " 1.5", "expected Decimal (such as 12.50), got ' 1.5'"),
        (decimal.Decimal, "one", "expected Decimal (such as 12.50), got 'one'"),
        (datetime.datetime, "1700000000", "expected datetime (such as 2001-12-31T23:59:59Z), got '1700000000'"),
        (datetime.date, "2001-1-1", "expected date (such as 2001-12-31), got '2001-1-1'"),
        (datetime.timedelta, "5", "expected timedelta (such as PT1.5S), got '5'"),
        (bytes, "abc!", "expected bytes in base64, got 'abc!'"),
        (Annotated[int, msgspec.Meta(ge=6)], "5", "(Expected `int` >= 6)"),
    ],
)
def test_a_value_of_another_type_says_what_was_expected(rows, kind, cell, expected):
    made = msgspec.defstruct("Made", [("id", int), ("value", kind)], frozen=True)
    items = rows(f'id,value\n1,"{cell}"\n', made)
    assert len(items) == 1
    assert expected in told(items)[0][1]


def test_an_enum_says_its_values(rows):
    made = msgspec.defstruct("Made", [("id", int), ("colour", Every.__annotations__["colour"])], frozen=True)
    assert "expected one of red, blue, got 'green'" in told(rows("id,colour\n1,green\n", made))[0][1]


def test_a_row_that_the_types_own_check_refuses_is_bad(rows):
    class Even(msgspec.Struct, frozen=True):
        id: int

        def __post_init__(self):
            if self.id % 2:
                raise ValueError("odd")

    items = rows("id\n2\n3\n4\n", Even)
    assert good(items) == [Even(2), Even(4)]
    assert told(items) == [("t.csv:3", "t.csv:3: Even refuses it: odd")]


def test_too_few_and_too_many_cells_are_bad_rows(rows):
    items = rows("id,text\n1\n2,x\n3,y,z\n")
    assert good(items) == [Row(2, "x")]
    assert told(items) == [
        ("t.csv:2", "t.csv:2: expected 2 cells as in the header, got 1"),
        ("t.csv:4", "t.csv:4: expected 2 cells as in the header, got 3"),
    ]


def test_the_line_of_a_bad_row_is_where_it_begins_whatever_lines_stand_in_cells_before_it(rows):
    items = rows('id,text\r\n1,"two\nlines"\r\n\r\nx,"bad\r\n\r\nrow"\n3,"a\rb"\ny,z\n')
    assert good(items) == [Row(1, "two\nlines"), Row(3, "a\rb")]
    assert [place for place, _ in told(items)] == ["t.csv:5", "t.csv:10"]
    assert [item.raw for item in items if item not in good(items)] == [b'x,"bad\r\n\r\nrow"\n', b"y,z\n"]


def test_bad_rows_keep_their_lines_over_blocks_and_batches(rows):
    lines = [f"{n},{'x' * 50}" if n % 997 else f"bad{n},{'x' * 50}" for n in range(1, 20_001)]
    items = rows("id,text\n" + "\n".join(lines) + "\n")
    assert len(items) == 20_000
    assert [place for place, _ in told(items)] == [f"t.csv:{n + 1}" for n in range(997, 20_001, 997)]
    assert all(item.raw == f"bad{n},{'x' * 50}\n".encode() for n, item in zip(range(997, 20_001, 997), items[996::997], strict=True))


def test_bytes_that_are_not_in_the_encoding_are_a_bad_row_with_those_bytes(rows):
    items = rows(b"id,text\n1,caf\xc3\xa9\n2,\xff\xfe\n3,z\n")
    assert good(items) == [Row(1, "café"), Row(3, "z")]
    assert told(items) == [("t.csv:3", "t.csv:3: expected utf-8, got bytes that are not")]
    assert items[1].raw == b"2,\xff\xfe\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-be", "cp1252", "cp037"])
def test_other_encodings_are_read(rows, encoding):
    assert rows("id,text\n1,é\n2,ü\n".encode(encoding), encoding=encoding) == [Row(1, "é"), Row(2, "ü")]


def test_a_file_that_is_not_in_its_wide_encoding_fails(rows):
    with pytest.raises(IoFailed, match=r"t\.csv is not utf-16"):
        rows(b"\xff\xfei\x00d", encoding="utf-16")


def test_a_byte_order_mark_is_no_part_of_the_first_name(rows):
    assert rows(b"\xef\xbb\xbfid,text\n1,x\n") == [Row(1, "x")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_end_is_taken_and_the_last_line_may_lack_its_own(rows, end):
    assert rows(f"id,text{end}1,x{end}2,y") == [Row(1, "x"), Row(2, "y")]


def test_a_quote_that_is_never_closed_takes_its_lines_along_as_one_bad_row(rows):
    items = rows('id,text\n1,x\n2,"open\n3,y\n')
    assert good(items) == [Row(1, "x")]
    assert told(items) == [("t.csv:3", "t.csv:3: expected a closing quote, got the end of the file")]
    assert items[1].raw == b'2,"open\n3,y\n'


def test_a_stray_quote_is_a_bad_row_and_the_next_one_is_read(rows):
    items = rows('id,text\n1,"x"y\n2,z\n')
    assert good(items) == [Row(2, "z")]
    assert "t.csv:2: expected CSV, got a row that is not" in told(items)[0][1]


def test_a_cell_over_the_csv_modules_limit_is_a_bad_row(rows):
    items = rows(f"id,text\n1,{'x' * 200_000}\n2,y\n")
    assert good(items) == [Row(2, "y")]
    assert told(items) == [("t.csv:2", "t.csv:2: expected cells of at most 131072 characters, got a longer one")]
    assert len(items[0].raw) == 65536
    assert csv.field_size_limit() == 131072


@pytest.mark.parametrize("before", [b"", b'0,"open\n'])
def test_a_line_over_16_mib_is_a_bad_row_of_which_the_beginning_is_kept(rows, before):
    items = rows(b"id,text\n" + before + b"1," + b"x" * (17 << 20) + b"\n2,y\nz,z\n")
    assert good(items) == [Row(2, "y")]
    line = 3 + before.count(b"\n")
    assert [place for place, _ in told(items)] == ["t.csv:2", f"t.csv:{line + 1}"]
    assert "expected a line end within 16 MiB, got a line of 17825795 bytes" in told(items)[0][1]


def test_a_nul_is_a_character_like_any_other(rows):
    items = rows("id,text\n1,a\0b\n\0,x\n")
    assert good(items) == [Row(1, "a\0b")]
    assert told(items)[0][0] == "t.csv:3"


def test_a_header_alone_gives_nothing(rows):
    assert rows("id,text\n") == []


@pytest.mark.parametrize(
    ("content", "message", "remedy"),
    [
        ("", "t.csv is empty, expected a header with the columns id, text, size", "Write the header first."),
        ("\n\n", "t.csv is empty, expected a header with the columns id, text, size", "Write the header first."),
        ("id;text\n1;x\n", "t.csv:1: no column 'id', 'text' for Row, expected id, text, size; found 'id;text'", "set delimiter=';'"),
        ("id,name\n", "t.csv:1: no column 'text' for Row, expected id, text, size; found 'id', 'name'", "Rename the column"),
        ("id,text,id\n", "t.csv:1: the header names column 'id' 2 times, expected once", "Rename the others."),
        ('"id,text\n1,x\n', "t.csv:2: the header cannot be read: unexpected end of data", "Close its quotes."),
        (
            f"{'i' * 100}\n",
            f"t.csv:1: no column 'id', 'text' for Row, expected id, text, size; found '{'i' * 60}'… (100 characters)",
            "Rename the column",
        ),
        (
            "nom,d\xe9\n".encode("cp1252"),
            "t.csv:1: no column 'id', 'text' for Row, expected id, text, size; found 'nom', 'd\\udce9'",
            "Set the encoding the file is written in.",
        ),
        (
            "id".encode("utf-16-le"),
            "t.csv:1: no column 'id', 'text' for Row, expected id, text, size; found 'i\\x00d\\x00'",
            "Set the encoding the file is written in.",
        ),
    ],
)
def test_a_header_that_does_not_fit_fails_the_source_and_says_why(rows, content, message, remedy):
    with pytest.raises(ValidationFailed) as failed:
        rows(content)
    assert failed.value.message == message
    assert remedy in failed.value.remedy


def test_a_file_with_none_of_the_columns_is_refused_even_when_all_have_defaults(rows):
    made = msgspec.defstruct("Made", [("a", int, 1)], frozen=True)
    with pytest.raises(ValidationFailed, match="no column 'a' for Made"):
        rows("x,y\n1,2\n", made)


def test_a_missing_file_a_directory_and_a_file_in_a_files_place_are_told_with_the_path(tmp_path):
    written(tmp_path / "file", "")
    for path, kind, said in [
        (tmp_path / "nothing.csv", NotFound, "there is no such file"),
        (tmp_path, IoFailed, "it is a directory"),
        (tmp_path / "file" / "x.csv", IoFailed, "a part of the path is not a directory"),
    ]:
        with pytest.raises(kind) as failed:
            read(csv_source("rows", Row, path=path))
        assert failed.value.message == f"cannot read {path}: {said}"
        assert failed.value.remedy


def test_progress_counts_bytes_of_the_whole(tmp_path):
    path = written(tmp_path / "t.csv", "id,text\n" + "1,x\n" * 50_000)
    progress = Progress()
    source = csv_source("rows", Row, path=path)
    items = source.handler(**source.bound, progress=progress)
    next(items)
    assert (progress.done, progress.total) == (65536, path.stat().st_size)
    assert sum(1 for _ in items) == 49_999
    assert progress.done == progress.total


def test_a_file_that_shrinks_while_it_is_read_fails_rather_than_end_early(tmp_path):
    path = written(tmp_path / "t.csv", "id,text\n" + "1,x\n" * 50_000)
    source = csv_source("rows", Row, path=path)
    items = source.handler(**source.bound, progress=Progress())
    next(items)
    path.write_bytes(b"")
    with pytest.raises(IoFailed, match=r"t\.csv shrank while it was read: 65536 of 200008 bytes were there"):
        list(items)


def test_a_file_that_is_unlinked_while_it_is_read_is_read_to_its_end(tmp_path):
    path = written(tmp_path / "t.csv", "id,text\n" + "1,x\n" * 50_000)
    source = csv_source("rows", Row, path=path)
    items = source.handler(**source.bound, progress=Progress())
    next(items)
    path.unlink()
    assert sum(1 for _ in items) == 49_999


def test_path_delimiter_and_encoding_are_parameters(tmp_path):
    written(tmp_path / "t.csv", "id|text\n1|\xe9\n".encode("cp1252"))
    source = csv_source("rows", Row, path="elsewhere.csv")
    for name, text in {"path": str(tmp_path / "t.csv"), "delimiter": "|", "encoding": "cp1252"}.items():
        source = source.bind_text(name, [text])
    assert set(source.parameters) == {"path", "delimiter", "encoding"}
    assert read(source) == [Row(1, "é")]


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        (int, {}, "int is not a msgspec struct or a dataclass"),
        (list[Row], {}, "is not a msgspec struct or a dataclass"),
        (msgspec.defstruct("Nested", [("row", Row)]), {}, "field Nested.row is Row, which does not fit a cell"),
        (msgspec.defstruct("Listed", [("tags", list[str])]), {}, "field Listed.tags is list[str], which does not fit a cell"),
        (msgspec.defstruct("Either", [("x", int | str)]), {}, "field Either.x is int | str, which does not fit a cell"),
        (msgspec.defstruct("Odd", [("x", complex)]), {}, "Odd"),
        (msgspec.defstruct("Empty", []), {}, "Empty has no fields"),
        (Row, {"delimiter": ";;"}, "delimiter ';;'"),
        (Row, {"delimiter": '"'}, "delimiter '\"'"),
        (Row, {"delimiter": ""}, "delimiter ''"),
        (Row, {"encoding": "klingon"}, "no text encoding 'klingon'"),
        (Row, {"encoding": "hex"}, "no text encoding 'hex'"),
    ],
)
def test_what_cannot_be_read_as_csv_is_refused_when_it_is_described(kind, options, said):
    with pytest.raises(UsageError) as refused:
        csv_source("rows", kind, path="t.csv", **options)
    assert said in refused.value.message
    assert refused.value.remedy
