"""Transactional sinks: each event is stored once, through deaths at every append."""

import obzen_runtime as oz
from tests.flow.kit import Mortal, ints, play
from tests.stages.deliveries import DEATHS, count_appends, sound


class Bank:
    """Where a transactional writer stores: committed rows and positions."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.positions: dict[tuple[str, str], bytes] = {}

    def flow(self, count=20, **options):
        bank = self

        @oz.sink(delivery="transactional", **options)
        class Store:
            def __init__(self) -> None:
                self.open: list[int] = []

            def stored(self, run: str, stage: str) -> bytes | None:
                self.owner = run, stage
                return bank.positions.get(self.owner)

            def write(self, n: int) -> None:
                if n % 6 == 4:
                    raise ValueError("no")
                self.open.append(n)

            def commit(self, position: bytes) -> None:
                bank.rows += self.open
                self.open = []
                bank.positions[self.owner] = position
                if bank.trouble:
                    raise bank.trouble.pop()

        return oz.Flow("f", ints(count) >> Store, window=oz.Window(events=5))

    trouble: list[Exception] = []  # noqa: RUF012 - replaced where it is used


@DEATHS
def test_a_transactional_sink_stores_each_event_once_and_loses_no_letter_whatever_append_it_died_at(written):
    expected = [n for n in range(20) if n % 6 != 4]
    for death in range(count_appends(lambda: Bank().flow())):
        bank, journal = Bank(), Mortal(written=written)
        journal.live(bank.flow(), death)
        played = journal.live(bank.flow())
        sound(played)
        assert bank.rows == expected, death
        assert [letter.event for letter in played.of(oz.DeadLetter)] == [4, 10, 16], death


def test_a_commit_whose_answer_was_lost_is_found_to_be_stored():
    bank = Bank()
    bank.trouble = [oz.Transient("connection lost"), oz.Transient("connection lost")]
    sound(play(bank.flow()))
    assert bank.rows == [n for n in range(20) if n % 6 != 4]


def test_a_new_run_of_an_old_name_is_refused_by_what_the_old_one_stored():
    bank = Bank()
    sound(play(bank.flow()))
    played = play(bank.flow())
    assert played.state == "failed"
    assert played.error.code == "sink_changed"
    assert "this run run only begins" in played.error.message
    assert bank.rows == [n for n in range(20) if n % 6 != 4]
