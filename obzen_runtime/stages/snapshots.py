"""State kept as artifacts, so that a stage need not fold its whole past again.

State is cut into pages of entries in first-seen order; a fold and a top are one page. A snapshot is taken in slices
between steps, while the stage goes on, so its pages are from different moments; each slice notes its own, the number
of inputs taken then: the *mark* of its pages. Why restoring it is exact: what an entry holds depends on the inputs of
its key alone, in their order, and a page with mark m holds its entries after all of their inputs below m. The
snapshot's start s is at or below every mark, and its list of entries is the one of the start, so every key it lacks
was first folded at s or later. Folding again from s in the order of the log, and passing over an input whose key has
a mark above the input's number, brings every key to the fold of all its inputs; and keys come in first-seen order,
since the pages hold the first ones in theirs and the rest follow as the log brings them.

Only pages whose bytes changed are written, on top of the snapshot before; all are once such increments exceed half of
the state. The bytes are written by a thread, and the record follows when they are durable. State is checked against
what decodes from it, all that is small and then a sample. What does not come back as it was is not kept: then the stage
is made again from the start of the log.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from obzen_runtime.events import Cursor, Snapshot
from obzen_runtime.journal import ArtifactStore
from obzen_runtime.kernel import Clock, JournalDamaged, NotFound, Threads
from obzen_runtime.stages.shape import CODEC_ERRORS, Unkept

__all__ = [
    "NEVER",
    "PAGE",
    "Keeper",
    "Kept",
    "Kind",
    "Remembers",
    "read_pages",
    "stands_on",
]

PAGE = 16
"""Entries of a page."""
_AGAIN = 0.3
"""Seconds of work after which state is worth keeping: as much must be folded again without it."""
_SHARE = 0.02
_SLICE = 0.0005
_PROVED = 16
_PROVED_LATER = 64
_CHAIN = 32
_SMALL = 64 * 1024
NEVER = 1 << 62
"""An ordinal no event has: what is decoded under it is of today's schema."""
_ENCODE = msgspec.msgpack.Encoder().encode


class Kind(msgspec.Struct, frozen=True, array_like=True):
    """What a snapshot holds, so that another stage's is not taken for it."""

    stage: str
    kind: str
    form: str
    """Hash of the types it is decoded to."""


class Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """The content of an artifact."""

    kind: Kind
    entries: int
    pages: int
    """Pages of the whole state."""
    marks: tuple[tuple[int, int], ...]
    """(first page, inputs taken when it and those up to the next were encoded), ascending."""
    contents: dict[int, bytes]
    """Pages that changed, by number."""
    base: str = ""
    """The artifact this one stands on; empty when it holds every page."""


_DECODE = msgspec.msgpack.Decoder(Kept).decode


class Remembers(Protocol):
    """A stage whose state can be kept."""

    name: str
    taken: int
    clock: Clock
    logger: Any

    def entries(self) -> int:
        """How many entries the state has now."""
        ...

    def page(self, index: int, entries: int) -> bytes:
        """Encode a page of the first `entries`; pages are asked for in order."""
        ...

    def prove(self, index: int, entries: int, page: bytes) -> None:
        """Raise `Unkept` when the page, just encoded, does not decode as what the stage holds."""
        ...

    def kept_as(self) -> Kind:
        """What its snapshots say they hold."""
        ...

    def cursor(self) -> Cursor: ...

    def floor(self) -> int:
        """Position of the oldest record that holds what is not taken yet."""
        ...

    def keep(self, snapshot: Snapshot) -> None:
        """Record a snapshot whose artifact is durable."""
        ...

    def begin_task(self, coroutine: Any) -> None:
        """Let it run beside the stage; it ends with it."""
        ...


class _Shot:
    """A snapshot being taken."""

    def __init__(self, stage: Remembers) -> None:
        self.cursor = stage.cursor()
        self.taken = stage.taken
        self.floor = stage.floor()
        self.entries = stage.entries()
        self.kind = stage.kept_as()
        self.pages: list[bytes] = []
        self.marks: list[tuple[int, int]] = []
        self.seconds = 0.0


class _Written(NamedTuple):
    artifact: str
    digests: list[bytes]
    size: int
    total: int


class Keeper:
    """Decides when a stage's state is kept, and takes the snapshots."""

    def __init__(self, stage: Remembers, store: ArtifactStore, threads: Threads, *, page: int = PAGE) -> None:
        self._stage = stage
        self._store = store
        self._threads = threads
        self._page = page
        self._due = _AGAIN
        self._shot: _Shot | None = None
        self.writing = False
        """Whether an artifact may be there that no record names yet."""
        self._refused = False
        self._count = 0
        self.base = ""
        """The artifact that the next one may stand on."""
        self._digests: list[bytes] = []
        self._grown = 0
        """Bytes of the increments since the last full snapshot."""
        self._chain = 0

    def forget(self) -> None:
        """The state is another now: what is half taken is void, and the next snapshot is full."""
        self._shot = None
        self.writing = False
        self.base = ""
        self._due = _AGAIN

    def refolded(self, worked: float, seconds: float) -> None:
        """After `worked` seconds of work, folding again took so many: by that the next snapshot is nearer.

        Else lives that all end early would never have one.
        """
        self._due = worked + max(0.0, _AGAIN - seconds)

    def turn(self, seconds: float) -> None:
        """Between two steps, after `seconds` of work in all: do what is due, for about half a millisecond."""
        if self._shot is None:
            if seconds < self._due or self.writing or self._refused:
                return
            self._due = seconds + _AGAIN
            self._shot = _Shot(self._stage)
        shot = self._slice(self._shot)
        if shot is not None:
            self._due = seconds + max(_AGAIN, shot.seconds / _SHARE)
            self._stage.begin_task(self._write(shot))

    async def last(self, breathe: Callable[[], Any]) -> None:
        """Before the stage ends to be resumed: keep the state as it is now."""
        if self._refused:
            return
        self._shot = _Shot(self._stage)
        while self._shot is not None:
            shot = self._slice(self._shot)
            if shot is not None:
                await self._write(shot)
            await breathe()

    def _slice(self, shot: _Shot) -> _Shot | None:
        """Encode some pages; the shot when it is complete."""
        stage, begun = self._stage, self._stage.clock.monotonic()
        if not shot.marks or shot.marks[-1][1] != stage.taken:
            shot.marks.append((len(shot.pages), stage.taken))
        pages = -(-shot.entries // self._page)
        now = begun
        try:
            while len(shot.pages) < pages:
                index = len(shot.pages)
                page = stage.page(index, shot.entries)
                if index < _PROVED if not self._count else (index % _PROVED_LATER == self._count % _PROVED_LATER and len(page) < _SMALL):
                    stage.prove(index, shot.entries, page)
                shot.pages.append(page)
                now = stage.clock.monotonic()
                if now - begun >= _SLICE:
                    break
        except (Unkept, *CODEC_ERRORS) as error:
            self._refused, self._shot = True, None
            stage.logger.warning("state cannot be kept: after a stop it is folded again from the start of the log", reason=str(error))
            return None
        shot.seconds += now - begun
        if len(shot.pages) < pages:
            return None
        self._shot, self.writing = None, True
        return shot

    async def _write(self, shot: _Shot) -> None:
        stage = self._stage
        base = self.base if self._chain < _CHAIN else ""
        digests, grown = self._digests, self._grown
        try:
            written = await self._threads.run(f"obzen snapshot {stage.name}", lambda: self._put(shot, base, digests, grown))
        except OSError as error:
            self.base, self.writing = "", False
            stage.logger.warning("a snapshot could not be written", reason=str(error))
            return
        full = written.size == written.total
        self.base, self._digests, self.writing = written.artifact, written.digests, False
        self._grown = 0 if full else grown + written.size
        self._chain = 0 if full else self._chain + 1
        self._count += 1
        stage.keep(Snapshot(stage.name, written.artifact, shot.taken, stage.clock.wall_ms(), shot.cursor, shot.floor))

    def _put(self, shot: _Shot, base: str, known: Sequence[bytes], grown: int) -> _Written:
        """On a thread: find the pages that changed and write them, or all."""
        digests = [hashlib.blake2b(page, digest_size=16).digest() for page in shot.pages]
        total = sum(map(len, shot.pages))
        changed = dict(enumerate(shot.pages))
        if base:
            changed = {index: page for index, page in changed.items() if index >= len(known) or known[index] != digests[index]}
        size = sum(map(len, changed.values()))
        if grown + size > total / 2:
            base, changed, size = "", dict(enumerate(shot.pages)), total
        kept = Kept(shot.kind, shot.entries, len(shot.pages), tuple(shot.marks), changed, base)
        return _Written(self._store.put(_ENCODE(kept)), digests, size if base else total, total)


def read_pages(store: ArtifactStore, artifact: str, kind: Kind) -> tuple[Kept, list[bytes]]:
    """The newest part of a snapshot and all its pages in order. Raises what the store and msgspec raise, and `Unkept`."""
    newest: Kept | None = None
    pages: dict[int, bytes] = {}
    while artifact:
        kept = _DECODE(store.get(artifact))
        if kept.kind != kind:
            raise Unkept(f"artifact {artifact} holds the state of {kept.kind.kind} {kept.kind.stage!r}")
        newest = newest or kept
        pages = {**kept.contents, **pages}
        artifact = kept.base
    assert newest is not None
    missing = next((index for index in range(newest.pages) if index not in pages), None)
    if missing is not None:
        raise Unkept(f"page {missing} is missing")
    return newest, [pages[index] for index in range(newest.pages)]


def stands_on(store: ArtifactStore, artifacts: Iterable[str]) -> set[str]:
    """These artifacts and all that they are read from. Raises OSError."""
    found: set[str] = set()
    for artifact in artifacts:
        needed = artifact
        while needed and needed not in found:
            found.add(needed)
            try:
                needed = _DECODE(store.get(needed)).base
            except (NotFound, JournalDamaged, *CODEC_ERRORS):  # nobody can read it, nor what it stands on by it
                break
    return found
