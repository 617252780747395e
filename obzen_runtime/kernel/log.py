"""Log lines with fields, through the standard library's logger `obzen`: the embedder decides where they go.

A line reads `event key=value …`; its fields also stand on the record as `fields`, for formatters that write JSON.
(structlog's own loggers would bring rich into every import; its formatter reads these records all the same.)
"""

import logging
from collections.abc import Mapping
from typing import Any

__all__ = ["Logger", "logger"]

_LOG = logging.getLogger("obzen")


class Logger:
    """Says the same fields on every line."""

    __slots__ = ("fields",)

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.fields = dict(fields)

    def debug(self, event: str, **fields: Any) -> None:
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        self._log(logging.ERROR, event, fields)

    def _log(self, level: int, event: str, fields: Mapping[str, Any]) -> None:
        if not _LOG.isEnabledFor(level):
            return
        every = {**self.fields, **fields}
        told = " ".join([event, *(f"{key}={value}" for key, value in every.items() if value != "")])
        _LOG.log(level, "%s", told, extra={"fields": every}, stacklevel=3)


def logger(**fields: Any) -> Logger:
    """A logger whose every line says these fields."""
    return Logger(fields)
