"""No outside call while a recorded step is done again: whatever opens a connection or starts a program raises.

The interpreter tells audit hooks of such calls before they happen. A hook cannot be taken away again, so it asks a
context variable whether this is a step under proof; everything else in the process goes on as before.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from obzen_runtime.kernel import PermissionDenied

__all__ = ["refused_by", "refusing"]

_STAGE: ContextVar[str] = ContextVar("STAGE", default="")
"""The stage whose step is done again in this context."""
_CALLS = frozenset(
    {
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.posix_spawn",
        "os.system",
        "socket.connect",
        "socket.getaddrinfo",
        "socket.gethostbyaddr",
        "socket.gethostbyname",
        "socket.getnameinfo",
        "socket.sendmsg",
        "socket.sendto",
        "subprocess.Popen",
        "urllib.Request",
    }
)
_REFUSED: dict[str, str] = {}
_INSTALLED: list[bool] = []


@contextmanager
def refusing(stage: str) -> Iterator[None]:
    """While a step of `stage` is done again, calls to the outside raise `PermissionDenied`, in its tasks too."""
    if not _INSTALLED:
        _INSTALLED.append(True)
        sys.addaudithook(_listen)
    token = _STAGE.set(stage)
    try:
        yield
    finally:
        _STAGE.reset(token)


def refused_by(stage: str) -> str:
    """The call to the outside that a stage tried since it was last asked; empty when there was none."""
    return _REFUSED.pop(stage, "")


def _listen(event: str, arguments: tuple[object, ...]) -> None:
    if event not in _CALLS or not (stage := _STAGE.get()):
        return
    _REFUSED[stage] = event
    raise PermissionDenied(
        f"stage {stage!r} calls the outside ({event}) and a replay makes no outside call",
        remedy="What a handler gives must follow from its event alone; move the call into a source or a sink.",
    )
