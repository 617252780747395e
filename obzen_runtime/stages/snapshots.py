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
the state. The bytes are written by a thread, and the record follows when they are durable. Keys are written so that
they come back as what they were; state is checked against what decodes from it, all that is small and then a sample.
What cannot be kept this way is not kept: then the stage is made again from the start of the log.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from obzen_runtime.events import Cursor, Snapshot
from obzen_runtime.journal import ArtifactStore
from obzen_runtime.kernel import Clock, JournalDamaged, NotFound, Threads
from obzen_runtime.stages.codec import difference

__all__ = [
    "NEVER",
    "PAGE",
    "UNREADABLE",
    "Keeper",
    "Kept",
    "Kind",
    "Remembers",
    "Shape",
    "Unkept",
    "form_of",
    "read_pages",
    "same",
    "stands_on",
]

PAGE = 16
"""Entries of a page."""
UNREADABLE = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError, LookupError)
"""What decoding or encoding state raises when it cannot be done."""
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


class Unkept(Exception):
    """State that does not come back from its bytes as it was."""


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


def form_of(annotations: Iterable[Any]) -> str:
    """A hash of types that changes when state of these types would be read as another."""
    forms: list[Any] = []
    for annotation in annotations:
        try:
            forms.append(msgspec.json.schema(annotation))
        except (TypeError, ValueError):
            forms.append(str(annotation))
    return hashlib.sha256(msgspec.json.encode(forms, order="sorted")).hexdigest()


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
        except (Unkept, *UNREADABLE) as error:
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
            except (NotFound, JournalDamaged, *UNREADABLE):  # nobody can read it, nor what it stands on by it
                break
    return found


# -- keys and values ------------------------------------------------------------------------------

_EXACT = frozenset({int, str, bool, float, bytes, type(None)})


class Shape:
    """How values of an annotated (or unknown) type become bytes and are exactly themselves again."""

    def __init__(self, annotation: Any) -> None:
        self.annotation = annotation
        self._trusted: bool | None = None
        try:
            self._typed: msgspec.msgpack.Decoder[Any] | None = msgspec.msgpack.Decoder(annotation)
        except TypeError:
            self._typed = None

    def pack(self, values: Sequence[Any]) -> list[Any]:
        """What stands for these values in a page; raises `Unkept`."""
        if _EXACT.issuperset(map(type, values)):
            return [0, list(values)]
        try:
            return [1, [_spelled(value) for value in values]]
        except Unkept:
            packed = [2, [_ENCODE(value) for value in values]]
            for value, back in zip(values, self.unpack(packed), strict=True):
                _same(value, back)
            return packed

    def pack_large(self, value: Any) -> list[Any]:
        """As `pack` for one value that may be large: by its annotation when that brought the first one back."""
        if type(value) in _EXACT:
            return [0, [value]]
        if self._trusted is None:
            self._trusted = self._comes_back(value)
        return [2, [_ENCODE(value)]] if self._trusted else self.pack([value])

    def _comes_back(self, value: Any) -> bool:
        try:
            return self._typed is not None and difference(value, self._typed.decode(_ENCODE(value)), "") is None
        except UNREADABLE:
            return False

    def unpack(self, packed: Sequence[Any]) -> list[Any]:
        """The values again."""
        how, values = packed
        if how == 0:
            return list(values)
        if how == 1:
            return [_read(value) for value in values]
        if self._typed is None:
            raise Unkept(f"{self.annotation!r} cannot be decoded")
        return [self._typed.decode(value) for value in values]


def _spelled(value: Any) -> Any:
    """Scalars are themselves, containers say what they are."""
    kind = type(value)
    if kind in _EXACT:
        return value
    if kind is tuple:
        return ["t", *map(_spelled, value)]
    if kind is list:
        return ["l", *map(_spelled, value)]
    if kind is dict:
        return ["d", *((_spelled(key), _spelled(each)) for key, each in value.items())]
    raise Unkept(f"{value!r} ({kind.__name__}) does not say what it is")


def _read(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    parts: Iterator[Any] = iter(value)
    match next(parts):
        case "t":
            return tuple(map(_read, parts))
        case "l":
            return list(map(_read, parts))
        case "d":
            return {_read(key): _read(each) for key, each in parts}
        case other:
            raise Unkept(f"unknown spelling {other!r}")


def same(live: Sequence[Any], back: Sequence[Any]) -> None:
    """Raise `Unkept` at the first value that came back as another."""
    if len(live) != len(back):
        raise Unkept(f"{len(live)} values came back as {len(back)}")
    for one, other in zip(live, back, strict=True):
        _same(one, other)


def _same(live: Any, back: Any) -> None:
    found = difference(live, back, "")
    if found is not None:
        path, one, other = found
        raise Unkept(f"{type(live).__name__}{path} is {one!r} ({type(one).__name__}) and comes back as {other!r} ({type(other).__name__})")
