"""Bytes kept under their own SHA-256: snapshots, large payloads, logs. The same bytes are kept once."""

from collections.abc import Callable, Set
from pathlib import Path
from threading import Lock

from obzen_runtime.kernel import ARTIFACT_ID, ArtifactId, Files, JournalDamaged, NotFound, SystemFiles, artifact_id

__all__ = ["ArtifactStore"]


class ArtifactStore:
    """Files named by the hash of their content, in 256 folders: `ab/cdef…`."""

    def __init__(self, directory: Path, files: Files | None = None) -> None:
        self.directory = directory
        self._files = files or SystemFiles()
        self._lock = Lock()
        self._fresh: set[str] | None = None
        """Put since `watch`; None while nobody watches."""

    def put(self, content: bytes) -> ArtifactId:
        """Keep the bytes, atomically and durably, and return their name. Blocks for two or three syncs. Raises OSError."""
        name = artifact_id(content)
        path = self._path(name)
        with self._lock:
            if self._fresh is not None:
                self._fresh.add(name)
        if self._files.exists(path) and self._files.read(path) == content:
            self._files.sync_directory(path.parent)  # who put it may have died before the disk knew its name
            self._files.sync_directory(self.directory)
            return name
        if not self._files.exists(path.parent):
            self._files.make_directory(path.parent)
            self._files.sync_directory(self.directory)
        self._files.replace(path, content)
        return name

    def get(self, name: str) -> bytes:
        """The bytes of that name, their hash checked.

        Raises `NotFound` (`artifact_not_found`), `JournalDamaged` when the bytes are not what was kept, and
        `IdValidationError` when the name is none.
        """
        path = self._path(ARTIFACT_ID.new(name))
        if not self._files.exists(path):
            raise NotFound(f"artifact {name} is not in {self.directory}", code="artifact_not_found", artifact=name)
        content = self._files.read(path)
        if artifact_id(content) != name:
            raise JournalDamaged(
                f"{path}: the content is not what was kept under this name", remedy="Restore the file from a copy", file=str(path)
            )
        return content

    def exists(self, name: str) -> bool:
        """Whether something is kept under the name; `get` tells whether it is whole."""
        return self._files.exists(self._path(ARTIFACT_ID.new(name)))

    def watch(self) -> None:
        """From here to `rest`, what is put is kept by a `sweep`: call it before finding out what is needed."""
        with self._lock:
            self._fresh = set()

    def rest(self) -> None:
        """Watch no more."""
        with self._lock:
            self._fresh = None

    def sweep(self, kept: Set[str], *, archive: "ArtifactStore | None" = None, ended: Callable[[], bool] = bool) -> int:
        """Remove what has none of these names and was not put since `watch`, or move it to the archive; return how many went.

        Stops early once `ended`; again after a crash is fine. Others may put meanwhile. Raises OSError, and
        `JournalDamaged` when what is to be moved is not what was kept.
        """
        gone = 0
        for folder in self._files.names(self.directory):
            for rest in self._files.names(self.directory / folder):
                if ended():
                    return gone
                name = folder + rest
                if rest.startswith(".") or name in kept:  # hidden: not yet under its name
                    continue
                if archive is not None:
                    archive.put(self.get(name))
                with self._lock:  # the same bytes may be put in this moment: after this they are written again
                    if name not in (self._fresh or ()):
                        self._files.remove(self._path(ArtifactId(name)))
                        gone += 1
        return gone

    def _path(self, name: ArtifactId) -> Path:
        return self.directory / name[:2] / name[2:]
