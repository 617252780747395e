"""Bytes kept under their own SHA-256: snapshots, large payloads, logs. The same bytes are kept once."""

from pathlib import Path

from obzen_runtime.kernel import ARTIFACT_ID, ArtifactId, Files, JournalDamaged, NotFound, SystemFiles, artifact_id

__all__ = ["ArtifactStore"]


class ArtifactStore:
    """Files named by the hash of their content, in 256 folders: `ab/cdef…`."""

    def __init__(self, directory: Path, files: Files | None = None) -> None:
        self.directory = directory
        self._files = files or SystemFiles()

    def put(self, content: bytes) -> ArtifactId:
        """Keep the bytes, atomically and durably, and return their name. Blocks for two or three syncs. Raises OSError."""
        name = artifact_id(content)
        path = self._path(name)
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

    def _path(self, name: ArtifactId) -> Path:
        return self.directory / name[:2] / name[2:]
