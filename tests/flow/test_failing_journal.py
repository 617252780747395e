"""When the journal fails, nothing more is acknowledged, nothing hangs, and the run has failed."""

import pytest

import obzen_runtime as oz
from obzen_runtime.events import Block, Receipt
from obzen_runtime.kernel import JournalFailed
from tests.flow.kit import Seen, ints, play, same, total


class Failing(oz.MemoryJournal):
    """Fails at the nth append, and at all after it."""

    def __init__(self, at: int) -> None:
        super().__init__(keep=True)
        self.at = at
        self.appends = 0
        self.refused = 0

    def append(self, records, *, expected=None):
        self.appends += 1
        if self.appends >= self.at:
            self.refused += 1
            raise JournalFailed("disk full", remedy="Free some space.")
        return super().append(records, expected=expected)


def flow_of(seen, **options):
    @oz.transform
    def picky(number: int) -> int:
        if number % 50 == 0:
            raise ValueError("fifty")
        return number

    return oz.Flow(
        "f",
        ints(400) >> same() >> [picky >> seen.sink(), total() >> Seen().sink("sums")],
        oz.dead_letters >> Seen().sink("mail"),
        window=oz.Window(events=40),
        **options,
    )


def appends():
    journal = Failing(10**9)
    assert play(flow_of(Seen()), journal=journal).state == "drained"
    return journal.appends


def test_it_may_fail_at_every_append_of_a_run():
    count = appends()
    assert count > 60
    for at in range(1, count + 1):
        seen, journal = Seen(), Failing(at)
        played = play(flow_of(seen), journal=journal)
        assert played.state == "failed", at
        assert played.error.message == "disk full", at
        assert journal.head == sum(1 for _ in played.records)
        taken = [record for record in played.of(Receipt) if record.stage == "k"]
        acknowledged = taken[-1].cursor.next.get("picky", 0) if taken and taken[-1].cursor else 0
        handed_on = sum(record.count for record in played.of(Block) if record.stage == "picky")
        assert acknowledged <= len(seen) <= handed_on, at
        assert played.complaints == [], at


def test_a_handler_is_never_given_an_event_that_is_not_in_the_log():
    for at in range(1, appends() + 1, 3):
        seen, journal = Seen(), Failing(at)
        played = play(flow_of(seen), journal=journal)
        assert seen == played.events("picky")[: len(seen)]


@pytest.mark.parametrize("strategy", ["one_for_one", "one_for_all"])
def test_a_failing_journal_is_no_crash_to_restart_after(strategy):
    journal = Failing(40)
    played = play(flow_of(Seen(), restart=oz.Restart(strategy=strategy, max=1000)), journal=journal)
    assert played.state == "failed"
    assert journal.refused < 60
