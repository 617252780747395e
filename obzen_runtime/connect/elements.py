"""Where one element of a JSON array ends and the next begins, found in a stream of blocks.

The quick way guesses: it cuts at the last `},{` and lets the decoder judge. A cut inside an element or a text leaves
brackets or quotes open, so what decodes was cut between elements. Where the guess fails, brackets and quotes are
counted, each byte once.
"""

import re
from typing import Final

from obzen_runtime.connect.reading import KEPT, LARGEST

__all__ = ["Elements"]

_SEAM: Final = re.compile(rb"[}\]]\s*(,)\s*(?=[{\[])")
_WINDOW: Final = 8192
_GUESSES: Final = 3
_OUTER: Final = re.compile(rb'["\[\]{},]')
_INNER: Final = re.compile(rb'["\[\]{}]')
_QUOTED: Final = re.compile(rb'["\\]')
_OUTER_RUN: Final = re.compile(rb'(?:[^"\[\]{},]++|"(?:[^"\\]++|\\.)*+")*+[\[\]{},]', re.DOTALL)
_INNER_RUN: Final = re.compile(rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+")*+[\[\]{}]', re.DOTALL)
"""Whole texts and what stands between them, up to a bracket."""
_QUOTE, _BACKSLASH, _COMMA = b'"\\,'
_OPENING = b"[{"


class Elements:
    """The bytes behind the opening bracket that are not yet given out. `add` blocks, then take what is whole."""

    def __init__(self) -> None:
        self.closed = False
        """The array's closing bracket was found; `rest` is what stands before it."""
        self.behind = b""
        """What follows the closing bracket, as far as it was looked at."""
        self.dropped = 0
        """Bytes of an element over the limit that are no longer kept."""
        self._buffer = bytearray()
        self._at = 0
        """Up to here brackets and quotes were counted."""
        self._depth = 0
        self._quoted = False
        self._commas: list[int] = []
        """Commas between elements among what was counted."""

    @property
    def held(self) -> int:
        """Bytes that were added and not given out."""
        return len(self._buffer)

    def add(self, block: bytes) -> None:
        """Append a block."""
        self._buffer += block

    def guesses(self) -> list[int]:
        """Likely cuts, the last one first; none once counting has begun inside an element.

        Brackets are counted as if none stood in a text; the decoder finds out.
        """
        if self._at or self.dropped:
            return []
        start = max(0, len(self._buffer) - _WINDOW)
        return self._level(start) or (self._level(0) if start else [])

    def _level(self, start: int) -> list[int]:
        """The last seams behind `start` before which as many brackets close as open."""
        count = self._buffer.count
        depth = at = 0
        found: list[int] = []
        for seam in _SEAM.finditer(self._buffer, start):
            at, before = seam.start(1), at
            depth += count(b"{", before, at) - count(b"}", before, at) + count(b"[", before, at) - count(b"]", before, at)
            if not depth:
                found.append(at)
        return found[: -_GUESSES - 1 : -1]

    def until(self, cut: int | None = None) -> bytes:
        """What stands before a cut, or all that is there."""
        return bytes(memoryview(self._buffer)[:cut])

    def take(self, cut: int) -> None:
        """Give out what stands before a guessed cut and the comma there."""
        del self._buffer[: cut + 1]

    def count(self) -> list[bytes]:
        """The elements that are followed by a comma, found by counting; they are given out."""
        self._scan()
        starts = [0, *(comma + 1 for comma in self._commas)]
        found = [bytes(self._buffer[start:comma]) for start, comma in zip(starts, self._commas, strict=False)]
        if self._commas:
            del self._buffer[: starts[-1]]
            self._at -= starts[-1]
            self._commas.clear()
        return found

    def _scan(self) -> None:
        buffer, at = self._buffer, self._at
        runs = True
        while not self.closed:
            match = None
            if runs and not self._quoted:
                match = (_INNER_RUN if self._depth else _OUTER_RUN).match(buffer, at)
                runs = match is not None  # the buffer ends inside a run: its texts one by one
            if match is None:
                match = (_QUOTED if self._quoted else _INNER if self._depth else _OUTER).search(buffer, at)
            if match is None:
                at = len(buffer)
                break
            at = match.end()
            byte = buffer[at - 1]
            if byte == _BACKSLASH:
                if at == len(buffer):
                    at -= 1
                    break
                at += 1
            elif byte == _QUOTE:
                self._quoted = not self._quoted
            elif byte == _COMMA:
                self._commas.append(at - 1)
            elif byte in _OPENING:
                self._depth += 1
            elif self._depth:
                self._depth -= 1
            else:
                self.closed = True
                self.behind = bytes(buffer[at:])
                del buffer[at - 1 :]
                at -= 1
        self._at = at

    def shed(self) -> bytes | None:
        """Let go of most of an element that is over the limit; its beginning, when it has just gone over it."""
        if len(self._buffer) + self.dropped <= LARGEST or self._at < len(self._buffer) - 1:
            return None
        first = self.dropped == 0
        head = bytes(self._buffer[:KEPT])
        self.dropped += self._at
        del self._buffer[: self._at]
        self._at = 0
        return head if first else None
