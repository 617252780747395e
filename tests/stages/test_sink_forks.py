"""The sinks of a fork: silent unless it is live, and then with the keys of the past they share."""

from collections import Counter

import obzen_runtime as oz
from obzen_runtime.events import Block, Receipt, RunForked, RunStarted
from obzen_runtime.flow import pipeline as pipelines
from tests.flow.kit import Mortal, ints
from tests.stages.deliveries import count_appends, sound, terminal


def test_the_sinks_of_a_fork_that_may_not_deliver_take_their_inputs_and_call_nobody():
    made = []

    @oz.sink
    class Loud:
        def __init__(self) -> None:
            made.append(self)

        def write(self, n: int) -> None:
            made.append(n)

    def flow_of():
        return oz.Flow("f", ints(5) >> Loud, window=oz.Window(events=2))

    for death in range(count_appends(flow_of) + 1):
        made.clear()
        journal = Mortal()
        journal.append([RunStarted("origin", "f", 1), RunForked("run", "origin", 1)])
        journal.live(flow_of(), death)
        played = journal.live(flow_of())
        assert (played.state, played.error) == ("drained", None)
        assert made == [], death
        assert terminal(played) == Counter(range(5))


def test_a_fork_that_delivers_keeps_the_keys_of_the_events_that_were_born_before_it(monkeypatch):
    monkeypatch.setattr(pipelines, "_CHECKPOINT", 0)
    keys: list[str] = []

    def flow_of():
        @oz.sink(delivery="keyed")
        def pay(n: int, *, key: oz.IdempotencyKey) -> None:
            keys.append(key)

        return oz.Flow("f", ints(20) >> pay, window=oz.Window(events=4))

    for death in range(20, 40):
        journal = Mortal()
        journal.live(flow_of(), 22)
        written = sum(each.count for each in journal._records if isinstance(each, Block) and each.stage == "s")
        journal.left = None
        journal.append([RunForked("run", "first", 1, live=True)])
        keys.clear()
        journal.live(flow_of(), death)
        sound(journal.live(flow_of()))
        assert 0 < written < 20
        first, last = f"run/pay/s@{written}", f"first/pay/s@{written - 1}"
        assert {first, "run/pay/s@19"} <= set(keys)
        assert not {f"run/pay/s@{written - 1}", f"first/pay/s@{written}"} & set(keys)
        assert last in keys or any(each.cursor.next.get("s", 0) >= written for each in journal._records if isinstance(each, Receipt))
