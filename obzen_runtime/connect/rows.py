"""Rows of a CSV file as events, a few hundred at a time, and the bad ones with the lines they stand on.

The rows of a batch are turned into columns, the columns into values, the values into events. Only where that fails
is each row looked at, and its line number and its text found out.
"""

import codecs
import csv
import io
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import msgspec

from obzen_runtime.connect.cells import CellRefused, Column, shown
from obzen_runtime.connect.payload import Field, constructor
from obzen_runtime.connect.reading import FilePlace, Input, Overlong, bad, whole_lines
from obzen_runtime.kernel import IoFailed, ValidationFailed
from obzen_runtime.stages import Bad

__all__ = ["RowReader"]

_FIRST, _MOST = 32, 512
"""Rows converted at once: few at first, so that the first events are soon there."""
_BREAK = re.compile(r"\r\n|\r|\n")
_NEVER_A_ROW = '"a"b\n'
"""In strict mode an error wherever it stands: put in the place of a line that is too long to be read."""
_ASKED = "Correct the row, or take it out."


@dataclass(slots=True)
class Text:
    """A block of whole lines, kept until its rows are converted: a bad row is cut out of it."""

    first: int
    text: str
    byte: int = 0
    """Where it begins in the file."""
    size: int = 0
    """Bytes it has there."""
    damaged: bool = False
    """Some bytes are not in the encoding; they stand as lone surrogates."""
    overlong: int = 0
    """Bytes of the line of which `text` is only the beginning."""
    lines: list[str] = field(default_factory=list)

    def between(self, start: int, stop: int) -> str:
        """Lines `start` up to, not with, `stop`."""
        if not self.lines:
            self.lines = [self.text] if self.overlong else list(io.StringIO(self.text, newline=""))
        return "".join(self.lines[max(0, start - self.first) : max(0, stop - self.first)])


class RowReader:
    """Turns the lines of one file into events and bad rows."""

    def __init__(self, file: Input, kind: type[Any], fields: tuple[Field, ...]) -> None:
        self.file = file
        self.path = file.path
        self.kind = kind
        self.fields = fields
        self.columns = [Column(each) for each in fields]
        self.make = constructor(kind, fields)
        self.header: list[str] = []
        self.picks: list[int | None] = []
        """Per field the number of its column; None takes the default."""
        self.encoding = "utf-8"
        self.recoded = False
        """Its blocks are not the bytes of the file."""
        self.texts: deque[Text] = deque()
        self.before = 0
        """Lines before those the csv reader counts."""

    def events(self, delimiter: str, encoding: str, start: FilePlace | None) -> Iterator[Any]:
        """Every row, or those that follow `start`, as an event or a `Bad`."""
        self.encoding = "utf-8" if codecs.lookup(encoding).name in ("utf-8", "utf-8-sig") else encoding
        reader = self._reader(delimiter)
        self._read_header(reader, delimiter)
        if start is not None:
            self.file.go_on(start, self._salt)
            self.texts.clear()
            self.before = start.number
            reader = self._reader(delimiter)
        size = _FIRST
        while True:
            line = self.before + reader.line_num + 1
            rows: list[list[str]] = []
            error: csv.Error | None = None
            try:
                rows.extend(islice(reader, size))
            except csv.Error as raised:
                error = raised
            stop = self.before + reader.line_num + 1
            if rows:
                events = self._convert(rows, line)
                if events and error is None and self.file.due:
                    self._mark(events, stop)
                yield from events
            if error is not None:
                yield self._broken(error, line + sum(map(_height, rows)), stop)
            elif len(rows) < size:
                return
            while len(self.texts) > 1 and self.texts[1].first <= stop:
                self.texts.popleft()
            size = min(size * 2, _MOST)

    def _reader(self, delimiter: str) -> Any:
        reader = csv.reader(chain.from_iterable(self._lines(lambda: self.before + reader.line_num)), delimiter=delimiter, strict=True)
        return reader

    @property
    def _salt(self) -> bytes:
        """The header stands before every row, and says which column is which."""
        return repr(self.header).encode("utf-8", "surrogatepass")

    def _mark(self, events: list[Any], stop: int) -> None:
        """Say where in the file the last row ends, behind which line `stop` follows, if its bytes can be counted."""
        text = self.texts[-1]
        head = text.between(text.first, stop)
        if self.recoded or text.damaged or text.overlong or not head.endswith(("\n", "\r")):
            return
        if len(text.text.encode(self.encoding)) == text.size:
            self.file.mark(events, text.byte + len(head.encode(self.encoding)), stop - 1, self._salt)

    def _lines(self, done: Callable[[], int]) -> Iterator[Iterator[str] | tuple[str]]:
        given = 0
        blocks = self.file.blocks(utf_8=self.encoding == "utf-8")
        if "\n".encode(self.encoding) != b"\n":  # line ends are not found in its bytes
            blocks = self._recoded(blocks, self.encoding)
            self.encoding, self.recoded = "utf-8", True
        for block in whole_lines(blocks):
            if isinstance(block, Overlong):
                text = block.head.decode(self.encoding, "surrogateescape")
                self.texts.append(Text(done() + 1, text, overlong=block.size))
                given += block.size
                yield (_NEVER_A_ROW,)
                continue
            try:
                kept = Text(done() + 1, block.decode(self.encoding), self.file.begun + given, len(block))
            except UnicodeDecodeError:
                kept = Text(done() + 1, block.decode(self.encoding, "surrogateescape"), damaged=True)
            self.texts.append(kept)
            given += len(block)
            yield io.StringIO(kept.text, newline="")

    def _recoded(self, blocks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
        decoder = codecs.getincrementaldecoder(encoding)()
        try:
            for block in chain(blocks, (b"",)):
                yield decoder.decode(block, final=not block).removeprefix("\ufeff").encode()
        except UnicodeError as error:
            raise IoFailed(
                f"{self.path} is not {encoding}: {error}", remedy="Set the encoding the file is written in.", path=str(self.path)
            ) from error

    def _read_header(self, reader: Any, delimiter: str) -> None:
        """Find each field's column."""
        expected = ", ".join(each.column for each in self.fields)
        try:
            self.header = next((row for row in reader if row), [])
        except csv.Error as error:
            raise self._no_header(f"{self.path}:{reader.line_num}: the header cannot be read: {error}", "Close its quotes.") from error
        if not self.header:
            raise self._no_header(f"{self.path} is empty, expected a header with the columns {expected}", "Write the header first.")
        missing = [each.column for each in self.fields if each.default is None and each.column not in self.header]
        twice = [each.column for each in self.fields if self.header.count(each.column) > 1]
        if twice:
            raise self._no_header(
                f"{self.path}:{reader.line_num}: the header names column {twice[0]!r} {self.header.count(twice[0])} times, expected once",
                "Rename the others.",
            )
        if missing or not any(each.column in self.header for each in self.fields):
            found = ", ".join(map(shown, self.header[:20])) + (" …" if len(self.header) > 20 else "")
            lacks = ", ".join(map(repr, missing or [each.column for each in self.fields]))
            other = next((each for each in ";\t|," if each != delimiter and each in "".join(self.header)), None)
            remedy = "Rename the column, map it with msgspec.field(name=…), or give the field a default."
            if any(each == "\0" or "\udc80" <= each <= "\udcff" for each in "".join(self.header)):
                remedy = "Set the encoding the file is written in."
            elif other is not None and len(self.header) == 1:
                remedy = f"The cells seem to be parted by {other!r}: set delimiter={other!r}."
            raise self._no_header(
                f"{self.path}:{reader.line_num}: no column {lacks} for {self.kind.__name__}, expected {expected}; found {found}", remedy
            )
        self.picks = [self.header.index(each.column) if each.column in self.header else None for each in self.fields]

    def _no_header(self, message: str, remedy: str) -> ValidationFailed:
        return ValidationFailed(message, code="missing_field", remedy=remedy, path=str(self.path))

    def _convert(self, rows: list[list[str]], line: int) -> list[Any]:
        if set(map(len, rows)) == {len(self.header)} and not any(each.damaged for each in self.texts):
            try:
                return list(map(self.make, *self._values(rows)))
            except (CellRefused, msgspec.MsgspecError, ValueError, TypeError):
                """Some row is bad: which one, the slow way tells."""
        made: list[Any] = []
        for row in rows:
            height = _height(row)
            if row:
                made.append(self._one(row, line, height))
            line += height
        return made

    def _values(self, rows: list[list[str]]) -> Iterator[Sequence[Any]]:
        cells = list(zip(*rows, strict=True))
        for column, pick in zip(self.columns, self.picks, strict=True):
            if pick is None:
                assert column.field.default is not None
                yield [column.field.default() for _ in rows]
            else:
                yield column.values(cells[pick])

    def _one(self, row: list[str], line: int, height: int) -> Any:
        """One row as an event, or what is wrong with it."""
        if len(row) != len(self.header):
            return self._bad(line, height, f"expected {len(self.header)} cells as in the header, got {len(row)}")
        try:
            "".join(row).encode()
        except UnicodeEncodeError:
            return self._bad(line, height, f"expected {self.encoding}, got bytes that are not", "Set the encoding the file is written in.")
        values: list[Any] = []
        for column, pick in zip(self.columns, self.picks, strict=True):
            try:
                values.append(column.field.default() if pick is None and column.field.default else column.value(row[pick or 0]))
            except CellRefused as refused:
                return self._bad(line, height, f"column {column.field.column!r}: {refused}")
        try:
            return self.make(*values)
        except Exception as error:  # noqa: BLE001 - a check of the user's own refuses the row
            return self._bad(line, height, f"{self.kind.__name__} refuses it: {error}")

    def _broken(self, error: csv.Error, start: int, stop: int) -> Bad:
        """A row the csv module gave up."""
        text = next((each for each in self.texts if each.overlong and start <= each.first < stop), None)
        if text is not None:
            return self._bad(start, stop - start, f"expected a line end within 16 MiB, got a line of {text.overlong} bytes")
        if "field limit" in str(error):
            remedy = "Close its quotes; if the cell is right, raise the limit with csv.field_size_limit(n)."
            return self._bad(
                start, stop - start, f"expected cells of at most {csv.field_size_limit()} characters, got a longer one", remedy
            )
        if "unexpected end" in str(error):
            return self._bad(start, stop - start, "expected a closing quote, got the end of the file", "Close the quote.")
        return self._bad(
            start, stop - start, f"expected CSV, got a row that is not: {error}", 'Write quotes inside a quoted cell twice: "".'
        )

    def _bad(self, line: int, height: int, problem: str, remedy: str = _ASKED) -> Bad:
        raw = "".join(each.between(line, line + height) for each in self.texts)
        return bad(raw.encode(self.encoding, "surrogateescape"), f"{self.path}:{line}", problem, remedy)


def _height(row: list[str]) -> int:
    """Lines a row stands on."""
    return 1 + sum(len(_BREAK.findall(cell)) for cell in row if "\n" in cell or "\r" in cell)
