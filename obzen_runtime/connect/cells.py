"""Text to values, a column at a time: one call for a few hundred cells, a look at each only where that call refuses.

msgspec takes from text a little more than we do (`1e3` for an int, seconds for a date, `null` for nothing), so columns
that look like that are taken cell by cell too, and refused there.
"""

import datetime
import decimal
import enum
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from obzen_runtime.connect.payload import Field, name_of

__all__ = ["CellRefused", "Column", "shown"]

_SUSPECT: dict[type, re.Pattern[str]] = {
    int: re.compile(r"[.eE]|-\d{19}|\d{20}"),
    decimal.Decimal: re.compile(r"[\s_]"),
    datetime.datetime: re.compile(r"(?:^|,)(?!\d{4}-)"),
    datetime.timedelta: re.compile(r"(?:^|,)(?![+-]?P)"),
}
"""What msgspec may take and we do not, in cells of a column joined by commas."""
_NULL = re.compile("null", re.IGNORECASE)
_SAYS_NO_MORE = re.compile(r"Expected `\w+`, got `str`|.*base64.*|.*decimal.*")
_HELD = 60


class CellRefused(Exception):
    """A cell is no value of its column's type; the text says which type, and what stands there."""


class Column:
    """Makes the values of one field from the cells of its column."""

    def __init__(self, field: Field) -> None:
        self.field = field
        self._bare = field.annotation is str
        self._list: Any = list[field.annotation | None] if field.optional else list[field.annotation]  # type: ignore[name-defined]
        self._suspect = _SUSPECT.get(field.kind)

    def values(self, cells: Sequence[str]) -> Sequence[Any]:
        """All cells at once. Raises something when one of them must be looked at by itself."""
        if self._bare:
            return [cell or None for cell in cells] if self.field.optional else cells
        if self._suspect is not None and self._suspect.search(",".join(filter(None, cells))):
            return [self.value(cell) for cell in cells]
        if not self.field.optional:
            return msgspec.convert(cells, self._list, strict=False)  # type: ignore[no-any-return]
        if self.field.kind is not str and _NULL.search(",".join(cells)):
            raise CellRefused
        return msgspec.convert([cell or None for cell in cells], self._list, strict=False)  # type: ignore[no-any-return]

    def value(self, cell: str) -> Any:
        """One cell. Raises `CellRefused` saying what was expected and what stands there."""
        if not cell and self.field.optional:
            return None
        if not cell and self.field.kind is not str:
            raise CellRefused(f"expected {self._expected}, got an empty cell")
        try:
            value = msgspec.convert(cell, self.field.annotation, strict=False)
        except msgspec.ValidationError as error:
            reason = "" if _SAYS_NO_MORE.fullmatch(str(error)) else f" ({error})"
            raise CellRefused(f"expected {self._expected}, got {shown(cell)}{reason}") from error
        if self._suspect is not None and self._suspect.search(cell):
            if self.field.kind is not int or not {".", "e", "E"}.isdisjoint(cell):
                raise CellRefused(f"expected {self._expected}, got {shown(cell)}")
            if not -(2**63) <= value < 2**64:
                raise CellRefused(f"expected {self._expected} within 64 bits, got {shown(cell)}")
        return value

    @property
    def _expected(self) -> str:
        kind = self.field.kind
        if issubclass(kind, enum.Enum):
            return f"one of {', '.join(str(each.value) for each in kind)}"
        return _EXAMPLES.get(kind) or name_of(self.field.annotation)


def shown(cell: str) -> str:
    """A cell in a message, which is a line."""
    return repr(cell) if len(cell) <= _HELD else f"{cell[:_HELD]!r}… ({len(cell)} characters)"


_EXAMPLES: dict[type, str] = {
    int: "int (such as -12)",
    float: "float (such as -1.5 or 2e9)",
    bool: "bool (true, false, 1 or 0)",
    decimal.Decimal: "Decimal (such as 12.50)",
    datetime.datetime: "datetime (such as 2001-12-31T23:59:59Z)",
    datetime.date: "date (such as 2001-12-31)",
    datetime.time: "time (such as 23:59:59)",
    datetime.timedelta: "timedelta (such as PT1.5S)",
    bytes: "bytes in base64",
}
