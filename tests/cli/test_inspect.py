"""Every event of every stage is found, with what it comes from; on runs that ended, live and were killed."""

import asyncio
import json
import signal
import time

import pytest

from obzen_runtime.cli.app import execute
from obzen_runtime.cli.inspect import Selection, show
from obzen_runtime.cli.show import record_line
from obzen_runtime.events import Block, DeliveryIntent, DeliveryResolved, Dropped, RunForked, RunResumed, RunStarted, Snapshot, StageInfo
from obzen_runtime.journal import SegmentJournal, SegmentReader
from tests.cli.kit import HEAD, HELLO, LETTERS, refused, spawn

EVERY = (
    HEAD
    + """

class Rate(msgspec.Struct, frozen=True):
    customer: str
    factor: float


@oz.source
def orders(count: int = 40) -> Iterator[Order]:
    for n in range(count):
        yield Order(n, f"c{n % 3}", 1.5 * n)


@oz.source
def rates() -> Iterator[Rate]:
    yield Rate("c0", 2.0)
    yield Rate("c1", 3.0)


@oz.join(how="left", stream_key=lambda order: order.customer, reference_key=lambda rate: rate.customer)
def priced(order: Order, rate: Rate | None) -> float:
    return order.amount * (rate.factor if rate else 1.0)


class Small(msgspec.Struct, frozen=True):
    id: int


class Large(msgspec.Struct, frozen=True):
    id: int


@oz.transform
def sized(order: Order) -> Small | Large:
    return Small(order.id) if order.id % 3 else Large(order.id)


@oz.stateful(key=lambda small: small.id % 4, emit=oz.at_end())
class Tally:
    count: int = 0

    def fold(self, small: Small) -> None:
        self.count += 1

    def emit(self, key: int) -> int:
        return self.count


@oz.transform
def large(event: Large) -> int:
    return event.id


most = oz.top(2, by=lambda n: n, name="most")


@oz.sink
def numbers_out(n: int) -> None: ...


@oz.sink
def prices_out(price: float) -> None: ...


flow = oz.Flow(
    "every",
    rates >> priced.reference,
    orders >> priced.stream,
    priced >> prices_out,
    orders >> sized,
    sized >> Tally >> numbers_out,
    sized >> large >> most >> numbers_out,
    numbers >> thrice >> picky >> odd >> numbers_out,
)
"""
)


def events(obzen, *options):
    ended = obzen("inspect", "--last", "--type", "event", "--json", *options)
    assert ended.code == 0, ended
    return {line["event"]: line for line in ended.lines}


def covered(parents):
    """The single events that a list of ids and ranges names."""
    found = set()
    for text in parents:
        stage, _, ordinals = text.partition("@")
        first, _, last = ordinals.partition("..")
        found |= {f"{stage}@{n}" for n in range(int(first), int(last or first) + 1)}
    return found


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    folder = tmp_path_factory.mktemp("every")
    (folder / "every_stage.py").write_text(EVERY)
    assert execute(["run", str(folder / "every_stage.py"), "--journal", str(folder), "--run-id", "every", "-q"]) == 0

    async def lines():
        return [
            json.loads(line)
            async for line in show(SegmentReader.open(folder / "every"), Selection(kinds=frozenset(), events=True), as_json=True)
        ]

    return {line["event"]: line for line in asyncio.run(lines())}


def test_every_event_of_every_stage_is_there_once_and_in_ordinal_order(every):
    by_stage = {}
    for name in every:
        stage, _, ordinal = name.partition("@")
        by_stage.setdefault(stage, []).append(int(ordinal))
    assert {stage: len(found) for stage, found in by_stage.items()} == {
        "rates": 2, "orders": 40, "priced": 40, "sized": 40, "Tally": 4, "large": 14, "most": 2,
        "numbers": 10, "thrice": 30, "picky": 25, "odd": 5, "dead_letters": 5,
    }  # fmt: skip
    assert all(found == list(range(len(found))) for found in by_stage.values())


def test_every_parent_is_an_event_that_exists_and_stands_before_its_child(every):
    for name, event in every.items():
        for parent in covered(event["parents"]):
            assert parent in every, (name, parent)
            assert every[parent]["position"] <= event["position"]


def test_sources_have_no_parents_and_every_other_event_has_one(every):
    assert {name.partition("@")[0] for name, event in every.items() if not event["parents"]} == {"orders", "rates", "numbers"}


def test_a_generators_outputs_come_from_the_one_input_they_were_given_for(every):
    for name, event in every.items():
        if name.startswith("thrice@"):
            assert event["parents"] == [f"numbers@{event['payload'] // 10}"]


def test_dropped_and_dead_inputs_are_nobodys_parents(every):
    payload = {name: event["payload"] for name, event in every.items()}
    for name, event in every.items():
        if name.startswith(("odd@", "picky@")):
            assert [payload[parent] for parent in event["parents"]] == [event["payload"]]


def test_a_joins_output_names_its_event_and_its_match(every):
    for n in range(40):
        expected = [f"orders@{n}", *([f"rates@{n % 3}"] if n % 3 < 2 else [])]
        assert every[f"priced@{n}"]["parents"] == expected


def test_routed_events_keep_their_own_ordinals(every):
    for name, event in every.items():
        if name.startswith("large@"):
            (parent,) = event["parents"]
            assert every[parent]["type"] == "Large"
            assert every[parent]["payload"] == {"id": event["payload"]}


def test_a_keys_output_comes_from_its_first_event_on_and_never_from_less(every):
    smalls = {name: event["payload"]["id"] for name, event in every.items() if event["type"] == "Small"}
    keys = list(dict.fromkeys(number % 4 for number in smalls.values()))
    for place, key in enumerate(keys):
        assert {name for name, number in smalls.items() if number % 4 == key} <= covered(every[f"Tally@{place}"]["parents"])


def test_what_top_gives_comes_from_all_it_saw_from_that_event_on(every):
    for name, event in every.items():
        if name.startswith("most@"):
            own = [parent for parent, other in every.items() if parent.startswith("large@") and other["payload"] == event["payload"]]
            assert set(own) <= covered(event["parents"])


def test_a_dead_letter_is_an_event_with_its_cause_payload_and_origin(every):
    letter = every["dead_letters@0"]
    assert letter["type"] == "DeadLetter"
    assert letter["payload"] == {"stage": "picky", "error": "ValueError: no 11", "payload": 11}
    assert every[letter["parents"][0]]["payload"] == 11


def test_payloads_and_types_are_those_of_the_flow(every):
    assert every["orders@2"]["type"] == "Order"
    assert every["orders@2"]["payload"] == {"id": 2, "customer": "c2", "amount": 3.0}
    assert every["sized@0"]["type"] == "Large"
    assert every["sized@1"]["type"] == "Small"


def test_one_generator_that_fills_several_blocks_keeps_its_one_parent(obzen):
    text = HEAD + (
        "@oz.transform\ndef many(n: int) -> Iterator[int]:\n    yield from range(9000)\n\n"
        "@oz.sink\ndef out(n: int) -> None: ...\n\n"
        'flow = oz.Flow("many", numbers(count=2) >> many >> out)\n'
    )
    assert obzen.run(text, "-q").code == 0
    found = events(obzen, "--stage", "many")
    assert len(found) == 18000
    assert all(event["parents"] == [f"numbers@{int(name.partition('@')[2]) // 9000}"] for name, event in found.items())


def test_a_fold_over_many_blocks_names_them_all(obzen):
    assert obzen.run(HELLO, "-q", "--set", "numbers.count=20000").code == 0
    assert events(obzen, "--stage", "total")["total@0"]["parents"] == ["double@0..19999"]


def test_history_is_there_too_when_only_the_end_is_asked_for(obzen):
    assert obzen.run(HELLO, "-q", "--set", "numbers.count=20000").code == 0
    position = events(obzen, "--stage", "total")["total@0"]["position"]
    found = events(obzen, "--from", position)
    assert list(found) == ["total@0"]
    assert found["total@0"]["parents"] == ["double@0..19999"]


def test_records_come_in_order_one_line_each(obzen):
    assert obzen.run(LETTERS, "-q").code == 0
    lines = obzen("inspect", "--last").out.splitlines()
    assert [int(line.split()[0]) for line in lines] == list(range(1, len(lines) + 1))
    assert "run.started" in lines[0]
    text = "\n".join(lines)
    assert "picky@0..7 int, took numbers@0..9, dead numbers@3 numbers@7" in text
    assert "dead_letters@1: picky failed on numbers@7: ValueError: no 7" in text
    assert "run.completed   drained" in text


def test_a_record_as_json_has_its_columns_but_no_bytes(obzen):
    assert obzen.run(HELLO, "-q").code == 0
    block = obzen("inspect", "--last", "--type", "block", "--stage", "double", "--json", "--limit", 1).lines[0]
    assert (block["kind"], block["base"], block["count"]) == ("block", 0, 10)
    assert block["inputs"] == [["slice", "numbers", 0, 10]]
    assert "payloads" not in block
    assert block["payloads_bytes"] > 10


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        (["--type", "receipt"], {"receipt"}),
        (["--type", "run"], {"run.started", "run.completed"}),
        (["--type", "run.started"], {"run.started"}),
        (["--type", "actor"], {"actor.state", "actor.completed"}),
        (["--type", "contract,checkpoint"], {"contract", "checkpoint"}),
        (["--type", "contract", "--type", "receipt"], {"contract", "receipt"}),
        (["--type", "event"], {"event"}),
        (["--type", "block", "--events"], {"block", "event"}),
        (["--type", "dead_letter", "--stage", "picky"], {"dead_letter"}),
        (["--stage", "show"], {"actor.state", "actor.completed", "receipt", "contract"}),
        (["--stage", "dead_letters", "--type", "event"], {"event"}),
        (["--stage", "letters"], {"actor.state", "actor.completed"}),
    ],
)
def test_only_what_is_asked_for_is_shown(obzen, options, kinds):
    assert obzen.run(LETTERS, "-q").code == 0
    assert {line["kind"] for line in obzen("inspect", "--last", "--json", *options).lines} == kinds


def test_positions_and_a_limit_cut_a_piece_out(obzen):
    assert obzen.run(HELLO, "-q").code == 0
    assert [line["position"] for line in obzen("inspect", "--last", "--json", "--from", 5, "--to", 7).lines] == [5, 6, 7]
    assert [line["position"] for line in obzen("inspect", "--last", "--json", "--from", 5, "--limit", 2).lines] == [5, 6]
    assert obzen("inspect", "--last", "--from", 100_000).err == "nothing there matches\n"


def test_times_of_day_are_in_the_time_zone_of_the_list_of_runs(obzen, monkeypatch):
    def seconds(told):
        return sum(float(part) * unit for part, unit in zip(told.split(":"), (3600, 60, 1), strict=True))

    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    try:
        assert obzen.run(HELLO, "-q").code == 0
        listed = obzen("runs").out.splitlines()[1].split()[4]
        first = obzen("inspect", "--last", "--limit", "1").out.split()[1]
        assert (seconds(first) - seconds(listed)) % 86_400 < 600, "the run began before its first record"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_run_is_found_by_id_beginning_and_path(obzen, monkeypatch):
    assert obzen.run(HELLO, "-q", "--run-id", "nightly-1").code == 0
    wanted = obzen("inspect", "--last").out
    for name in ("nightly-1", "night", "runs/nightly-1", obzen.folder / "runs" / "nightly-1"):
        assert obzen("inspect", name).out == wanted
    monkeypatch.chdir(obzen.folder / "runs")
    assert obzen("inspect", "nightly-1").out == wanted


def test_what_names_no_run_is_refused(obzen):
    refused(obzen("inspect", "--last"), 64, "there is no run in runs")
    assert obzen.run(HELLO, "-q", "--run-id", "one-a").code == 0
    assert obzen("run", "flow.py", "-q", "--run-id", "one-b").code == 0
    refused(obzen("inspect"), 64, "no run is named", "--last")
    refused(obzen("inspect", "one-a", "--last"), 64, "both")
    refused(obzen("inspect", "two"), 64, "no run in runs is named 'two'", "one-a")
    refused(obzen("inspect", "one"), 64, "2 runs begin with 'one'", "one-a")
    refused(obzen("inspect", "no/where"), 64, "no directory no/where")
    refused(obzen("inspect", "."), 64, "run")
    refused(obzen("inspect", "one-a", "--stage", "nobody"), 64, "no stage 'nobody'", "numbers, double")
    refused(obzen("inspect", "one-a", "--type", "blocks"), 64, "'blocks'", "receipt")
    refused(obzen("inspect", "one-a", "--from", 9, "--to", 3), 64, "--to 3 lies before --from 9")


@pytest.mark.parametrize("command", ["inspect", "journal check", "resume"])
@pytest.mark.parametrize(("gone", "words"), [("EPOCH", "EPOCH: it is missing"), ("journal/*.seg", "no segment is there")])
def test_a_run_that_was_copied_in_part_is_told_what_is_missing(obzen, command, gone, words):
    obzen.run(HELLO, "--run-id", "r", "-q")
    for path in (obzen.folder / "runs" / "r").glob(gone):
        path.unlink()
    refused(obzen(*command.split(), "r"), 65, words, "obzen journal repair")


SLOW = HEAD + (
    "@oz.sink\ndef stuck(n: int) -> None:\n"
    "    if n == 5:\n        print('at five', flush=True)\n        time.sleep(60)\n\n"
    'flow = oz.Flow("slow", numbers >> double >> total.named("sum") >> show, numbers >> stuck)\n'
)


@pytest.fixture
def living(obzen):
    """A run that stands still in the middle, as a process of its own."""
    obzen.write(SLOW)
    process = spawn("run", "flow.py", "--run-id", "living", "-q", cwd=obzen.folder, stdout=-1, stderr=-1)
    assert process.stdout.readline() == b"at five\n"
    yield process
    process.kill()
    process.communicate()


def test_a_living_run_can_be_read_without_disturbing_it(obzen, living):
    found = events(obzen)
    assert {name for name in found if name.startswith("numbers@")} == {f"numbers@{n}" for n in range(10)}
    assert living.poll() is None
    assert next(line for line in obzen("runs", "--json").lines)["state"] == "running"
    assert obzen("journal", "check", "living").code == 0


def test_the_name_of_a_living_run_is_locked(obzen, living):
    refused(obzen("run", "flow.py", "--run-id", "living"), 75, "run living is running", "--run-id")


def test_a_killed_run_can_be_read(obzen, living):
    living.send_signal(signal.SIGKILL)
    living.wait()
    assert {name for name in events(obzen) if name.startswith("numbers@")} == {f"numbers@{n}" for n in range(10)}
    (line,) = obzen("runs", "--json").lines
    assert (line["state"], line["events"], line["flow"]) == ("crashed", 10, "slow")
    assert obzen("journal", "check", "living").code == 0


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (RunResumed(0, 3, (10, 20), {"b": "x", "a": "y"}), "epoch 3, bytes 10 to 20 of the tail were cut away, with changed code of a, b"),
        (RunForked("new", "old", 0), "new goes on from here with the past of old, delivering nothing"),
        (RunForked("new", "old", 0, live=True), "with the past of old, and delivers"),
        (DeliveryIntent("pay", 0, "orders", 7), "pay is about to deliver orders@7"),
        (DeliveryResolved("pay", 0, "orders", 7, "doubted"), "pay: orders@7 may have been delivered: nobody knows"),
        (DeliveryResolved("pay", 0, "orders", 7, "dead"), "pay: orders@7 is given up, it is decided: a dead letter"),
        (Snapshot("total", "abcdef0123456789", 40, 0), "state of total after 40 inputs: abcdef012345"),
        (Dropped(100, 0), "records below 100 are no longer kept"),
        (Dropped(100, 0, "old"), "records below 100 were moved to old"),
    ],
)
def test_what_happened_to_a_run_over_its_life_is_told_in_words(record, words):
    assert words in record_line(4, record)


def test_a_resumed_run_shows_each_epoch_and_a_fork_where_it_left(tmp_path):
    at = 1_700_000_000_000
    journal = SegmentJournal.open(tmp_path / "r")
    journal.append([RunStarted("r", "f", at, stages=(StageInfo("s", "source"),)), Block("s", 0, 3, at, b"\x93\x01\x02\x03")])
    for epoch in (2, 3):
        journal.append([RunResumed(at, epoch), Block("s", 3 * epoch - 3, 3, at, b"\x93\x01\x02\x03")])
    journal.append([RunForked("r2", "r", at)])

    async def lines():
        told = [
            line async for line in show(SegmentReader.open(tmp_path / "r"), Selection(kinds=frozenset({RunStarted, RunResumed, RunForked})))
        ]
        await journal.close()
        return told

    assert [line.split(maxsplit=3)[2:] for line in asyncio.run(lines())] == [
        ["run.started", "f as r, epoch 1: s"],
        ["run.resumed", "epoch 2"],
        ["run.resumed", "epoch 3"],
        ["run.forked", "r2 goes on from here with the past of r, delivering nothing"],
    ]
