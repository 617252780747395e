"""What can be wrong with a graph is found when the flow is described, all of it at once, with names and fixes."""

import decimal
import re
from collections.abc import Iterator
from typing import Any, Generic, Literal, NewType, TypeVar

import msgspec
import pytest

import obzen_runtime as oz
from obzen_runtime.kernel import ConfigInvalid, FlowInvalid, UsageError


class Base(msgspec.Struct, frozen=True):
    number: int


class Left(Base, frozen=True):
    pass


class Right(Base, frozen=True):
    pass


class Lower(Left, frozen=True):
    pass


T = TypeVar("T")


class Boxed(msgspec.Struct, Generic[T], frozen=True):
    value: T


@oz.source
def s() -> Iterator[int]:
    yield 1


@oz.source
def texts() -> Iterator[str]:
    yield "a"


@oz.source
def both() -> Iterator[Left | Right]:
    yield Left(1)


@oz.source
def bases() -> Iterator[Base]:
    yield Base(1)


@oz.transform
def t(number: int) -> int:
    return number


@oz.transform
def u(number: int) -> int:
    return number


@oz.sink
def k(number: int) -> None:
    pass


@oz.sink
def everything(event) -> None:
    pass


@oz.sink
def lefts(event: Left) -> None:
    pass


@oz.sink
def rights(event: Right) -> None:
    pass


@oz.join(how="inner", stream_key=int, reference_key=int)
def j(one: int, other: int) -> int:
    return one


def problems(*paths, **options):
    with pytest.raises(FlowInvalid) as caught:
        oz.Flow("f", *paths, **options).topology  # noqa: B018 - it is checked when it is asked for
    assert f"{len(caught.value.problems)} problem" in str(caught.value)
    return list(caught.value.problems)


def the_problem(*paths, **options):
    (problem,) = problems(*paths, **options)
    return problem


def test_a_flow_without_stages():
    assert the_problem() == "it has no stages: give it at least one path, such as source >> sink"


def test_a_flow_without_a_source():
    assert problems(t >> k)[0] == "it has no source: begin a path with a function decorated with @oz.source"


def test_a_flow_without_a_sink():
    assert problems(s >> t)[0] == "it has no sink: end a path with a function decorated with @oz.sink"


def test_an_edge_into_a_source():
    assert "the edge t >> texts goes into a source: a source takes no events" in problems(s >> t >> texts >> everything)


def test_an_edge_out_of_a_sink():
    assert "the edge k >> everything leaves a sink: a sink gives no events; use a transform" in problems(s >> k >> everything)


def test_an_edge_that_stands_there_twice():
    assert the_problem(s >> t >> k, t >> k) == "the edge t >> k stands there twice: remove one"


def test_two_stages_of_one_name():
    @oz.transform
    def t(number: int) -> int:  # another one
        return -number

    other, first = t, globals()["t"]
    assert the_problem(s >> first >> k, s >> other >> k)[:55] == "two stages are called 't': rename one with .named('...')"[:55]
    oz.Flow("f", s >> first >> k, s >> other.named("minus") >> k)


def test_two_selections_of_one_name_are_two_stages():
    def by(number):
        return number

    found = problems(s >> oz.top(3, by=by) >> k, s >> oz.top(5, by=by) >> everything)
    assert any("two stages are called 'top'" in each for each in found)


def test_a_cycle_is_named_stage_by_stage():
    found = problems(s >> t >> u >> k, u >> t)
    assert "it goes round in a circle: t >> u >> t: take out one of these edges" in found
    assert "it goes round in a circle: t >> t: take out one of these edges" in problems(s >> t >> k, t >> t)


def test_a_stage_that_no_source_reaches():
    assert "stage 'u' is not reached by any source: join it behind one" in problems(s >> k, u >> k)


def test_a_stage_that_reaches_no_sink():
    assert the_problem(s >> k, s >> t) == "stage 't' reaches no sink: join one behind it"


def test_a_source_that_reaches_no_sink_is_named():
    assert "stage 'texts' reaches no sink: join one behind it" in problems(s >> k, texts)


def test_a_flow_in_two_parts():
    assert the_problem(s >> k, texts >> everything) == (
        "it falls apart: everything, texts are not connected to s: make a flow of its own of each part"
    )


def test_dead_letters_connect_to_every_part_but_hold_no_parts_together_by_accident():
    oz.Flow("f", s >> k, oz.dead_letters >> everything)


@pytest.mark.parametrize(("wired", "missing"), [("stream", "reference"), ("reference", "stream")])
def test_a_join_without_one_of_its_sides(wired, missing):
    assert f"join 'j' has nothing on its {missing} side: wire it with `... >> j.{missing}`" in problems(s >> getattr(j, wired), j >> k)


def test_a_join_with_two_references():
    first, second = s.named("a"), s.named("b")
    found = problems([first, second] >> j.reference, s >> j.stream, j >> k)
    assert "join 'j' has 2 references (a, b): join them in a transform first" in found


def test_parameters_without_a_value():
    @oz.source
    def rows(path: str, limit: int = 3, *, delimiter: str) -> Iterator[int]:
        yield limit

    assert problems(rows >> k) == [
        "stage 'rows' needs its parameter 'path': bind it with rows(path=...) or --set rows.path=...",
        "stage 'rows' needs its parameter 'delimiter': bind it with rows(delimiter=...) or --set rows.delimiter=...",
    ]


def test_types_that_cannot_pass():
    assert the_problem(texts >> t >> k) == "texts >> t: texts gives str, t takes int: no event would ever pass"


def test_a_type_that_nobody_takes():
    found = the_problem(both >> lefts)
    assert found == "stage 'both' gives Right, which none of lefts takes: join a stage that does, or add oz.ignored(Right) to the flow"
    oz.Flow("f", both >> lefts, oz.ignored(Right))
    oz.Flow("f", both >> [lefts, rights])
    oz.Flow("f", both >> [lefts, everything])


def test_a_function_that_does_not_say_what_it_gives():
    @oz.transform
    def silent(number: int):
        return number

    assert "stage 'silent' does not say what it gives: annotate what its function returns" in problems(s >> silent >> k)


@pytest.mark.parametrize("kind", [list[int], dict[str, int], set[int], complex], ids=str)
def test_a_payload_that_does_not_survive_the_log(kind):
    def given(number: int):
        return number

    given.__annotations__["return"] = kind
    found = problems(s >> oz.transform(given) >> everything)
    assert any(each.startswith("stage 'given': ") for each in found), found


def test_a_payload_that_may_be_anything_is_refused():
    @oz.transform
    def given(number: int) -> Any:
        return number

    assert any(each.startswith("stage 'given' does not say what it gives") for each in problems(s >> given >> everything))


Number = NewType("Number", int)


@pytest.mark.parametrize("kind", [tuple[int, ...] | tuple[str, ...], Literal["a"] | str, Boxed[int] | Boxed[str]], ids=str)
def test_two_payloads_of_one_class_cannot_be_told_apart(kind):
    def given(number: int):
        return number

    given.__annotations__["return"] = kind
    found = the_problem(s >> oz.transform(given) >> everything)
    assert re.match(r"stage 'given' gives .+ and .+, which are both (tuple|str|Boxed) when they run: give each a struct of", found)


def test_names_for_one_type_are_one_payload():
    @oz.transform
    def given(number: int) -> int | Number:
        return number

    oz.Flow("f", s >> given >> k)


def test_a_return_annotation_that_is_a_value_is_a_problem_like_any_other():
    def given(number: int):
        return number

    given.__annotations__["return"] = 5
    assert "stage 'given': 5 cannot cross an edge" in the_problem(s >> oz.transform(given) >> everything)


@pytest.mark.parametrize("kind", [oz.Copied[list[int]], decimal.Decimal, tuple[int, ...], Base, bytes])
def test_a_payload_that_survives_it(kind):
    def given(number: int):
        return number

    given.__annotations__["return"] = kind
    oz.Flow("f", s >> oz.transform(given) >> everything)


def test_five_faults_come_in_one_error():
    @oz.source
    def rows(path: str) -> Iterator[int]:
        yield 1

    found = problems(s >> t >> k, t >> k, t >> t, rows >> k, k >> everything, u >> k)
    for part in (
        "the edge t >> k stands there twice",
        "the edge k >> everything leaves a sink",
        "stage 'u' is not reached by any source",
        "it goes round in a circle: t >> t",
        "stage 'rows' needs its parameter 'path'",
    ):
        assert sum(part in each for each in found) == 1, (part, found)
    assert all(": " in each for each in found), "each names what is wrong and what to do"


def test_types_are_judged_also_where_the_flow_goes_round_in_a_circle():
    @oz.transform
    def given(number: int) -> list[int]:
        return [number]

    found = problems(s >> t >> u >> given >> everything, u >> t, texts >> t)
    for part in ("it goes round in a circle: t >> u >> t", "stage 'given': list[int] cannot cross", "texts >> t: texts gives str"):
        assert sum(part in each for each in found) == 1, (part, found)
    assert len(found) == 3


def test_what_stands_in_a_circle_is_judged_by_what_it_says_itself():
    found = problems(s >> t >> oz.top(3, by=int) >> u >> k, u >> t)
    assert found == ["it goes round in a circle: t >> top >> u >> t: take out one of these edges"]


@pytest.mark.parametrize("kind", ["Right", 3, Left(1), int | str], ids=str)
def test_what_is_ignored_is_a_class(kind):
    with pytest.raises(UsageError, match="is not a class"):
        oz.ignored(kind)


def test_a_flow_that_lacks_only_parameters_may_be_described_and_bound_later():
    @oz.source
    def rows(path: str) -> Iterator[int]:
        yield 1

    flow = oz.Flow("f", rows >> k)
    with pytest.raises(FlowInvalid, match="1 problem"):
        flow.topology  # noqa: B018 - it is checked when it is asked for
    assert flow.bind({"rows": {"path": ["x"]}}).topology.nodes["rows"].bound == {"path": "x"}


def test_other_faults_are_told_at_once_with_the_parameters():
    @oz.source
    def rows(path: str) -> Iterator[int]:
        yield 1

    with pytest.raises(FlowInvalid) as caught:
        oz.Flow("f", rows >> t)
    assert any("needs its parameter" in each for each in caught.value.problems)


# -- joins that need the log ----------------------------------------------------------------------


def joined(name):
    return j.named(name)


def overflow(*paths):
    return oz.Flow("f", *paths).topology.overflow


def test_a_join_of_two_sources_needs_no_log():
    assert overflow(s >> j.stream, s.named("r") >> j.reference, j >> k) == ()


def test_a_diamond_into_a_join_needs_the_log():
    assert overflow(s >> t >> j.stream, s >> u >> j.reference, j >> k) == ("j",)
    assert overflow(s >> t >> j.stream, s >> j.reference, j >> k) == ("j",)


def test_a_join_that_reads_one_stage_on_both_sides():
    found = the_problem(s >> j.stream, s >> j.reference, j >> k)
    assert found == "join 'j' reads s on both sides: put a transform between them on one side"


def test_two_joins_that_wait_for_each_other_need_the_log():
    a, b = s.named("a"), s.named("b")
    one, other = joined("one"), joined("other")
    assert set(overflow(a >> one.stream, b >> one.reference, b >> other.stream, a >> other.reference, [one, other] >> k)) == {
        "one",
        "other",
    }


def test_two_joins_in_a_row_need_no_log():
    one, other = joined("one"), joined("other")
    paths = [s >> one.stream, s.named("r") >> one.reference, one >> other.stream, s.named("q") >> other.reference, other >> k]
    assert overflow(*paths) == ()


def test_a_flow_that_needs_the_log_is_refused_by_a_journal_that_forgets():
    flow = oz.Flow("f", s >> t >> j.stream, s >> j.reference, j >> k)
    with pytest.raises(FlowInvalid) as caught:
        oz.start(flow, journal=oz.MemoryJournal())
    (problem,) = caught.value.problems
    assert "the stream side of j waits for a reference that it feeds itself" in problem
    assert "MemoryJournal(keep=True)" in problem
    oz.start(flow, journal=oz.MemoryJournal(keep=True))


# -- the stream of dead letters -------------------------------------------------------------------


def test_nothing_is_sent_into_the_dead_letters():
    found = problems(s >> t >> [k, oz.dead_letters], oz.dead_letters >> everything)
    assert "the edge t >> dead_letters goes into the dead letters: raise an error in the stage, or yield oz.Bad in a source" in found


def test_the_dead_letters_keep_their_name():
    assert the_problem(s >> k, oz.dead_letters.named("post") >> everything) == (
        "the dead letters are renamed to 'post': use oz.dead_letters as it is"
    )


def test_no_other_stage_takes_their_name():
    assert the_problem(s >> t.named("dead_letters") >> k) == "a stage is called 'dead_letters', which is the flow's own: rename it"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("max_dead_letters", each) for each in (-1, 0.0, 1.0, -0.5, 2.5, float("nan"), True, "3")),
        *(("stall_after", each) for each in (0.0, -1.0, float("nan"), "3", True)),
        *(("window", each) for each in (8192, None)),
        *(("restart", each) for each in ("one_for_all", None)),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(option, value):
    with pytest.raises(ConfigInvalid, match=option):
        oz.Flow("f", s >> k, **{option: value})
