"""What is known of a golden run: how it is found, unpacked, read and digested."""

import asyncio
import hashlib
import io
import sys
import tarfile
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import msgspec

from obzen_runtime.events import Block, Record
from obzen_runtime.journal import SegmentReader
from obzen_runtime.stages import Codec

HERE = Path(__file__).parent
SUMS = "SHA256SUMS"
EXPECTED = "expected.json"


class Golden(msgspec.Struct, frozen=True, kw_only=True):
    """What every later version must find in one golden run."""

    flow: str
    """The variable of the flow that made it; empty for a journal that no flow made."""
    again: str
    """The variable of the flow that goes on with it."""
    head: int
    kinds: dict[str, int]
    """Records by kind."""
    events: dict[str, str]
    """Per stage a digest of its events, decoded as the flow declares them."""
    report: str
    """State that going on with it ends in; empty when nobody goes on."""
    resumed: dict[str, str] = {}
    """As `events`, when it has been gone on with."""
    certified: bool = True
    """Whether a replay proves it; else it is refused, because part of its log is gone on purpose."""


_PLAINLY: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
"""Python 3.11 has the filter from its fourth patch on."""


def versions() -> list[Path]:
    """The directories of golden runs, by version."""
    return sorted(path.parent for path in HERE.glob(f"*/{EXPECTED}"))


def flows_of(directory: Path) -> Any:
    """The flows that made a version's runs."""
    return module_of(directory, "flows")


def module_of(directory: Path, file: str) -> Any:
    """A program that was frozen with a version's runs."""
    name = f"golden_{file}_{directory.name.replace('.', '_')}"
    if name not in sys.modules:
        spec = spec_from_file_location(name, directory / f"{file}.py")
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


def expected_of(directory: Path) -> dict[str, Golden]:
    """What a version's runs must hold, by name."""
    return msgspec.json.decode((directory / EXPECTED).read_bytes(), type=dict[str, Golden])


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sums(directory: Path) -> dict[str, str]:
    """The SHA-256 of each file of a version, by name, but for the list itself."""
    return {path.name: digest(path.read_bytes()) for path in sorted(directory.iterdir()) if path.is_file() and path.name != SUMS}


def written_sums(directory: Path) -> dict[str, str]:
    """The list as it was committed."""
    lines = (directory / SUMS).read_text(encoding="utf-8").splitlines()
    return {name: sha for sha, name in (line.split("  ", 1) for line in lines)}


def pack(place: Path) -> bytes:
    """The plain files of a directory as one archive."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as archive:
        for path in sorted(place.rglob("*")):
            if path.is_dir() or path.is_file():  # a FIFO or a socket is of one process only
                archive.add(path, path.relative_to(place), recursive=False, filter=_of_nobody)
    return packed.getvalue()


def _of_nobody(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mtime = 0
    return info


def unpack(directory: Path, name: str, place: Path) -> Path:
    """A golden run, as it was left; returns the run's directory. Its inputs stand in `place/data`."""
    with tarfile.open(directory / f"{name}.tar.xz") as archive:
        archive.extractall(place, **_PLAINLY)
    return place / "run"


def records_of(run: Path) -> list[tuple[int, Record]]:
    """All records that are kept, with their positions."""

    async def read() -> list[tuple[int, Record]]:
        reader = SegmentReader.open(run)
        return [(entry.position, entry.record) async for entry in reader.read(0)]

    return asyncio.run(read())


def kinds_of(records: list[tuple[int, Record]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for _, record in records:
        name = type(record).__name__
        found[name] = found.get(name, 0) + 1
    return dict(sorted(found.items()))


def events_of(records: list[tuple[int, Record]], codecs: dict[str, Codec]) -> dict[str, str]:
    """Per stage how many events are kept and the digest of their representations, one a line."""
    lines: dict[str, list[str]] = {}
    for _, record in records:
        if isinstance(record, Block) and record.count:
            events = lines.setdefault(record.stage, [])
            events += [
                f"{record.stage}@{number} {item!r}\n" for number, item in enumerate(codecs[record.stage].decode(record), record.base)
            ]
    return {stage: f"{len(events)} {digest(''.join(events).encode())}" for stage, events in sorted(lines.items())}
