"""What the workers of one run have in common beside their base: counts, the pace of their steps, letters, how they end."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from obzen_runtime.actor import Continue, Ground
from obzen_runtime.events import DeadLetter
from obzen_runtime.kernel import ErrorInfo, Permanent, classify
from obzen_runtime.stages.codec import Codec

__all__ = ["CONTINUE", "DEAD_LETTERS", "MOST", "Counters", "Crashed", "Failed", "Letters", "Log", "Pace", "PutAside"]

CONTINUE = Continue()
MOST = 4096
"""Events in a block at the most."""
DEAD_LETTERS = "dead_letters"
_FAIR = 1000
"""Events that the sources must have given before a share of letters is judged in a flow that goes on."""
_TARGET = 0.0002
_SLOW = 0.001


class Counters(msgspec.Struct):
    """What a stage has done, in events."""

    received: int = 0
    emitted: int = 0
    dropped: int = 0
    """Gave no output on purpose: dropped, filtered, unmatched or late."""
    dead: int = 0
    """Became dead letters."""
    doubted: int = 0
    """May have been delivered: nobody knows."""
    errors: int = 0
    """Handler failures, retried ones included."""
    seconds: float = 0.0
    """Time spent in the stage's steps."""

    def totals(self) -> dict[str, int]:
        """The counts by name."""
        return {
            "received": self.received,
            "emitted": self.emitted,
            "dropped": self.dropped,
            "dead": self.dead,
            "doubted": self.doubted,
            "errors": self.errors,
        }


class Crashed(Exception):
    """The stage broke in a way that is no event's failure."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = classify(error)


class PutAside(Exception):
    """Events that cannot be decoded any more have become letters: look again what comes next."""


class Failed(Exception):
    """The stage must not go on: no restart would help."""

    def __init__(self, error: ErrorInfo) -> None:
        super().__init__(error.message)
        self.error = error


class Pace:
    """How many handler calls may pass between two looks at the clock: about 0.2 ms worth, 1 at first and after a slow call."""

    __slots__ = ("calls",)

    def __init__(self) -> None:
        self.calls = 1

    def took(self, calls: int, seconds: float) -> None:
        """Learn from a piece of `calls` that took `seconds`."""
        if seconds > calls * _SLOW:
            self.calls = 1
        else:
            self.calls = max(1, min(MOST, int(calls * _TARGET / max(seconds, 1e-9)), self.calls * 2))


class Letters:
    """Numbers dead letters, and hands them to `flow.dead_letters` where the flow wires it."""

    def __init__(self, most: float | None = None) -> None:
        self.count = 0
        self.most = most
        """More letters than this fail the flow: an int is a count, a float a share of what was given."""
        self.given: Callable[[], int] = int
        """How many events, bad rows among them, the sources have given."""
        self.handover: Callable[[Sequence[DeadLetter], int], None] | None = None
        self.behind: frozenset[str] = frozenset()
        """Stages that read letters: one that they write themselves fails the flow instead of going round."""
        self._own: ErrorInfo | None = None

    def written(self, stage: str, letters: Sequence[DeadLetter], position: int) -> None:
        """Letters of `stage` stand in the journal from `position` on."""
        if stage in self.behind:
            self._own = letters[0].error
        elif self.handover is not None:
            self.handover(letters, position)

    def number(self, letters: Sequence[DeadLetter]) -> tuple[DeadLetter, ...]:
        """The letters with their ordinals; to be called when they are appended."""
        numbered = tuple(msgspec.structs.replace(letter, ordinal=self.count + place) for place, letter in enumerate(letters))
        self.count += len(numbered)
        return numbered

    def check_flood(self) -> None:
        """Fail when more letters were written than the flow allows, or one by a reader of letters."""
        if self._own is not None:
            raise Failed(self._own)
        excess = self.excess()
        if excess is not None:
            raise Failed(excess)

    def excess(self, *, at_end: bool = False) -> ErrorInfo | None:
        """Why there are more letters than the flow allows; None when there are not. A share needs some events, or the end."""
        if self.most is None:
            return None
        if isinstance(self.most, int):
            told, excessive = f"{self.count} dead letters, at most {self.most}", self.count > self.most
        else:
            given = self.given()
            told = f"{self.count} dead letters of {given} events given, at most {self.most:.4g} of them"
            excessive = (at_end or given >= _FAIR) and self.count > self.most * given
        remedy = "Look at them with `obzen dead-letters RUN`, or raise max_dead_letters."
        return classify(Permanent(f"{told} are allowed", remedy=remedy)) if excessive else None


class Log(NamedTuple):
    """What stages of one run share."""

    ground: Ground
    letters: Letters
    codecs: dict[str, Codec]
    """Per stage the codec of its events."""
    noted: Callable[[], None]
    """Told after each commit, so that the supervisor can keep checkpoints and trim memory."""
    stall_after: float = 30.0
    """Seconds without credit after which a writer is reported as stalled."""
