"""Every sentence of the judge is said when it is true: each is shown evidence that was changed for it alone."""

from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

import obzen_runtime as oz
from obzen_runtime.events import DeadLetter
from obzen_runtime.kernel import ErrorInfo
from obzen_runtime.testing import Simulator
from obzen_runtime.testing.evidence import Evidence, Reference, Sinks, differences, evidence_on, orphans, rules, sinks
from obzen_runtime.testing.flows import FLOWS
from obzen_runtime.testing.world import Place, encoded

NUMBERS = [1, 2, 3]


def evidence(numbers=NUMBERS, letters=0, undelivered=None):
    error = ErrorInfo(kind="PERMANENT", code="permanent", message="no")
    given = [DeadLetter(ordinal=each, stage="numbers", at=0, error=error) for each in range(letters)]
    streams = {"numbers": list(map(encoded, numbers))}
    return Evidence(streams, {"numbers": [0] * len(numbers)}, given, {}, undelivered or {}, Counter(), Counter())


@pytest.mark.parametrize(
    ("level", "found", "said"),
    [
        ("exact", [1, 2], "numbers lost 1 event, the first is numbers@2: 3"),
        ("exact", [1, 2, 3, 3], "numbers wrote 1 event too many, the first is numbers@3: 3"),
        ("exact", [1, 3, 2], "numbers@1 is 3, without a crash 2"),
        ("exact", [1, 3], "numbers@1 is 3, without a crash 2; it has 2 events, 3 without a crash"),
        ("multiset", [3, 2, 1], None),
        ("multiset", [3, 2, 1, 3], "stage numbers wrote 3 twice, once is right"),
        ("multiset", [3, 2], "stage numbers wrote 1 never, once is right"),
        ("count", [4, 5, 6], None),
        ("count", [4, 5], "numbers wrote 2 events, 3 without a crash"),
        ("none", [], None),
    ],
)
def test_a_stream_is_held_to_the_undisturbed_one_as_far_as_that_is_sure(level, found, said):
    wrong = differences(Reference(evidence(), {}, {"numbers": level}), evidence(found))
    assert wrong == ([said] if said else [])


def test_dead_letters_are_held_to_the_undisturbed_ones():
    assert differences(Reference(evidence(letters=2), {}, {"numbers": "exact"}), evidence(letters=1)) == [
        "numbers has 1 dead letters, 2 without a crash"
    ]


def test_what_is_taken_twice_or_was_never_written_breaks_a_rule():
    simulator = Simulator(FLOWS["transform"])
    disk = simulator.history(simulator.plan(0)).machine.disk
    found = evidence_on(disk)
    assert rules(disk, found) == []
    first = found.taken["odd", "numbers"][0]
    found.taken["odd", "numbers"].append(first)
    found.taken["double", "odd"].append((1000, 1001))
    found.ends["odd", "numbers"] += 1
    written = len(found.streams["odd"])
    assert rules(disk, found) == [
        "odd took the natural end of numbers twice",
        "odd took numbers@0 twice",
        f"double took odd@1000, which was never written: odd has {written} events",
    ]


@oz.source
def numbers() -> Iterator[int]:
    yield from NUMBERS


def flow_of(delivery, stand_in=None):
    if delivery == "keyed":

        @oz.sink(delivery="keyed", simulate=stand_in)
        def store(number: int, *, key: oz.IdempotencyKey) -> None: ...

    else:

        @oz.sink(delivery=delivery, simulate=stand_in)
        def store(number: int) -> None: ...

    return oz.Flow("f", numbers >> store)


def place_of(rows, clashes=()):
    place = Place()
    place.rows = list(map(encoded, rows))
    place.clashes = list(clashes)
    place.writers = {"store"}
    return place


def known(rows, *, undelivered=None, missing=1, lossy=False, sure="exact", clashes=(), undisturbed=NUMBERS):
    reference = Reference(evidence(), {"store": place_of(undisturbed)}, {"numbers": "exact", "store": sure})
    told = evidence(undelivered={("store", "numbers"): undelivered} if undelivered else None)
    places = {"store": place_of(rows, clashes)} if rows is not None else {}
    edges = [SimpleNamespace(source="numbers", target="store", routed=None)]
    return Sinks(reference, told, places, edges, lambda stage, index: int, missing, lossy)


@pytest.mark.parametrize(
    ("delivery", "rows", "options", "said"),
    [
        ("safe", [1, 2, 3, 3], {}, None),
        ("safe", [1, 2], {}, "sink store (safe) delivered 3 never, once is right"),
        ("safe", [1, 2, 3, 4], {}, "sink store delivered 4, which is not an event of the journal"),
        (
            "safe",
            [1, 2, 3, 3],
            {"missing": 0},
            "sink store (safe) delivered 1 event again, at most 0 can be without a receipt",
        ),
        ("safe", [1, 2, 3, 4], {"lossy": True}, None),
        ("safe", [1, 3], {"lossy": True}, "sink store (safe) delivered 2 never, once is right"),
        ("safe", None, {}, "sink store (safe) delivered 1 never, once is right"),
        ("sensitive", [1, 2, 3], {"undelivered": {2: "doubted"}}, None),
        ("sensitive", [1, 2], {"undelivered": {2: "doubted"}}, None),
        ("sensitive", [1, 2, 3, 3], {"undelivered": {2: "doubted"}}, "sink store (sensitive) delivered 3 twice, once is right"),
        ("sensitive", [1, 2], {}, "sink store (sensitive) delivered 3 never, once is right"),
        ("keyed", [1, 2, 3], {}, None),
        ("keyed", [1, 2, 3, 3], {}, "sink store (keyed) delivered 3 twice, once is right"),
        ("keyed", [1, 2, 3], {"clashes": ["k"]}, "sink store was given another event under the key k than before the crash"),
        ("keyed", [1, 2, 3], {"clashes": ["k"], "lossy": True}, None),
    ],
)
def test_a_sink_is_held_to_its_class_of_delivery(delivery, rows, options, said):
    assert sinks(flow_of(delivery), known(rows, **options)) == ([said] if said else [])


def put(number: int) -> None: ...


def put_keyed(number: int, *, key: oz.IdempotencyKey) -> None: ...


@pytest.mark.parametrize(
    ("delivery", "rows", "options", "said"),
    [
        ("safe", [1, 2, 3, 3], {}, None),
        ("safe", [1, 2], {}, "sink store says it is safe: in store there is 3 never, once is right"),
        ("safe", None, {}, "sink store never wrote to store"),
        ("keyed", [1, 2, 3, 3], {}, "sink store says it is keyed: in store there is 3 twice, once is right"),
        ("keyed", [1, 2, 3, 3], {"sure": "count"}, None),
        ("keyed", [1, 2, 3, 3], {"sure": "multiset", "lossy": True}, None),
        ("sensitive", [1, 2], {}, None),
        ("sensitive", [1, 2, 3, 3], {}, "sink store says it is sensitive: in store there is 3 twice, once is right"),
    ],
)
def test_a_stand_in_of_the_user_is_held_to_what_it_did_undisturbed(delivery, rows, options, said):
    stand_in = put_keyed if delivery == "keyed" else put
    assert sinks(flow_of(delivery, stand_in), known(rows, **options)) == ([said] if said else [])


def test_a_delivery_of_which_no_durable_record_tells_is_an_orphan():
    one = Counter(map(encoded, [1, 2, 3, 3]))
    assert orphans(flow_of("safe"), known(None), {"store": one}) == []
    assert orphans(flow_of("keyed"), known(None), {"store": one}) == ["sink store delivered 3, and no durable record tells of it"]
    assert orphans(flow_of("safe"), known(None), {"store": Counter([encoded(9)])}) == [
        "sink store delivered 9, and no durable record tells of it"
    ]
