r"""JSON Lines: a JSON object on every line. Blank lines are passed over, line ends may be `\n` or `\r\n`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from obzen_runtime.connect.payload import checked
from obzen_runtime.connect.reading import Input, Overlong, bad, file_source, whole_lines
from obzen_runtime.connect.writing import Form, file_sink
from obzen_runtime.stages import Offset, Progress, Sink, Source

__all__ = ["UNREADABLE", "encode_each", "jsonl_sink", "jsonl_source", "problem"]

UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""What a decoder raises for bytes that are no event."""
_CORRECT = "Correct the line, or take it out."
_ARRAY = "Use json_source when the file is one array."
_ENCODE = msgspec.json.Encoder().encode


def jsonl_source(name: str, kind: type[Any], *, path: Path | str) -> Source:
    """Describe a file with one JSON object a line as a source of `kind`, a struct or dataclass.

    `path` is a parameter: `--set name.path=…`. A line that is no such object, or is longer than 16 MiB, is a dead letter
    with its place, `file.jsonl:LINE`, and the source goes on. A file that cannot be opened fails the source.

    Resumed, it goes on where it stood, and reads what was appended since; a file that was changed before that is refused.
    """
    kind = checked("jsonl_source", kind)

    def read(path: Path, progress: Progress, start: Offset | None = None) -> Iterator[Any]:
        decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(kind)
        with Input(path, progress) as file:
            line, given = 1, 0
            if start is not None:
                file.go_on(start)
                line = start.number
            for block in whole_lines(file.blocks()):
                if isinstance(block, Overlong):
                    given += block.size
                    problem = f"expected at most 16 MiB, got a line of {block.size} bytes"
                    yield bad(block.head, f"{file.path}:{line}", problem, "Split it, or store the bytes elsewhere and name them.")
                    line += 1
                    continue
                events = _block(decoder, block, f"{file.path}", line)
                line += block.count(b"\n")
                given += len(block)
                if events and file.due and block.endswith(b"\n"):
                    file.mark(events, file.begun + given, line)
                yield from events

    return file_source(name, kind, read, path=Path(path))


def _block(decoder: "msgspec.json.Decoder[Any]", block: bytes, file: str, first: int) -> list[Any]:
    """The events of some whole lines."""
    count = block.count(b"\n") + (not block.endswith(b"\n"))
    try:
        events = decoder.decode_lines(block)
        if len(events) == count:  # else there are blank lines, or two objects on one
            return events
    except UNREADABLE:
        """Some line is bad: which one, the slow way tells."""
    made: list[Any] = []
    for number, line in enumerate(block.split(b"\n"), first):
        if line and not line.isspace():
            try:
                made.append(decoder.decode(line))
            except UNREADABLE as error:
                remedy = _CORRECT if number > 1 or not line.lstrip().startswith(b"[") else _ARRAY
                made.append(bad(line, f"{file}:{number}", problem(error), remedy))
    return made


def problem(error: BaseException) -> str:
    """What a decoder's error means for whoever reads it."""
    match error:
        case msgspec.ValidationError():
            return f"the object does not fit: {error}"
        case UnicodeError():
            return f"expected UTF-8, got bytes that are not ({error})"
        case RecursionError():
            return "expected JSON nested less deeply"
    return f"expected JSON, got text that is not: {error}"


def jsonl_sink(name: str, kind: type[Any], *, path: Path | str) -> Sink:
    """Describe a file with one JSON object a line as a sink of `kind`, a struct or dataclass.

    The file is made, or emptied, when a run starts, and a resumed run goes on in it; its directory must be there.
    `path` is a parameter: `--set name.path=…`. JSON has no NaN and no infinity: msgspec writes them as null.
    """
    return file_sink(name, checked("jsonl_sink", kind), path, Form(lambda events: b"\n".join(encode_each(events)) + b"\n"))


def encode_each(events: list[Any]) -> Iterator[bytes]:
    """Every event as compact JSON, which never holds a line end."""
    return map(_ENCODE, events)
