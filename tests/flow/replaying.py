"""What the tests of replays share: a run recorded, replayed, and found the same or different at one place."""

import obzen_runtime as oz
from obzen_runtime.events import Block
from obzen_runtime.flow import replay
from tests.flow.kit import play


def recorded(flow, **options):
    """A journal that holds the flow's run, and how it went."""
    journal = oz.MemoryJournal(keep=True)
    return journal, play(flow, journal=journal, **options)


def proved(flow, again=None, **options):
    """The flow's run replays with no difference; returns the report."""
    journal, played = recorded(flow, **options)
    report = replay(again or flow, journal)
    assert report.differences == ()
    assert report.certified
    for name, stage in report.stages.items():
        written = sum(block.count for block in played.of(Block) if block.stage == name)
        assert stage.recorded == (written if stage.kind != "dead_letters" else stage.replayed), name
        assert stage.kind == "sink" or stage.replayed == stage.recorded, name
    return report


def diverged(flow, changed):
    """The one difference between what a flow recorded and what a changed one does."""
    journal, _ = recorded(flow)
    report = replay(changed, journal)
    assert not report.certified
    assert len(report.differences) == 1, report.differences
    return report.differences[0]


def same(number):
    return number


def plain(body, gives=int, name="t"):
    """A transform of ints made of an expression's function."""

    def t(number):
        return body(number)

    t.__annotations__ = {"number": int, "return": gives}
    return oz.transform(t).named(name)


@oz.fold(0, emit=oz.at_end())
def summed(total: int, number: int) -> int:
    if number % 9 == 8:
        raise ValueError("nine")
    return total + number
