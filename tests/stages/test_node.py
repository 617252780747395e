"""Descriptions: frozen values that bind, rename and join; nothing runs when they are made."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Any

import pytest

import obzen_runtime as oz
from obzen_runtime.kernel import UsageError
from obzen_runtime.stages import Path


@oz.source
def numbers(count: int, *, start: int = 0) -> Iterator[int]:
    yield from range(start, start + count)


@oz.transform
def scale(x: int, *, by: int = 2, names: tuple[str, ...] = (), where: FilePath = FilePath(), any_: Any = None) -> int:
    return x * by


@oz.sink
def show(x: int) -> None: ...


@oz.join(stream_key=abs, reference_key=abs)
def price(a: int, b: int) -> int: ...


def links(path):
    return [(link.source.name, link.target.name, link.port) for link in path.links]


def test_a_decorator_keeps_the_function_and_calls_nothing():
    assert scale.handler(3, by=5) == 15
    assert list(numbers.handler(2)) == [0, 1]
    assert repr(scale.name) == "'scale'"


def test_a_description_cannot_be_changed_or_called_as_its_function():
    with pytest.raises(dataclasses.FrozenInstanceError):
        scale.name = "other"
    with pytest.raises(TypeError, match=r"scale.handler\(\.\.\.\)"):
        scale(3)
    bound = scale(by=3)
    with pytest.raises(TypeError):
        bound.bound["by"] = 4
    assert scale.bound == {}
    assert bound(names=("a",)).bound == {"by": 3, "names": ("a",)}


def test_an_unknown_parameter_is_told_with_those_there_are():
    with pytest.raises(TypeError, match="no parameter 'size'; it has: by, names"):
        scale(size=3)
    with pytest.raises(TypeError, match="it has: none"):
        show(size=3)
    assert numbers.unbound == ("count",)
    assert numbers(count=3).unbound == ()


@pytest.mark.parametrize(
    ("parameter", "texts", "value"),
    [
        ("by", ["3"], 3),
        ("names", ['["a", "b"]'], ("a", "b")),
        ("names", ["a", "b"], ("a", "b")),
        ("names", ["a"], ("a",)),
        ("where", ["a/b.csv"], FilePath("a/b.csv")),
        ("any_", ["3"], 3),
        ("any_", ["x"], "x"),
    ],
)
def test_a_text_is_json_when_that_fits_and_text_otherwise(parameter, texts, value):
    assert scale.bind_text(parameter, texts).bound == {parameter: value}


@pytest.mark.parametrize(
    ("parameter", "texts", "why"), [("by", ["x"], "'x' is not a value of type int"), ("by", ["1", "2"], r"\['1', '2'\]")]
)
def test_a_text_that_does_not_fit_is_told_with_stage_and_type(parameter, texts, why):
    with pytest.raises(UsageError, match=rf"scale\.{parameter}: .*{why}"):
        scale.bind_text(parameter, texts)


def test_a_text_for_no_parameter_is_refused():
    with pytest.raises(UsageError, match="no parameter 'size'") as refused:
        scale.bind_text("size", ["1"])
    assert "by" in refused.value.remedy
    with pytest.raises(UsageError) as refused:
        show.bind_text("size", ["1"])
    assert "none" in refused.value.remedy


def given(event: int) -> int:
    return event


@pytest.mark.parametrize(
    ("describe", "said"),
    [
        (lambda: oz.transform(on_error="ignore")(given), "on_error='ignore' is not a policy .* Give one of dead_letter, fail, skip"),
        (lambda: show.named(5), "stage name 5 is not allowed. Use letters, digits and _"),
        (lambda: show.named("a b"), "stage name 'a b' is not allowed. Use letters, digits and _"),
        (lambda: oz.sink(on_error=None)(given), "on_error=None is not a policy"),
        (lambda: oz.join(stream_key=abs, reference_key=abs, on_error="x")(show.handler), "on_error='x' is not a policy"),
        (lambda: oz.stateful(key=abs, emit=oz.each(), on_error="raise"), "on_error='raise' is not a policy"),
        (lambda: oz.transform(retry=3)(given), r"given: retry=3 is not a policy. Give an oz.Retry"),
        (lambda: oz.sink(executor=4)(given), r"given: executor=4 is not an executor. Give oz.threads\(n\)"),
        (lambda: oz.fold(0, emit=oz.each), r"emit=<function each .* Write oz.at_end\(\), oz.each\(\) or oz.every\(n\)"),
        (lambda: oz.stateful(key=abs, emit="end"), "emit='end' does not say when to give"),
        (lambda: oz.stateful(key="id", emit=oz.each()), "key='id' is not a function. Write key=lambda event"),
        (lambda: oz.top(3, by=None), "by=None is not a function"),
        (lambda: oz.join(stream_key=None, reference_key=abs), "stream_key=None is not a function"),
        (lambda: oz.join(stream_key=abs, reference_key="id"), "reference_key='id' is not a function"),
    ],
)
def test_what_a_decorator_cannot_use_is_refused_where_it_stands(describe, said):
    with pytest.raises(UsageError, match=said):
        describe()


def test_a_lambda_is_told_to_have_no_name():
    with pytest.raises(UsageError, match="Write a def"):
        oz.transform(lambda event: event)


def test_names_are_plain():
    assert scale.named("other_1").name == "other_1"
    for name in ("", "a b", "1a", "a" * 64, "a-b"):
        with pytest.raises(UsageError, match="not allowed"):
            scale.named(name)
    with pytest.raises(UsageError, match="not allowed"):
        oz.transform(lambda x: x)


def test_stages_paths_lists_and_ports_are_joined():
    assert links(numbers >> scale >> show) == [("numbers", "scale", ""), ("scale", "show", "")]
    other = numbers.named("other")
    assert links([numbers, other] >> scale) == [("numbers", "scale", ""), ("other", "scale", "")]
    assert links([numbers, other >> scale] >> show) == [("other", "scale", ""), ("numbers", "show", ""), ("scale", "show", "")]
    assert links(numbers >> [scale, show]) == [("numbers", "scale", ""), ("numbers", "show", "")]
    assert links(numbers >> price.reference) == [("numbers", "price", "reference")]
    assert links([numbers, other] >> price.reference) == [("numbers", "price", "reference"), ("other", "price", "reference")]
    assert links(numbers >> price) == [("numbers", "price", "stream")]
    assert set(links([numbers] >> (scale >> show))) == {("scale", "show", ""), ("numbers", "scale", "")}
    assert links(numbers >> (scale, show)) == [("numbers", "scale", ""), ("numbers", "show", "")]


def test_joining_makes_every_edge_once_whatever_the_grouping():
    b, c = scale.named("b"), scale.named("c")
    grouped = [numbers >> scale >> b >> c >> show, (numbers >> scale) >> (b >> (c >> show)), numbers >> (scale >> (b >> c)) >> show]
    assert len({frozenset(links(path)) for path in grouped}) == 1
    assert all(len(links(path)) == 4 for path in grouped)


def test_what_is_no_stage_is_told_so():
    def plain(x: int) -> int: ...

    with pytest.raises(TypeError, match="plain is not a stage; decorate it"):
        numbers >> plain
    with pytest.raises(TypeError, match="3 is not a stage"):
        Path.of(3)
    with pytest.raises(UsageError, match="empty list"):
        numbers >> []


def test_what_a_node_takes_and_gives_is_read_from_its_signature():
    assert [each.origin for each in scale.accepts("")] == [int]
    assert numbers.accepts("") == ()
    assert price.ports == ("reference", "stream")
    assert numbers.ports == ()
    assert show.outputs(()) == ()
