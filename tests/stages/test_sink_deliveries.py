"""Four classes of delivery, through deaths at every append: what is repeated, what is known again, what is never repeated."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest

import obzen_runtime as oz
from obzen_runtime.events import ActorCompleted, Block, Checkpoint, DeliveryIntent, DeliveryResolved, Receipt, RunForked, RunStarted, Slice
from obzen_runtime.flow import pipeline as pipelines
from obzen_runtime.journal import Fsync
from obzen_runtime.kernel import JournalFailed, UsageError
from obzen_runtime.stages import SinkStage, code_fingerprint
from tests.flow.kit import ints, play


class Mortal(oz.MemoryJournal):
    """A journal that outlives the processes that use it; each dies at its append number `left`, before or behind the writing of it."""

    def __init__(self, *, written=False) -> None:
        super().__init__(keep=True)
        self.left: int | None = None
        self.written = written
        self.dead = False
        self.appends = 0

    def append(self, records, *, expected=None):
        self.appends += 1
        if self.left is not None and not self.dead:
            self.left -= 1
            if self.left < 0:
                self.dead = True
                if self.written:
                    super().append(records, expected=expected)
        if self.dead:
            raise JournalFailed("the process is dead")
        return super().append(records, expected=expected)

    def live(self, flow, death=None):
        self.left, self.dead = death, False
        try:
            return play(flow, journal=self)
        except JournalFailed:  # a death before anything runs
            return None


def count_appends(flow_of):
    journal = Mortal()
    assert journal.live(flow_of()).state == "drained"
    return journal.appends


def sound(played):
    assert (played.state, played.error) == ("drained", None), played.error
    assert [each for each in played.pipeline.verdicts if not each.passed] == []


DEATHS = pytest.mark.parametrize("written", [False, True], ids=["before", "behind"])


# -- keyed ----------------------------------------------------------------------------------------


@DEATHS
@pytest.mark.parametrize("shape", ["function", "class", "batch", "async", "lanes"])
def test_a_keyed_sink_gets_the_same_key_for_an_event_after_every_death(shape, written):
    got = []

    def flow_of():
        if shape == "class":

            @oz.sink(delivery="keyed")
            class Charge:
                def write(self, n: int, *, key: oz.IdempotencyKey) -> None:
                    got.append((n, key))

        elif shape == "batch":

            @oz.sink(delivery="keyed", batch=4)
            def Charge(batch: list[int], *, keys: Sequence[oz.IdempotencyKey]) -> None:
                got.extend(zip(batch, keys, strict=True))

        elif shape == "function":

            @oz.sink(delivery="keyed")
            def Charge(n: int, ctx: oz.Context, *, key: oz.IdempotencyKey) -> None:
                assert key.endswith(ctx.event.id)
                got.append((n, key))

        else:

            @oz.sink(delivery="keyed", concurrency=3 if shape == "lanes" else 1)
            async def Charge(n: int, *, key: oz.IdempotencyKey) -> None:
                got.append((n, key))

        return oz.Flow("f", ints(12) >> Charge, window=oz.Window(events=4))

    for death in range(count_appends(flow_of)):
        got.clear()
        journal = Mortal(written=written)
        journal.live(flow_of(), death)
        sound(journal.live(flow_of()))
        assert set(got) == {(n, f"run/Charge/s@{n}") for n in range(12)}, death
        assert all(key.attempt == 1 for _, key in got)


def test_a_key_counts_the_tries_of_its_event():
    tries = []

    @oz.sink(delivery="keyed", retry=oz.Retry(attempts=3, base=1.0))
    def pay(n: int, *, key: oz.IdempotencyKey) -> None:
        tries.append((n, key.attempt))
        if n == 2 and key.attempt < 3:
            raise oz.Transient("busy")

    sound(play(oz.Flow("f", ints(4) >> pay)))
    assert tries == [(0, 1), (1, 1), (2, 1), (2, 2), (2, 3), (3, 1)]


def test_a_batch_that_failed_counts_as_a_try_of_each_of_its_events():
    tries = []

    @oz.sink(delivery="keyed", batch=3)
    def pay(batch: list[int], *, keys: Sequence[oz.IdempotencyKey]) -> None:
        tries.append([(str(key), key.attempt) for key in keys])
        if 1 in batch:
            raise ValueError("one")

    sound(play(oz.Flow("f", ints(4) >> pay)))
    first = [f"run/pay/s@{n}" for n in range(4)]
    assert tries == [[(key, 1) for key in first[:3]], *[[(key, 2)] for key in first[:3]], [(first[3], 1)]]


# -- what is declared -----------------------------------------------------------------------------


def test_a_sink_and_its_class_of_delivery_must_agree():
    def plain(n: int) -> None: ...

    def with_key(n: int, *, key: oz.IdempotencyKey) -> None: ...

    def with_keys(batch: list[int], *, keys: Sequence[oz.IdempotencyKey]) -> None: ...

    async def waiting(n: int) -> None: ...

    class Half:
        def write(self, n: int) -> None: ...

        def commit(self, position: bytes) -> None: ...

    class Lost:
        def write(self, n: int) -> None: ...

        def position(self) -> int:
            return 0

    for handler, options, said, remedy in [
        (plain, {"delivery": "keyed"}, "no parameter for the key", "*, key: oz.IdempotencyKey"),
        (with_key, {"delivery": "keyed", "batch": 3}, "keys of its batch", "list|keys: Sequence"),
        (with_keys, {"delivery": "keyed"}, "no parameter for the key", "key: oz.IdempotencyKey"),
        (with_key, {}, "'key' is an oz.IdempotencyKey, and the sink is not keyed", 'delivery="keyed"'),
        (plain, {"delivery": "transactional"}, "cannot store its position", "Make it a class"),
        (Half, {"delivery": "transactional"}, "cannot store its position", "stored(run: str, stage: str)"),
        (waiting, {"delivery": "sensitive", "concurrency": 2}, "one after the other", ""),
        (plain, {"delivery": "sensitive", "batch": 2}, "never repeats it", ""),
        (plain, {"delivery": "sensitive", "retry": oz.Retry()}, "never repeats it", ""),
        (plain, {"delivery": "sure"}, "give one of safe, keyed, transactional, sensitive", ""),
        (Lost, {}, "has position() and no resume(position)", "both, or neither"),
    ]:
        with pytest.raises(UsageError) as refused:
            oz.sink(**options)(handler)
        words = remedy.split("|")
        assert said in refused.value.message or words[0] in str(refused.value), refused.value
        assert any(word in str(refused.value) for word in words)


def test_a_key_is_no_parameter_to_be_set():
    @oz.sink(delivery="keyed")
    def pay(n: int, *, key: oz.IdempotencyKey, account: str = "a") -> None: ...

    assert list(pay.parameters) == ["account"]
    assert pay.key == "key"


def test_a_stand_in_has_the_shape_of_what_it_stands_for():
    def told(n: int, *, account: str) -> None: ...

    @oz.sink(simulate=told)
    def pay(n: int, *, account: str) -> None: ...

    stand_in = pay(account="a").named("payments").stand_in()
    assert (stand_in.name, stand_in.handler, dict(stand_in.bound)) == ("payments", told, {"account": "a"})

    @oz.sink
    def alone(n: int, *, account: str) -> None: ...

    assert alone.stand_in() is None
    assert code_fingerprint(alone.named("pay")) == code_fingerprint(pay)
    with pytest.raises(UsageError, match=r"has the parameters \(account\), its stand-in other has \(\)"):
        oz.sink(simulate=other)(pay.handler)
    with pytest.raises(UsageError, match="one is a class and one a function"):
        oz.sink(simulate=type("Other", (), {"write": lambda self, n: None}))(other)


def other(n: int) -> None: ...


# -- a writer's own place ---------------------------------------------------------------------------


@DEATHS
def test_a_writer_goes_on_from_the_place_of_its_last_receipt(written):
    world: list[int] = []
    resumed = []

    def flow_of():
        @oz.sink
        class Tape:
            def write(self, n: int) -> None:
                if n == 7 and not crashed:
                    crashed.append(n)
                    raise SystemExit
                world.append(n)

            def position(self) -> dict[str, int]:
                return {"at": len(world)}

            async def resume(self, position: dict[str, int] | None) -> None:
                resumed.append(position)
                del world[position["at"] if position else 0 :]

        return oz.Flow("f", ints(12) >> Tape, window=oz.Window(events=4))

    crashed = [0]
    for death in range(count_appends(flow_of)):
        crashed.clear()
        journal = Mortal(written=written)
        journal.live(flow_of(), death)
        sound(journal.live(flow_of()))
        assert world == list(range(12)), death
    assert None in resumed
    assert {"at": 7} in resumed


# -- transactional ----------------------------------------------------------------------------------


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


# -- sensitive --------------------------------------------------------------------------------------


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


def terminal(played):
    """How often each event has a receipt."""
    slices = [each for record in played.of(Receipt) for each in record.inputs if isinstance(each, Slice)]
    return Counter(n for each in slices for n in range(each.start, each.stop))


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
    journal.dead, journal.left = False, None
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


# -- a drained sink ---------------------------------------------------------------------------------


def test_a_writer_of_a_drained_sink_is_not_made_again():
    made = []

    def flow_of():
        @oz.sink
        class Once:
            def __init__(self) -> None:
                made.append(self)

            def write(self, n: int) -> None: ...

        return oz.Flow("f", ints(3) >> Once)

    total = count_appends(flow_of)
    journal = Mortal()
    journal.live(flow_of(), total - 2)
    assert any(isinstance(each, ActorCompleted) and each.actor == "Once" for each in journal._records)
    made.clear()
    sound(journal.live(flow_of()))
    assert made == []


def test_two_writers_into_one_sink_are_told_apart():
    keys = []

    @oz.source
    def more() -> Iterator[int]:
        yield from range(3)

    @oz.sink(delivery="keyed")
    def pay(n: int, *, key: oz.IdempotencyKey) -> None:
        keys.append(key)

    sound(play(oz.Flow("f", [ints(3), more] >> pay)))
    assert sorted(keys) == sorted(f"run/pay/{source}@{n}" for source in ("s", "more") for n in range(3))


# -- level fsync ------------------------------------------------------------------------------------


class Synced(oz.MemoryJournal):
    """A journal of level fsync whose receipts are noted."""

    def __init__(self, log):
        super().__init__(keep=True)
        self.log = log

    @property
    def level(self):
        return Fsync()

    def append(self, records, **options):
        self.log.extend("receipt" for each in records if isinstance(each, Receipt) and any(isinstance(one, Slice) for one in each.inputs))
        return super().append(records, **options)


@pytest.mark.parametrize("level", ["fsync", "memory"])
def test_at_level_fsync_what_was_flushed_is_synced_before_its_receipt(level):
    log: list[str] = []

    @oz.sink
    class File:
        def write(self, n: int) -> None:
            log.append("write")

        def flush(self) -> None:
            log.append("flush")

        def sync(self) -> None:
            log.append("sync")

        def position(self) -> int:
            log.append("position")
            return 0

        def resume(self, position: int | None) -> None: ...

    journal = Synced(log) if level == "fsync" else None
    sound(play(oz.Flow("f", ints(30) >> File, window=oz.Window(events=4)), journal=journal, real=True))
    assert log.count("write") == 30
    if level == "memory":
        assert "sync" not in log
        return
    for place, told in enumerate(log):
        if told == "receipt":
            assert log[place - 3 : place] == ["flush", "sync", "position"]
    assert log.count("receipt") >= 8


def test_a_sync_that_fails_fails_the_flow_and_its_events_have_no_receipt():
    log: list[str] = []
    closed = []

    @oz.sink
    class Full:
        def write(self, n: int) -> None: ...

        def sync(self) -> None:
            raise OSError(28, "No space left on device")

        def flush(self) -> None: ...

        def close(self) -> None:
            closed.append(1)

    played = play(oz.Flow("f", ints(3) >> Full), journal=Synced(log), real=True)
    assert played.state == "failed"
    assert "No space left" in played.error.message
    assert log == []
    assert closed == [1]


# -- what takes its inputs and calls nobody -----------------------------------------------------------


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
        journal.dead, journal.left = False, None
        journal.append([RunForked("run", "first", 1, live=True)])
        keys.clear()
        journal.live(flow_of(), death)
        sound(journal.live(flow_of()))
        assert 0 < written < 20
        first, last = f"run/pay/s@{written}", f"first/pay/s@{written - 1}"
        assert {first, "run/pay/s@19"} <= set(keys)
        assert not {f"run/pay/s@{written - 1}", f"first/pay/s@{written}"} & set(keys)
        assert last in keys or any(each.cursor.next.get("s", 0) >= written for each in journal._records if isinstance(each, Receipt))


def test_a_step_that_may_fail_whole_is_no_larger_than_its_letters_may_be_together(monkeypatch):
    monkeypatch.setattr(sys.modules[SinkStage.__module__], "LARGEST", 3000)
    sizes = []

    @oz.transform
    def text(n: int) -> str:
        return "x" * 1000

    @oz.sink(batch=50)
    def store(batch: list[str]) -> None:
        sizes.append(len(batch))

    sound(play(oz.Flow("f", ints(40) >> text >> store, window=oz.Window(events=1))))
    sound(play(oz.Flow("f", ints(40) >> text >> store, window=oz.Window(events=8))))
    assert max(sizes) <= 8
