"""`obzen trace`: both ways through every kind of stage, against what the events' own parents say."""

import asyncio
import re

import pytest

from obzen_runtime.cli.exact import keyed_stages
from obzen_runtime.cli.loading import load_started
from obzen_runtime.cli.trace import story_lines, traced
from obzen_runtime.events import (
    Block,
    DeliveryIntent,
    DeliveryResolved,
    Receipt,
    RunStarted,
    Slice,
    StageInfo,
)
from obzen_runtime.journal import RunDirectory, SegmentJournal, SegmentReader
from tests.cli.kit import HEAD, HELLO, LETTERS, refused, spawn
from tests.cli.test_check import pruned
from tests.cli.test_inspect import EVERY
from tests.cli.test_process import ENDLESS, ended

KEYED = (
    HEAD
    + """

@oz.source
def orders(count: int = 12) -> Iterator[Order]:
    for n in range(count):
        yield Order(n, "abc"[n % 3], 1.0)

@oz.stateful(key=lambda order: order.customer, emit=oz.at_end())
class Sums:
    count: int = 0

    def fold(self, order: Order) -> None:
        if order.id == 7:
            raise ValueError("seven")
        self.count += 1

    def emit(self, key: str) -> int:
        return self.count

@oz.transform
def half(n: int) -> int | None:
    return n // 2 if n % 2 == 0 else None

flow = oz.Flow("keyed", orders >> Sums >> half >> show)
"""
)


@pytest.fixture
def every(obzen):
    """A finished run with every kind of stage, and its events by id."""
    assert obzen.run(EVERY).code == 0
    return {each["event"]: each for each in obzen("inspect", "--last", "--type", "event", "--json").lines}


def expanded(parents):
    for parent in parents:
        stage, first, last = re.fullmatch(r"(\w+)@(\d+)(?:\.\.(\d+))?", parent).groups()
        yield from (f"{stage}@{number}" for number in range(int(first), int(last or first) + 1))


def tree(node):
    """Every event beneath a node, itself left out."""
    found = set()
    for each in node.get("events", ()):
        found |= {each["event"]} | tree(each)
    return found


def stories(obzen, ids, *, exact=False, few=1 << 60):
    """The stories of these events of the last run, as plain values."""
    run = RunDirectory(next((obzen.folder / "runs").iterdir()))

    async def tell():
        found = {}
        for each in ids:
            stage, _, ordinal = each.partition("@")
            keyed = keyed_stages(load_started(run).flow) if exact else {}
            found[each] = await traced(SegmentReader.open(run.path), (stage, int(ordinal)), few=few, depth=99, exact=keyed)
        return found

    return asyncio.run(tell())


def beneath(node):
    return {each.event for each in node.events}.union(*(beneath(each) for each in node.events))


def parents_in(every):
    """Parents by event: what `top` gives comes of one event, and a stage takes only events of its types."""
    tallied = {"Tally": "Small"}
    found = {}
    for event, told in every.items():
        stage = event.partition("@")[0]
        parents = list(expanded(told["parents"]))
        if stage == "most":
            parents = parents[:1]
        if stage in tallied:
            parents = [each for each in parents if every[each]["type"] == tallied[stage]]
        found[event] = parents
    return found


def test_ancestors_of_every_event_are_what_the_parents_of_parents_say(obzen, every):
    parents = {event: list(expanded(told["parents"])) for event, told in every.items()}
    parents.update({event: found[:1] for event, found in parents.items() if event.startswith("most@")})

    def above(event):
        return set(parents[event]).union(*(above(each) for each in parents[event]))

    ids = [
        f"{stage}@{n}"
        for stage, n in (("numbers", 3), ("thrice", 8), ("odd", 2), ("priced", 7), ("Tally", 3), ("most", 1), ("dead_letters", 4))
    ]
    for event, story in stories(obzen, ids).items():
        assert beneath(story.ancestors) == above(event), event


def test_descendants_of_every_event_are_all_whose_ancestor_it_is(obzen, every):
    parents = parents_in(every)
    children = {}
    for event, found in parents.items():
        for each in found:
            children.setdefault(each, set()).add(event)

    def below(event):
        found = children.get(event, set())
        return found.union(*map(below, found))

    ids = [
        f"{stage}@{n}"
        for stage, n in (("numbers", 3), ("numbers", 9), ("rates", 1), ("orders", 6), ("orders", 7), ("sized", 9), ("large", 13))
    ]
    for event, story in stories(obzen, ids).items():
        assert beneath(story.descendants) == below(event), event
        assert sum(story.counts.values()) == len(below(event))


def test_with_the_code_a_keyed_output_comes_of_its_own_key_alone_both_ways(obzen, every):
    small = [event for event, told in every.items() if event.startswith("sized@") and told["type"] == "Small"]
    ids = {event: every[event]["payload"]["id"] for event in small}
    keys = list(dict.fromkeys(number % 4 for number in ids.values()))
    tallies = [f"Tally@{place}" for place in range(len(keys))]
    found = stories(obzen, [*tallies, *small[:6]], exact=True)
    for place, key in enumerate(keys):
        of_stage = {each for each in beneath(found[f"Tally@{place}"].ancestors) if each.startswith("sized@")}
        assert of_stage == {event for event, number in ids.items() if number % 4 == key}
    for event in small[:6]:
        assert {each for each in beneath(found[event].descendants) if each.startswith("Tally")} == {f"Tally@{keys.index(ids[event] % 4)}"}


def test_without_the_code_the_tree_says_that_it_is_one_of_many(obzen):
    obzen.run(KEYED)
    told = obzen("trace", "--last", "Sums@1")
    assert "comes of  (one or more of 11 inputs; --exact tells which)" in told.out
    exact = obzen("trace", "--last", "Sums@1", "--exact", "--all")
    assert "one or more" not in exact.out
    assert re.findall(r"orders@\d+", exact.out) == ["orders@1", "orders@4", "orders@10"], "an event that could not be folded is no parent"


def test_code_that_changed_since_is_said(obzen):
    obzen.run(KEYED)
    obzen.write(KEYED.replace("order.customer,", "order.id % 3,"))
    assert "the code of Sums has changed" in obzen("trace", "--last", "Sums@1", "--exact").err


def test_the_whole_life_of_an_event_is_a_tree(obzen):
    obzen.run(HELLO)
    lines = [re.sub(r"\d\d:\d\d:\d\d\.\d{3}", "T", line) for line in obzen("trace", "--last", "double@3").out.splitlines()]
    assert lines[0].startswith("double@3  int  6  at T, position ")
    assert lines[1:] == [
        "comes of",
        "  numbers@3  int  3",
        "became",
        "  folded into total at T",
        "  total@0  int  90",
        "    delivered by show at T",
        "in all: 1 of total, 1 folded into total, 1 delivered by show",
    ]


def test_what_gave_nothing_is_told_with_its_reason(obzen):
    obzen.run(KEYED)
    assert "dropped by half at" in obzen("trace", "--last", "Sums@1").out
    dead = obzen("trace", "--last", "orders@7").out
    assert 'dead_letters@0  DeadLetter  {"stage":"Sums","error":"ValueError: seven"}' in dead
    assert "folded" not in dead


def test_a_large_fan_in_shows_the_first_few_and_counts_the_rest(obzen):
    obzen.run(HELLO, "-q", "--set", "numbers.count=30000")
    told = obzen("trace", "--last", "total@0").out
    assert "  … and 29,995 more of double (--all shows them)" in told
    assert told.count("double@") == 5
    last = obzen("trace", "--last", "numbers@29999").out
    assert "  double@29999  int  59998" in last
    assert "    total@0" in last


@pytest.mark.parametrize(
    ("depth", "above", "below"),
    [(1, {"thrice@3"}, {"odd@0"}), (2, {"thrice@3", "numbers@1"}, {"odd@0"})],
)
def test_depth_cuts_the_way_up(obzen, depth, above, below):
    obzen.run(EVERY)
    (told,) = obzen("trace", "--last", "picky@3", "--depth", depth, "--json").lines
    assert (tree(told["ancestors"]), tree(told["descendants"])) == (above, set())
    (told,) = obzen("trace", "--last", "picky@1", "--depth", depth, "--json").lines
    assert tree(told["descendants"]) == below


def test_depth_cuts_the_way_down(obzen):
    obzen.run(EVERY)
    found = [tree(obzen("trace", "--last", "numbers@0", "--depth", n, "--json").lines[0]["descendants"]) for n in (1, 2, 3)]
    assert [len(each) for each in found] == [3, 6, 7]


def test_json_has_both_trees_with_payloads_and_counts(obzen):
    obzen.run(HELLO)
    (told,) = obzen("trace", "--last", "double@3", "--json").lines
    assert (told["counts"], told["ends"]) == ({"total": 1}, {"total": {"folded": 1}, "show": {"delivered": 1}})
    assert told["ancestors"]["events"][0]["payload"] == 3
    assert [each["what"] for each in told["descendants"]["ends"]] == ["folded"]
    assert told["descendants"]["events"][0]["ends"][0]["stage"] == "show"


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ("double@10", ("there is no event double@10", "double gave 10 events")),
        ("nope@1", ("the run has no stage 'nope'", "numbers, double, total, show")),
        ("show@0", ("show has given none",)),
        ("double", ("is not STAGE@NUMBER",)),
        ("double@-1", ("is not STAGE@NUMBER",)),
    ],
)
def test_an_event_that_is_not_there_is_refused_in_words(obzen, event, words):
    obzen.run(HELLO, "--run-id", "r")
    refused(obzen("trace", "r", event), 64, *words)


def test_an_event_whose_records_were_dropped_is_told_apart_from_one_that_never_was(obzen):
    first = asyncio.run(pruned(obzen.folder))
    assert first > 1
    refused(obzen("trace", "p", "s@0"), 64, "s@0 is not kept", f"the first of s that is kept is s@{first - 1}")
    refused(obzen("trace", "p", "s@20"), 64, "there is no event s@20", "s gave 20 events")


def test_no_event_is_refused(obzen):
    obzen.run(HELLO, "--run-id", "r")
    refused(obzen("trace", "r"), 64, "no event is named")


@pytest.mark.parametrize("kill", [False, True])
def test_a_living_and_a_killed_run_are_traced_up_to_now(obzen, kill):
    obzen.write(ENDLESS)
    process = spawn("run", "flow.py", "--run-id", "r", cwd=obzen.folder, stdout=-1, stderr=-1)
    assert [process.stdout.readline() for _ in range(3)] == [b"0\n", b"1\n", b"2\n"]
    if kill:
        process.kill()
        process.wait()
    told = obzen("trace", "r", "endless@0")
    assert (told.code, "delivered by tell" in told.out) == (0, True), told
    process.kill()
    ended(process)


def test_an_event_taken_up_again_names_the_event_it_was(obzen):
    obzen.run(LETTERS, "--run-id", "old")
    obzen.write(LETTERS.replace('raise ValueError(f"no {n}")', "return -n"))
    obzen("dead-letters", "old", "--requeue", "--run-id", "new")
    assert "picky_requeued@1  int  7  taken up from old numbers@7" in obzen("trace", "new", "picky@1").out


def test_a_delivery_in_doubt_is_told(tmp_path):
    at = 1_700_000_000_000
    journal = SegmentJournal.open(tmp_path / "r")
    infos = (StageInfo("s", "source", (), ("int",)), StageInfo("k", "sink", ("s",)))
    journal.append([RunStarted("r", "f", at, stages=infos), Block("s", 0, 3, at, b"\x93\x01\x02\x03")])
    journal.append([Receipt("k", at, (Slice("s", 0, 1),)), DeliveryIntent("k", at, "s", 1), DeliveryResolved("k", at, "s", 1, "doubted")])

    async def tell():
        reader = SegmentReader.open(tmp_path / "r")
        found = [list(story_lines(await traced(reader, ("s", n), few=5, depth=9, exact={}))) for n in range(3)]
        await journal.close()
        return found

    first, second, third = asyncio.run(tell())
    assert any("delivered by k" in line for line in first)
    assert [line.split(" at ")[0].strip() for line in second[2:4]] == ["about to be delivered by k", "perhaps delivered by k: nobody knows"]
    assert "nothing has come of it" in third
