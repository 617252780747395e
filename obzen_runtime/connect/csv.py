r"""CSV files: a header, and a struct for every row behind it.

Columns are found by the struct's encoded field names, so `rename` or `field(name=…)` of msgspec maps any header, in any
order; columns that are no field are passed over. An empty cell is None where the field allows None.

Rules of the format: RFC 4180 with any one-character delimiter; quotes must be closed; `\n`, `\r\n` and `\r` end a line;
blank lines are passed over. A cell holds at most `csv.field_size_limit()` characters (131,072 unless your program
raises it).
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec

from obzen_runtime.connect.payload import Field, checked, fields_of
from obzen_runtime.connect.reading import Input, file_source
from obzen_runtime.connect.rows import RowReader
from obzen_runtime.connect.writing import Form, file_sink
from obzen_runtime.kernel import UsageError
from obzen_runtime.stages import Offset, Progress, Sink, Source

__all__ = ["csv_sink", "csv_source"]


def csv_source(name: str, kind: type[Any], *, path: Path | str, delimiter: str = ",", encoding: str = "utf-8") -> Source:
    """Describe a CSV file as a source of `kind`, a struct or dataclass whose fields fit cells.

    `path`, `delimiter` and `encoding` are parameters: `--set name.path=…`. A row that does not fit (a wrong value, too
    few or too many cells, bytes that are not in the encoding) is a dead letter with its place, `file.csv:LINE`, and the
    source goes on. A file that cannot be opened, or has no column for a field without a default, fails the source.

    Resumed, it goes on where it stood, and reads what was appended since; a file that was changed before that is refused.
    """
    kind = checked("csv_source", kind)
    fields = fields_of("csv_source", kind)
    _check_dialect(delimiter, encoding)

    def read(path: Path, progress: Progress, delimiter: str = ",", encoding: str = "utf-8", start: Offset | None = None) -> Iterator[Any]:
        _check_dialect(delimiter, encoding)
        with Input(path, progress) as file:
            yield from RowReader(file, kind, fields).events(delimiter, encoding, start)

    return file_source(name, kind, read, path=Path(path), delimiter=delimiter, encoding=encoding)


def csv_sink(name: str, kind: type[Any], *, path: Path | str) -> Sink:
    """Describe a CSV file as a sink of `kind`, a struct or dataclass whose fields fit cells.

    The file is made, or emptied, when a run starts, and a resumed run goes on in it; it begins with the encoded field
    names. Its directory must be there. None is an empty cell (and so is an empty text), floats keep all their digits,
    dates are ISO 8601, enums their value, bytes base64. `path` is a parameter: `--set name.path=…`.
    """
    kind = checked("csv_sink", kind)
    fields = fields_of("csv_sink", kind)
    return file_sink(name, kind, path, _form(fields))


def _check_dialect(delimiter: str, encoding: str) -> None:
    try:
        csv.reader((), delimiter=delimiter)
        usable = delimiter not in '"\r\n'
    except (TypeError, ValueError):
        usable = False
    if not usable:
        raise UsageError(f"csv: delimiter {delimiter!r} is not one character that may part cells", remedy="Give one, such as ',' or ';'.")
    try:
        "".encode(encoding)
    except LookupError as error:
        raise UsageError(f"csv: there is no text encoding {encoding!r}", remedy="Give one such as utf-8, cp1252 or utf-16.") from error


class _Rows(list[str]):
    """What csv.writer writes to: its rows, one text each."""

    write = list.append


def _render(rows: Any) -> bytes:
    # CRLF makes the writer quote cells that hold either half of it; the file itself has plain line ends.
    written = _Rows()
    csv.writer(written, lineterminator="\r\n").writerows(rows)
    return "".join([row[:-2] + "\n" for row in written]).encode()


def _form(fields: tuple[Field, ...]) -> Form:
    names = [each.name for each in fields]
    pick: Callable[[Any], Any] = attrgetter(*names)
    special = [
        (number, _words if each.kind is bool else _plain) for number, each in enumerate(fields) if each.kind not in (str, int, float)
    ]

    def encode(events: list[Any]) -> bytes:
        rows: Any = map(pick, events) if len(names) > 1 else ((value,) for value in map(pick, events))
        if special:
            columns: list[Any] = list(zip(*rows, strict=True))
            for number, change in special:
                columns[number] = change(columns[number])
            rows = zip(*columns, strict=True)
        return _render(rows)

    return Form(encode, head=_render([[each.column for each in fields]]))


def _plain(values: Sequence[Any]) -> Any:
    return msgspec.to_builtins(values)


def _words(values: Sequence[bool | None]) -> list[str | None]:
    return [None if value is None else "true" if value else "false" for value in values]
