"""JSON files that hold an array of objects, read as a stream: a file of any size takes a few blocks of memory.

Elements are decoded many at once. A bad one is a dead letter with its index, and those around it are events.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from obzen_runtime.connect.elements import Elements
from obzen_runtime.connect.jsonl import UNREADABLE, encode_each, problem
from obzen_runtime.connect.payload import checked
from obzen_runtime.connect.reading import FilePlace, Input, bad, file_source
from obzen_runtime.connect.writing import Form, file_sink
from obzen_runtime.kernel import ValidationFailed
from obzen_runtime.stages import Bad, Offset, Progress, Sink, Source

__all__ = ["json_sink", "json_source"]

_RAWS: "msgspec.json.Decoder[list[msgspec.Raw]]" = msgspec.json.Decoder(list[msgspec.Raw])
_ASKED = "Correct the element, or take it out."


def json_source(name: str, kind: type[Any], *, path: Path | str) -> Source:
    """Describe a file that holds a JSON array as a source of `kind`, a struct or dataclass; the array is streamed.

    `path` is a parameter: `--set name.path=…`. An element that is no such object, or is larger than 16 MiB, is a dead
    letter with its place, `file.json[INDEX]` counted from 0, and the source goes on. An array that is never closed (a
    file cut short) gives its whole elements, then one dead letter for the rest. A file that cannot be opened, or whose
    outermost value is no array, fails the source.

    Resumed, it goes on where it stood; a file that was changed before that is refused.
    """
    kind = checked("json_source", kind)

    def read(path: Path, progress: Progress, start: Offset | None = None) -> Iterator[Any]:
        with Input(path, progress) as file:
            yield from _Reader(file, kind).events(start)

    return file_source(name, kind, read, path=Path(path))


class _Reader:
    """Turns the blocks of one file into events and bad elements."""

    def __init__(self, file: Input, kind: type[Any]) -> None:
        self.file = file
        self.path = file.path
        self.blocks = file.blocks()
        self.decode_one = msgspec.json.Decoder(kind).decode
        self.decode_many = msgspec.json.Decoder(list[kind]).decode  # type: ignore[valid-type]
        self.index = 0
        """Elements given so far."""
        self.elements = Elements()
        self.guessing = True

    def events(self, start: FilePlace | None) -> Iterator[Any]:
        """Every element, or those that follow `start`, as an event or a `Bad`."""
        elements = self.elements
        if start is None:
            elements.add(self._opened())
        else:
            self.file.go_on(start)
            self.index = start.number
            elements.add(next(self.blocks, b""))
        while True:
            found = self._found()
            if found and self.file.due and not elements.closed and not elements.dropped:
                self.file.mark(found, self.file.done - elements.held, self.index)
            yield from found
            if elements.closed:
                break
            if (head := elements.shed()) is not None:
                yield self._bad(head, "expected at most 16 MiB, got a larger element", "Store the bytes elsewhere and name them.")
                self.index += 1
            block = next(self.blocks, b"")
            if not block:
                break
            elements.add(block)
        yield from self._ended()

    def _opened(self) -> bytes:
        """What stands behind the opening bracket in the first block that has one."""
        text = b""
        for block in self.blocks:
            text = block.lstrip()
            if text:
                break
        if text.startswith(b"["):
            return text[1:]
        if not text:
            raise ValidationFailed(
                f"{self.path} is empty, expected a JSON array of objects",
                code="invalid_format",
                remedy="Write at least [].",
                path=str(self.path),
            )
        first = text[:1].decode("latin-1")
        raise ValidationFailed(
            f"{self.path} begins with {first!r}, expected '[': a JSON array of objects",
            code="invalid_format",
            remedy="Use jsonl_source when every line is an object; else take the array out of it, as with: jq .items FILE"
            if first == "{"
            else "Check that the file is JSON.",
            path=str(self.path),
        )

    def _found(self) -> list[Any]:
        """The whole elements that are there now, decoded."""
        elements = self.elements
        cuts = elements.guesses() if self.guessing else []
        for cut in cuts:
            events = self._piece(elements.until(cut))
            if events is not None:
                elements.take(cut)
                return events
        return self._counted(guessed=bool(cuts))

    def _piece(self, piece: bytes, count: int | None = None) -> list[Any] | None:
        """The elements of a piece, or None when it was not cut between elements, is broken, or holds not `count`."""
        text = b"[%b]" % piece
        try:
            events = self.decode_many(text)
        except UNREADABLE:
            try:
                raws = _RAWS.decode(text)
            except UNREADABLE:
                return None
            return [self._one(bytes(raw)) for raw in raws]
        if count is not None and len(events) != count:
            return None
        self.index += len(events)
        return events

    def _counted(self, *, guessed: bool = False) -> list[Any]:
        """The elements found by counting. Where that finds what guessing did not, there is no guessing any more."""
        parts = self.elements.count()
        if parts and self.elements.dropped:  # the end of an element that was too large
            self.elements.dropped = 0
            parts = parts[1:]
        if not parts:
            return []
        events = self._piece(b",".join(parts), len(parts))
        if events is None:
            return [self._one(part) for part in parts]
        self.guessing = self.guessing and not guessed
        return events

    def _one(self, text: bytes) -> Any:
        """One element as an event, or what is wrong with it."""
        try:
            made = self.decode_one(text)
        except UNREADABLE as error:
            said = problem(error) if text.strip() else "expected an object, got nothing: there is a comma too many"
            made = self._bad(text, said)
        self.index += 1
        return made

    def _bad(self, raw: bytes, said: str, remedy: str = _ASKED) -> Bad:
        return bad(raw.strip(), f"{self.path}[{self.index}]", said, remedy)

    def _ended(self) -> Iterator[Any]:
        """What stands between the last comma and the end of the array, or of the file."""
        yield from self._counted()
        elements = self.elements
        rest = b"" if elements.dropped else elements.until()
        if not elements.closed:
            yield from self._cut_short(rest)
            return
        if not elements.dropped and (rest.strip() or self.index):  # [] has no element, [{},] a bad one
            yield self._one(rest)
        behind = elements.behind.lstrip()
        for block in self.blocks:
            behind = behind or block.lstrip()
        if behind:
            yield self._bad(behind, "expected the end of the file behind the array, got more", "Keep one array in a file.")

    def _cut_short(self, rest: bytes) -> Iterator[Any]:
        if rest.strip():
            try:
                made = self.decode_one(rest)
            except UNREADABLE:
                """Cut in its middle: it goes into the letter."""
            else:
                yield made
                self.index += 1
                rest = b""
        yield self._bad(rest, "expected ']', got the end of the file: the array was cut short", "Get the whole file.")


def json_sink(name: str, kind: type[Any], *, path: Path | str) -> Sink:
    """Describe a file that holds a JSON array, an element a line, as a sink of `kind`, a struct or dataclass.

    The file is made, or emptied, when a run starts, and a resumed run goes on in it. Its array is closed whenever the
    sink ends, by a stop too; its directory must be there. `path` is a parameter: `--set name.path=…`. JSON has no NaN
    and no infinity: msgspec writes them as null.
    """
    form = Form(lambda events: b",\n".join(encode_each(events)), head=b"[\n", between=b",\n", tail=b"\n]\n")
    return file_sink(name, checked("json_sink", kind), path, form)
