"""Named telemetry events: code says what happened, exporters attach above and cost nothing when absent.

Events are emitted once per block, never per event of data. The table:

    name               measurements                       metadata
    actor.transition   -                                  actor, source, event, target
    actor.ended        -                                  actor, state, reason
    stage.block        received, emitted, seconds         stage
    journal.append     records, bytes                     position
    journal.sync       seconds                            position
    run.state          -                                  run, state
"""

import logging
from collections.abc import Callable, Mapping

__all__ = ["Telemetry", "TelemetryHandler"]

Value = str | int | float
TelemetryHandler = Callable[[str, Mapping[str, float], Mapping[str, Value]], None]
"""Gets name, measurements (base units: seconds, bytes, events) and metadata; must return at once."""


class Telemetry:
    """One run's event stream. `handlers` is empty when nobody listens: test it before building an event."""

    __slots__ = ("handlers",)

    def __init__(self, *handlers: TelemetryHandler) -> None:
        self.handlers: tuple[TelemetryHandler, ...] = handlers

    def attach(self, handler: TelemetryHandler) -> Callable[[], None]:
        """Add a handler; the function returned takes it away again."""
        self.handlers = (*self.handlers, handler)
        return lambda: self._detach(handler)

    def emit(self, name: str, measurements: Mapping[str, float], metadata: Mapping[str, Value]) -> None:
        """Tell every handler. One that raises is taken away and logged: watching a run must not end it."""
        for handler in self.handlers:
            try:
                handler(name, measurements, metadata)
            except Exception:
                self._detach(handler)
                logging.getLogger(__name__).exception("telemetry handler %r failed at %s and was detached", handler, name)

    def _detach(self, handler: TelemetryHandler) -> None:
        rest = list(self.handlers)
        if handler in rest:
            rest.remove(handler)
        self.handlers = tuple(rest)
