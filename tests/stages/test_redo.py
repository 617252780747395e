"""One recorded step is done again by its own worker: the same record comes out, and nothing is handed on."""

import asyncio
from collections.abc import Iterator

import pytest

import obzen_runtime as oz
from obzen_runtime.actor import Ground
from obzen_runtime.events import Block
from obzen_runtime.flow.builder import wire
from obzen_runtime.kernel import Seams
from obzen_runtime.stages import Catcher, Place, StoppedClock, Window, finished, leftover, redo, take_over
from tests.stages.kit import Seen, ints, play


class Bench:
    """A stage `t` behind a source `s` of ints, ready to do the steps of a recorded run again."""

    def __init__(self, node, count=50, events=8):
        journal = oz.MemoryJournal(keep=True)
        self.flow = oz.Flow(
            "f", ints(count) >> node.named("t") >> Seen().sink(node.signature.outputs[0].origin), window=oz.Window(events=events)
        )
        self.played = play(self.flow, journal=journal)
        self.catcher = Catcher(journal.read)
        wired = wire(self.flow, Ground(self.catcher, Seams(clock=StoppedClock()), run_id="run"), lambda: None)
        wired.log.letters.handover = None
        self.stage = wired.stages["t"]
        take_over(self.stage)
        self.edge = self.stage.inputs[0]
        self.edge.window = Window(events=1 << 40)
        codec = wired.log.codecs["s"]
        for position, block in self.played.records:
            if isinstance(block, Block) and block.stage == "s" and block.count:
                self.edge.offer(codec.decode(block), {int}, Place(position, block.base, block.at), len(block.payloads))

    def steps(self):
        """Each recorded step of `t`, with its letters and what was written when it was done again."""

        async def every():
            found = []
            for number, (_, block) in enumerate(self.played.records):
                if isinstance(block, Block) and block.stage == "t":
                    behind = (record for _, record in self.played.records[number + 1 :])
                    letters = []
                    for record in behind:
                        if not isinstance(record, oz.DeadLetter):
                            break
                        letters.append(record)
                    found.append((block, letters, await redo(self.stage, block, letters)))
                    self.stage.written = block.base + block.count
            return found

        return asyncio.run(every())


@oz.transform
def odd(number: int) -> int | None:
    if number % 10 == 3:
        raise ValueError(number)
    return number if number % 2 else None


@oz.transform
def several(number: int) -> Iterator[int]:
    yield from range(number)


@oz.fold(0, emit=oz.every(7))
def sevens(total: int, number: int) -> int:
    return total + number


@pytest.mark.parametrize("node", [odd, several, sevens])
def test_every_step_gives_its_record_again_byte_by_byte(node):
    bench = Bench(node)
    steps = bench.steps()
    assert len(steps) > 5
    for block, letters, again in steps:
        assert again.error is None
        assert again.records == [block, *letters], block.base


def test_what_is_done_is_taken_from_the_line_and_the_end_is_known():
    bench = Bench(sevens)
    assert not finished(bench.stage)
    bench.steps()
    assert not bench.edge.inbox.entries
    assert finished(bench.stage)
    assert leftover(bench.stage) is None


def test_what_a_stage_would_still_give_is_told():
    bench = Bench(sevens)
    bench.stage.function = lambda total, number: total + number
    assert leftover(bench.stage) is None
    bench.stage.emission = iter([(None, 0), (5, 0)])
    assert leftover(bench.stage) == 5


def test_a_stage_that_breaks_for_good_is_a_finding():
    broken = [False]

    @oz.transform
    def breaks(number: int) -> int:
        if broken[0]:
            raise SystemExit(number)
        return number

    bench = Bench(breaks)
    broken[0] = True
    _, _, again = bench.steps()[0]
    assert again.records == []
    assert again.error is not None
    assert again.error.type == "SystemExit"


@pytest.mark.parametrize("shape", ["plain", "async", "batch", "generator"])
def test_a_call_that_failed_for_a_moment_is_made_again_when_the_record_says_that_it_got_through(shape):
    failed = set()

    def busy(number: int) -> int:
        if number % 5 == 2 and number not in failed:
            failed.add(number)
            raise oz.Transient("busy")
        return number

    retry = oz.Retry(attempts=3, base=0.001)
    if shape == "plain":

        @oz.transform(retry=retry)
        def again(number: int) -> int:
            return busy(number)

    elif shape == "async":

        @oz.transform(retry=retry)
        async def again(number: int) -> int:
            return busy(number)

    elif shape == "batch":

        @oz.transform(retry=retry, batch=4)
        def again(numbers: list[int]) -> list[int]:
            return [busy(number) for number in numbers]

    else:

        @oz.transform(retry=retry)
        def again(number: int) -> Iterator[int]:
            yield busy(number)
            yield number

    bench = Bench(again)
    assert failed
    failed.clear()
    for block, letters, redone in bench.steps():
        assert redone.error is None
        assert redone.records == [block, *letters], block.base
    assert failed


def test_an_emission_that_breaks_is_a_finding():
    bench = Bench(sevens)

    def breaks():
        raise ValueError("no more")
        yield

    bench.stage.emission = breaks()
    _, _, again = bench.steps()[-1]
    assert (again.records, again.error.message) == ([], "no more")
    bench.stage.emission = breaks()
    assert leftover(bench.stage).message == "no more"
