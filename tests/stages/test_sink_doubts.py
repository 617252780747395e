"""Sensitive sinks: no call is repeated by itself, and what nobody knows is in doubt until somebody decides."""

from collections import Counter

import pytest

import obzen_runtime as oz
from obzen_runtime.events import Block, Checkpoint, DeliveryIntent, DeliveryResolved, Receipt
from obzen_runtime.flow import pipeline as pipelines
from tests.flow.kit import Mortal, ints, play
from tests.stages.deliveries import DEATHS, count_appends, sound, terminal


def sensitive(sent, crash=None):
    left = [crash]

    @oz.sink(delivery="sensitive")
    async def send(n: int) -> None:
        sent.append(n)
        if n == left[0]:
            left.clear()
            left.append(None)
            raise SystemExit
        if n == 5:
            raise ValueError("five")

    return oz.Flow("f", ints(9) >> send, window=oz.Window(events=4))


@DEATHS
@pytest.mark.parametrize("checkpoints", [False, True])
def test_a_sensitive_sink_never_delivers_twice_by_itself_whatever_append_it_died_at(written, checkpoints, monkeypatch):
    monkeypatch.setattr(pipelines, "_CHECKPOINT", 0 if checkpoints else 1 << 30)
    doubts = 0
    for death in range(count_appends(lambda: sensitive([]))):
        sent: list[int] = []
        journal = Mortal(written=written)
        journal.live(sensitive(sent), death)
        played = journal.live(sensitive(sent))
        sound(played)
        told = [each.event for each in played.of(DeliveryResolved)]
        assert max(Counter(sent).values()) == 1, (death, sent)
        assert set(sent) | set(told) == set(range(9)), death
        assert len(told) <= 1
        assert played.pipeline.stages["send"].counters.doubted == len(told)
        assert terminal(played) == Counter(range(9))
        doubts += len(told)
    assert doubts >= 9


def test_an_intent_stands_before_each_call_and_a_receipt_behind_it():
    sent: list[int] = []
    played = play(sensitive(sent))
    sound(played)
    told = [each for each in played.records if isinstance(each, DeliveryIntent | Receipt)]
    assert [type(each).__name__ for each in told] == ["DeliveryIntent", "Receipt"] * 9 + ["Receipt"]
    assert [letter.event for letter in played.of(oz.DeadLetter)] == [5]


def test_a_sink_that_crashed_in_a_call_puts_that_event_in_doubt_and_goes_on_behind_it():
    sent: list[int] = []
    played = play(sensitive(sent, crash=3))
    sound(played)
    assert sent == list(range(9))
    assert [(each.event, each.outcome) for each in played.of(DeliveryResolved)] == [(3, "doubted")]
    assert played.pipeline.stages["send"].counters.doubted == 1


def doubted(sent):
    """A drained run with one delivery in doubt."""
    journal = Mortal()
    sound(journal.live(sensitive(sent, crash=3)))
    return journal


def resolved(journal, outcome, event=3):
    journal.left = None
    journal.append([DeliveryResolved("send", 0, "s", event, outcome)])


@pytest.mark.parametrize("outcome", ["delivered", "deliver", "dead"])
def test_what_is_decided_about_a_drained_run_is_done_by_the_next_process_once(outcome):
    sent: list[int] = []
    journal = doubted(sent)
    resolved(journal, outcome)
    for _ in range(2):
        played = journal.live(sensitive(sent))
        assert (played.state, played.error) == ("drained", None)
        assert sent.count(3) == (2 if outcome == "deliver" else 1)
        assert [letter.event for letter in played.of(oz.DeadLetter)] == ([5, 3] if outcome == "dead" else [5])
    assert played.pipeline.stages["send"].counters.doubted == 0
    assert terminal(played)[3] == 2, "one that says in doubt, one that ends it"


@pytest.mark.parametrize("outcome", ["delivered", "deliver", "dead"])
@DEATHS
def test_what_is_decided_is_done_once_whatever_append_the_next_process_died_at(outcome, written):
    for death in range(40):
        sent: list[int] = []
        journal = doubted(sent)
        resolved(journal, outcome)
        journal.written = written
        journal.live(sensitive(sent), death)
        survived = not journal.dead
        played = journal.live(sensitive(sent))
        assert (played.state, played.error) == ("drained", None), death
        assert sent.count(3) <= (2 if outcome == "deliver" else 1)
        if outcome == "dead":
            assert [letter.event for letter in played.of(oz.DeadLetter)] == [5, 3], death
        if survived:
            break
    assert death > 10


@pytest.mark.parametrize("outcome", ["delivered", "deliver", "dead"])
def test_what_is_decided_about_a_dead_run_before_it_goes_on_is_done(outcome):
    for death in range(count_appends(lambda: sensitive([]))):
        sent: list[int] = []
        journal = Mortal()
        journal.live(sensitive(sent), death)
        if 4 not in sent or any(isinstance(each, Receipt) and each.cursor.taken > 4 for each in journal._records):
            continue
        resolved(journal, outcome, event=4)
        played = journal.live(sensitive(sent))
        sound(played)
        assert sent.count(4) == (2 if outcome == "deliver" else 1)
        assert played.pipeline.stages["send"].counters.doubted == 0
        assert sorted(letter.event for letter in played.of(oz.DeadLetter)) == ([4, 5] if outcome == "dead" else [5])
        return
    pytest.fail("no death between the call and its receipt")


def test_a_checkpoint_keeps_what_is_open(monkeypatch):
    monkeypatch.setattr(pipelines, "_CHECKPOINT", 0)

    @oz.sink(delivery="sensitive")
    async def send(n: int) -> None:
        if n == 2:
            running[0]._keep()

    running: list[pipelines.Pipeline] = []

    async def beside(pipeline):
        running.append(pipeline)

    played = play(oz.Flow("f", ints(4) >> send), beside=beside)
    assert played.state == "drained"
    assert {"send": {"s@2": "open"}} in [each.doubted for each in played.of(Checkpoint)]


def test_what_a_checkpoint_says_is_open_is_put_in_doubt_by_the_next_process(monkeypatch):
    monkeypatch.setattr(pipelines, "_CHECKPOINT", 0)
    journal, running, sent = Mortal(), [], []

    @oz.sink(delivery="sensitive")
    async def send(n: int) -> None:
        sent.append(n)
        if n == 2 and len(running) == 1:
            running[0]._keep()
            journal.left = 0

    async def beside(pipeline):
        running.append(pipeline)

    flow = oz.Flow("f", ints(4) >> send)
    play(flow, journal=journal, beside=beside)
    assert {"send": {"s@2": "open"}} in [each.doubted for each in journal._records if isinstance(each, Checkpoint)]
    played = journal.live(flow)
    sound(played)
    assert sent == [0, 1, 2, 3]
    assert [(each.event, each.outcome) for each in played.of(DeliveryResolved)] == [(2, "doubted")]


# -- what was decided, carried out behind the cursor ------------------------------------------------


def test_an_order_whose_call_crashes_too_is_in_doubt_again():
    sent: list[int] = []
    journal = doubted(sent)
    resolved(journal, "deliver")
    played = journal.live(sensitive(sent, crash=3))
    assert (played.state, played.error) == ("drained", None)
    assert sent.count(3) == 2
    assert [each.outcome for each in played.of(DeliveryResolved)] == ["doubted", "deliver", "doubted"]
    assert played.pipeline.stages["send"].counters.doubted == 1
    journal.live(sensitive(sent))
    assert sent.count(3) == 2


def test_an_order_is_flushed_before_its_receipt():
    told: list[object] = []

    def flow_of(crash=None):
        left = [crash]

        @oz.sink(delivery="sensitive")
        class send:
            def write(self, n: int) -> None:
                told.append(n)
                if n == left[0]:
                    left[0] = None
                    raise SystemExit

            def flush(self) -> None:
                told.append("flush")

        return oz.Flow("f", ints(5) >> send)

    journal = Mortal()
    sound(journal.live(flow_of(crash=3)))
    resolved(journal, "deliver")
    told.clear()
    assert journal.live(flow_of()).state == "drained"
    assert told[:2] == [3, "flush"]


@pytest.mark.parametrize("fails", [False, True])
def test_an_order_is_carried_out_by_a_sink_that_takes_batches_now(fails):
    sent: list[int] = []
    journal = doubted(sent)
    resolved(journal, "deliver")
    batches = []

    @oz.sink(batch=4)
    def send(batch: list[int]) -> None:
        batches.append(batch)
        if fails:
            raise ValueError("no")

    played = journal.live(oz.Flow("f", ints(9) >> send, window=oz.Window(events=4)))
    assert (played.state, played.error) == ("drained", None)
    assert batches == [[3], [3]][: 1 + fails]
    assert [letter.event for letter in played.of(oz.DeadLetter)] == [5, 3][: 1 + fails]


def test_an_order_about_a_dead_letter_is_carried_out():
    told = []

    def flow_of(crash=None):
        left = [crash]

        @oz.transform
        def odd(n: int) -> int:
            if n % 2:
                raise ValueError(f"{n} is odd")
            return n

        @oz.sink(delivery="sensitive")
        def alarm(letter: oz.DeadLetter) -> None:
            told.append(letter.event)
            if letter.event == left[0]:
                left[0] = None
                raise SystemExit

        @oz.sink
        def rest(n: int) -> None: ...

        return oz.Flow("f", ints(6) >> odd >> rest, oz.dead_letters >> alarm)

    journal = Mortal()
    sound(journal.live(flow_of(crash=3)))
    assert told == [1, 3, 5]
    journal.left = None
    journal.append([DeliveryResolved("alarm", 0, "dead_letters", 1, "deliver")])
    assert journal.live(flow_of()).state == "drained"
    assert told == [1, 3, 5, 3]


def test_an_order_about_an_event_that_is_not_kept_any_more_says_what_to_do():
    journal = doubted([])
    resolved(journal, "deliver")
    really = journal.read

    async def read(start=1, stop=None, *, kinds=None):
        async for entry in really(start, stop, kinds=kinds):
            if not isinstance(entry.record, Block):
                yield entry

    journal.read = read
    sent: list[int] = []
    played = journal.live(sensitive(sent))
    assert played.state == "failed"
    assert played.error.message == "event s@3 is no longer in the journal, so send cannot deliver it"
    assert "obzen resolve RUN send s@3 --as delivered" in played.error.remedy
    assert sent == []
