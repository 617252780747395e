"""The path that a connector is given: which file it leads to, and what the system's refusal to open it means."""

import shlex
from pathlib import Path

from obzen_runtime.kernel import IoFailed, NotFound, ObzenError, PermissionDenied
from obzen_runtime.stages import Node

__all__ = ["OfFile", "refusal"]


class OfFile(Node):
    """A stage that reads or writes the file at its parameter `path`."""

    @property
    def file(self) -> Path | None:
        """Where the path leads to in the end; None when that is no regular file, such as a pipe."""
        try:
            found: Path = self.bound["path"].resolve()
            return found if found.is_file() or not found.exists() else None
        except (OSError, RuntimeError, ValueError):  # what it leads to is told when it is opened
            return None


def refusal(path: Path, doing: str, error: OSError | ValueError) -> ObzenError:
    """What it means that the system does not let us read, write or open (`doing`) a file, with the remedy."""
    shown = str(path)
    cannot = f"cannot {doing} {path}"
    match error:
        case FileNotFoundError() if doing == "read":
            remedy = f"Check the path; it is taken from {Path.cwd()}."
            return NotFound(f"{cannot}: there is no such file", code="file_not_found", remedy=remedy, path=shown)
        case FileNotFoundError():
            remedy = f"Make it: mkdir -p {shlex.quote(str(path.parent))}"
            return NotFound(f"{cannot}: no directory {path.parent}", code="file_not_found", remedy=remedy, path=shown)
        case IsADirectoryError():
            return IoFailed(f"{cannot}: it is a directory", remedy="Give the path of a file.", path=shown)
        case NotADirectoryError():
            return IoFailed(f"{cannot}: a part of the path is not a directory", remedy="Check the path.", path=shown)
        case ValueError():
            return IoFailed(f"cannot {doing} {shown!r}: no file can be called that ({error})", remedy="Check the path.", path=shown)
        case PermissionError():
            return PermissionDenied(f"{cannot}: permission denied", remedy=f"Allow this user to {doing} it.", path=shown)
    return IoFailed(f"{cannot}: {error.strerror or error}", remedy="Check the file system, then run again.", path=shown)
