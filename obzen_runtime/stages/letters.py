"""`flow.dead_letters` as a stage: the letters of a run, as a stream that other stages may read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from obzen_runtime.actor import Directive, Transition
from obzen_runtime.events import DeadLetter
from obzen_runtime.stages.codec import Codec
from obzen_runtime.stages.edge import Place
from obzen_runtime.stages.machines import LETTERS, DrainComplete
from obzen_runtime.stages.node import Node
from obzen_runtime.stages.schema import Declared
from obzen_runtime.stages.shared import CONTINUE, DEAD_LETTERS, Log
from obzen_runtime.stages.stage import Stage

__all__ = ["DeadLetters", "LettersStage", "dead_letters"]


@dataclass(frozen=True, eq=False)
class DeadLetters(Node):
    """The stream of `oz.DeadLetter` events of a flow."""

    kind: ClassVar[str] = "dead_letters"
    ports: ClassVar[tuple[str, ...]] = ()

    def outputs(self, upstream: Sequence[Declared]) -> tuple[Declared, ...]:
        return (Declared(DeadLetter, DeadLetter),)

    def build(self, log: Log, codec: Codec) -> "LettersStage":
        return LettersStage(self, log, codec)


dead_letters = DeadLetters(DEAD_LETTERS)
"""Wire it where letters should go: `oz.dead_letters >> alert`. `flow.dead_letters` is the same."""


class LettersStage(Stage):
    """Hands letters on as they are written. The supervisor posts Completed when no stage before it can fail any more."""

    machine = LETTERS
    blocking = Stage.blocking | {"running"}

    def __init__(self, node: Node, log: Log, codec: Codec) -> None:
        super().__init__(node, log, codec)
        log.letters.handover = self.take

    def take(self, letters: Sequence[DeadLetter], position: int) -> None:
        """Letters that stand in the journal from `position` on."""
        size = sum(len(letter.payload) for letter in letters) + 64 * len(letters)
        place = Place(position, letters[0].ordinal, letters[0].at)
        self.written += len(letters)
        self.counters.emitted += len(letters)
        for edge in self.edges:
            edge.offer(list(letters), {DeadLetter}, place, size)

    async def work(self, state: str) -> Directive:
        return Transition(DrainComplete()) if state == "draining" else CONTINUE
