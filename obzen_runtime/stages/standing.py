"""Where a stage of an earlier process stood when its last record was written: what resuming gives it back."""

import msgspec

from obzen_runtime.events import Cursor, EndKind, Snapshot

__all__ = ["Standing"]


class Standing(msgspec.Struct):
    """A stage's position and counts, as the log tells them."""

    cursor: Cursor = Cursor()
    written: int = 0
    ends: dict[str, EndKind] = {}
    """Upstreams whose natural end it took. Ends that a stop made are void: the upstream goes on."""
    drained: bool = False
    """It had nothing left to do: all it had to write is written."""
    counters: dict[str, int] = {}
    """Its report counters by name."""
    snapshot: Snapshot | None = None
    """Its newest snapshot."""
    snapshot_at: int = 0
    """Position of that record."""
    doubted: dict[tuple[str, int], str] = {}
    """Deliveries with an intent and no receipt, by upstream and ordinal: how each stands (`open`, or a resolution's outcome)."""
