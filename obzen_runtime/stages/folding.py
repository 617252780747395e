"""The life of a stage that folds: take, fold, emit at the end, and fold again what a snapshot has not seen."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from obzen_runtime.actor import Directive, Transition
from obzen_runtime.events import DeadLetter, RunResumed
from obzen_runtime.kernel import StateFailed, classify
from obzen_runtime.stages.codec import Codec
from obzen_runtime.stages.handling import OnError
from obzen_runtime.stages.machines import TRANSFORM, DrainComplete
from obzen_runtime.stages.node import Node
from obzen_runtime.stages.recollect import Recollects
from obzen_runtime.stages.refold import GONE, Comparison, Past, Range, past_inputs
from obzen_runtime.stages.shared import CONTINUE, Crashed, Failed, Log, Pace
from obzen_runtime.stages.step import BlockTooLarge, Made, halves

__all__ = ["StatefulStage"]

_LONGEST = 0.0008


class StatefulStage(Recollects):
    """What all stages with state share: take, fold, emit at the end."""

    machine = TRANSFORM

    def __init__(self, node: Node, log: Log, codec: Codec) -> None:
        super().__init__(node, log, codec)
        self.pace = Pace()
        self.on_error: OnError = getattr(node, "on_error", "dead_letter")
        self.emission: Iterator[tuple[Any, int]] | None = None
        self.marks: dict[Any, int] = {}
        """While folding again: per key the inputs its snapshot has seen, where that is more than at the snapshot's start."""
        self.window = 0
        """Number of the input from which on no snapshot has seen any."""
        self.reset()

    @abstractmethod
    def absorb(self, items: Sequence[Any], first: int, made: Made, start: int) -> int:
        """Fold `items`, of which the first is this stage's input number `first` and offset `start` of the step.

        Adds outputs and failures to `made`; returns how many were taken (fewer only before a crash).
        """

    def final(self) -> Iterator[tuple[Any, int]]:
        """What is given at the end: outputs with the first input each comes from."""
        return iter(())

    async def work(self, state: str) -> Directive:
        if state == "draining":
            return await self._drain()
        found = await self._next_entry()
        if not isinstance(found, tuple):
            return found
        entry, room = found
        items = await self.payloads(entry)
        monotonic = self.clock.monotonic
        self.begun = now = monotonic()
        self.at = self.clock.wall_ms()
        made = Made()
        most = min(entry.count - entry.done, room)
        try:
            while made.taken < most:
                start = entry.done + made.taken
                piece = items[start : min(entry.done + most, start + self.pace.calls)]
                outputs, dead = len(made.outputs), len(made.dead)
                try:
                    taken = self.absorb(piece, self.taken + made.taken, made, made.taken)
                except (Crashed, Failed):
                    made.cut(outputs, dead)
                    raise
                made.taken += taken
                before, now = now, monotonic()
                self.pace.took(max(1, taken), now - before)
                if now - self.begun >= _LONGEST:
                    break
        finally:
            if made.taken:
                self._commit(entry, made)
            self.counters.seconds += monotonic() - self.begun
        if self.keeper is not None:
            self.keeper.turn(self.counters.seconds)
        return CONTINUE

    def settle(self, made: Made) -> None:
        """Say of a step that is folded what became of inputs without output."""
        if made.dead and self.on_error == "skip":
            made.lost["skipped"] = [offset for offset, _ in made.dead]
            made.dead = []

    def _commit(self, entry: Any, made: Made) -> None:
        self.counters.errors += len(made.dead)
        self.settle(made)
        self.commit(entry, made)
        if made.dead:
            self.log.letters.check_flood()

    def fails(self, made: Made, offset: int, error: BaseException) -> None:
        """Note that folding the event at `offset` failed. What is no event's failure crashes the stage; under "fail" any ends it."""
        if not isinstance(error, Exception):
            raise Crashed(error) from error
        if self.on_error == "fail":
            self.counters.errors += 1
            raise Failed(classify(error)) from error
        made.dead.append((offset, classify(error)))

    async def _drain(self) -> Directive:
        """One block of the final emission."""
        room = self._room()
        if not room:
            await self.wake.wait()
            return CONTINUE
        if self.standing.drained:
            return Transition(DrainComplete())
        if self.emission is None:
            self.emission = self.final()
            for _ in zip(range(self.within), self.emission, strict=False):  # given before
                await self.breathe()
        self.at = self.clock.wall_ms()
        made = Made(since=[], marks=[], within=self.within)
        assert made.since is not None
        assert made.marks is not None
        begun = self.clock.monotonic()
        try:
            for output, since in self.emission:
                made.within += 1
                if output is not None:
                    made.outputs.append(output)
                    made.since.append(since)
                    made.marks.append(made.within)
                if len(made.outputs) >= room or self.clock.monotonic() - begun >= _LONGEST:
                    break
        except BaseException as error:
            raise Crashed(error) from error
        if made.within == self.within:
            return Transition(DrainComplete())
        self._give(made)
        self.log.letters.check_flood()
        return CONTINUE

    def _give(self, made: Made) -> None:
        """Write a piece of the emission, in parts where it is too large for a block."""
        try:
            self.emit(made)
        except BlockTooLarge:
            for half in halves(made, 0):
                self._give(half)

    async def refold(self, since: Range) -> None:
        self.emission = None
        number = since.cursor.taken
        comparison = Comparison(self.name, self.codec)
        async for past in past_inputs(self.journal, self.name, self.inputs, self.log.codecs, since=since):
            match past:
                case Past() if past.aside:
                    number += len(past.ordinals)
                case Past(items=items):
                    made = Made(taken=len(items))
                    await self._fold_again(items, number, made)
                    if number >= self.window:  # what a snapshot has seen of a step is not given again
                        self.settle(made)
                        comparison.step(past, made)
                    number += len(past.ordinals)
                case DeadLetter():
                    comparison.letter(past)
                case RunResumed() if comparison.resumed(past):
                    self.logger.warning("folded again with other code than recorded")
        comparison.check()
        self.marks = {}
        if number != self.taken:
            raise StateFailed(
                f"{self.name} took {self.taken} inputs, and the log has {number}",
                remedy=GONE if self.journal.first > 1 else "Run `obzen journal check`; this journal and this run do not belong together.",
            )

    async def _fold_again(self, items: Sequence[Any], number: int, made: Made) -> None:
        done = 0
        while done < len(items):
            if number + done < self.window:
                if not self.seen(items[done], number + done):
                    self.absorb(items[done : done + 1], number + done, made, done)
                done += 1
            else:
                begun = self.clock.monotonic()
                taken = self.absorb(items[done : done + self.pace.calls], number + done, made, done)
                self.pace.took(max(1, taken), self.clock.monotonic() - begun)
                done += taken
            await self.breathe()

    def seen(self, item: Any, number: int) -> bool:
        """Whether the snapshot holds what this input did."""
        return False
