"""Which version this is, and on what it runs: what a run writes down so that another can be compared with it."""

import platform
from typing import Final

import msgspec

__all__ = ["VERSION", "versions"]

VERSION: Final = "0.1.0"


def versions() -> dict[str, str]:
    """Versions of Python, of the runtime and of its codec, by name."""
    return {"python": platform.python_version(), "obzen": VERSION, "msgspec": msgspec.__version__}
