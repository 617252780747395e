"""Annotations are the schema: what is read from them, and what is refused with its fix."""

import dataclasses
import functools
import typing
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable, Iterator
from typing import Annotated, Any, Literal, NewType, Optional, Protocol, TypedDict, TypeVar, Union

import msgspec
import pytest

import obzen_runtime as oz
from obzen_runtime.kernel import UsageError
from obzen_runtime.stages import Context
from obzen_runtime.stages.schema import MISSING, Declared, declare, read_handler

T = TypeVar("T")


class Frozen(msgspec.Struct, frozen=True):
    a: int


@dataclasses.dataclass(frozen=True)
class FrozenData:
    a: int
    b: Frozen


class Record(TypedDict):
    a: int


class Shape(Protocol):
    a: int


class Opaque:
    pass


UserId = NewType("UserId", int)
NestedId = NewType("NestedId", UserId)


def read(handler, events=1):
    return read_handler(handler, events=events, context=Context)


def returning(annotation):
    def handler(x: int): ...

    handler.__annotations__["return"] = annotation
    return read(handler)


@pytest.mark.parametrize(
    ("annotation", "outputs", "optional", "many"),
    [
        (int, [int], False, False),
        (int | None, [int], True, False),
        (Optional[int], [int], True, False),  # noqa: UP045 - the old spelling is the subject
        (Union[int, str], [int, str], False, False),  # noqa: UP007 - likewise
        (int | str | None, [int, str], True, False),
        (Iterator[int], [int], False, True),
        (Iterable[int], [int], False, True),
        (Iterator[int | None], [int], True, True),
        (Generator[int, None, None], [int], False, True),
        (AsyncIterator[int | str], [int, str], False, True),
        (AsyncIterable[int], [int], False, True),
        (AsyncGenerator[int, None], [int], False, True),
        (typing.Iterator[int], [int], False, True),
        (list[int], [list], False, False),
        (tuple[int, str], [tuple], False, False),
        (UserId, [int], False, False),
        (NestedId, [int], False, False),
        (Literal["a", "b"], [str], False, False),
        (Literal["a", 1, True, "b"], [str, int, bool], False, False),
        (Literal["a", None], [str], True, False),
        (Shape, [object], False, False),
        (Record, [dict], False, False),
        (oz.Copied[Any], [object], False, False),
        (Annotated[int, "note"], [int], False, False),
        (None, [], True, False),
        (type(None), [], True, False),
        (Any, [], False, False),
        (object, [], False, False),
        (Frozen | FrozenData, [Frozen, FrozenData], False, False),
        (oz.Copied[dict[str, int]], [dict], False, False),
        (oz.Copied[dict[str, int]] | None, [dict], True, False),
        (Union[int, Union[int, str]], [int, str], False, False),  # noqa: UP007 - likewise
    ],
    ids=str,
)
def test_what_a_return_annotation_says(annotation, outputs, optional, many):
    signature = returning(annotation)
    assert [each.origin for each in signature.outputs] == outputs
    assert (signature.optional, signature.many) == (optional, many)


def test_a_copied_type_is_marked_alone():
    declared = returning(int | oz.Copied[dict[str, int]]).outputs
    assert [each.copied for each in declared] == [False, True]
    assert returning(Annotated[dict[str, int], oz.copied]).outputs == (Declared(dict[str, int], dict, True),)
    assert repr(oz.copied) == "oz.copied"


def test_a_handler_without_a_return_annotation_says_so():
    def handler(x: int): ...

    assert read(handler).outputs is None


def test_a_handler_without_an_event_annotation_takes_anything():
    def handler(x) -> int: ...

    assert read(handler).inputs == ((),)


@pytest.mark.parametrize("shape", [Iterator, Iterable, AsyncIterator, Generator, typing.Iterator, typing.AsyncIterator])
def test_a_stream_of_nothing_said_is_refused_with_the_fix(shape):
    with pytest.raises(UsageError) as refused:
        returning(shape)
    assert "Iterator[T]" in refused.value.remedy


def test_a_coroutine_that_returns_a_stream_is_refused_with_the_fix():
    async def handler(x: int) -> Iterator[int]: ...

    with pytest.raises(UsageError, match="handler") as refused:
        read(handler)
    assert "yield" in refused.value.remedy


def test_a_generator_that_is_not_annotated_as_a_stream_is_refused_with_the_fix():
    def one(x: int) -> int:
        yield x

    async def other(x: int) -> list[int]:
        yield x

    for handler, shape in ((one, "Iterator"), (other, "AsyncIterator")):
        with pytest.raises(UsageError) as refused:
            read(handler)
        assert f"-> {shape}[T]" in refused.value.remedy


def test_a_plain_generator_that_is_annotated_as_an_async_stream_is_refused_with_the_fix():
    def handler(x: int) -> AsyncIterator[int]:
        yield x  # type: ignore[misc]

    with pytest.raises(UsageError, match="Iterator"):
        read(handler)


def test_a_stream_in_a_union_is_refused_with_the_fix():
    with pytest.raises(UsageError, match=r"Iterator\[T \| None\]"):
        returning(Iterator[int] | None)


@pytest.mark.parametrize("annotation", ["int[", "msgspec.Nothing", [int]], ids=str)
def test_an_annotation_that_is_none_is_refused(annotation):
    with pytest.raises(UsageError, match="annotation"):
        returning(annotation)


def test_a_context_that_would_not_be_given_is_refused_with_the_fix():
    def by_keyword(x: int, *, context: Context) -> int: ...
    def perhaps(x: int, context: Context | None = None) -> int: ...
    def first(context: Context, x: int) -> int: ...

    for handler in (by_keyword, perhaps, first):
        with pytest.raises(UsageError, match="behind the event"):
            read(handler)

    def source(context: Context) -> Iterator[int]: ...

    with pytest.raises(UsageError, match="A source has none"):
        oz.source(source)


@pytest.mark.parametrize("kind", [int, str])
def test_a_class_written_in_c_is_refused(kind):
    with pytest.raises(UsageError, match="Wrap it in a function"):
        oz.transform(kind)


def test_a_plain_function_that_returns_an_async_stream_is_asynchronous():
    def handler(x: int) -> AsyncIterator[int]: ...

    assert read(handler).asynchronous


def test_async_shapes_are_told():
    async def one(x: int) -> int: ...

    async def many(x: int) -> AsyncIterator[int]:
        yield x

    assert read(one).asynchronous
    assert read(many).asynchronous
    assert read(many).many
    assert not read(lambda x: x).asynchronous


def test_annotations_may_be_postponed():
    space: dict[str, Any] = {"Frozen": Frozen}
    exec("from __future__ import annotations\ndef handler(x: Frozen) -> Frozen | None: ...", space)
    signature = read(space["handler"])
    assert signature.inputs == ((Declared(Frozen, Frozen),),)
    assert signature.optional


def local_handlers():
    space: dict[str, Any] = {}
    exec(
        """
from __future__ import annotations
import msgspec

def used():
    class Local(msgspec.Struct, frozen=True):
        a: int
    def handler(x: Local) -> Local:
        return Local(x.a)
    return handler

def unused():
    class Local(msgspec.Struct, frozen=True):
        a: int
    def handler(x: Local) -> int:
        return x.a
    return handler

def recursive():
    class Local(msgspec.Struct, frozen=True):
        a: int
    def describe(function):
        return READ(function)
    @describe
    def handler(x: Local) -> Local:
        return handler if x else Local(1)
    return handler
""",
        space,
    )
    return space


def test_a_local_class_in_a_postponed_annotation_is_found_where_the_handler_uses_it():
    space = local_handlers()
    assert read(space["used"]()).inputs[0][0].origin.__name__ == "Local"
    space["READ"] = read
    assert space["recursive"]().outputs[0].origin.__name__ == "Local"
    with pytest.raises(UsageError, match="'Local' cannot be found") as refused:
        read(space["unused"]())
    assert "module level" in refused.value.remedy


def test_parameters_events_and_context_are_told_apart():
    def handler(x: int, y: str, ctx: oz.Context, *, limit: int = 3, name: str) -> int: ...

    signature = read(handler, events=2)
    assert [each[0].origin for each in signature.inputs] == [int, str]
    assert signature.context
    assert {name: each.default for name, each in signature.parameters.items()} == {"limit": 3, "name": MISSING}
    assert signature.parameters["limit"].annotation is int


def test_every_parameter_of_a_source_is_configuration():
    def handler(path: str, limit: int = 3) -> Iterator[int]: ...

    signature = read_handler(handler, events=0, context=Context, every_parameter=True)
    assert list(signature.parameters) == ["path", "limit"]


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        (lambda: 1, "takes 0 positional parameters, expected one event"),
        (lambda x, y: 1, "takes 2 positional parameters, expected one event"),
        (lambda *xs: 1, r"takes \*xs"),
        (lambda x, **more: 1, r"takes \*more"),
    ],
)
def test_another_shape_of_handler_is_refused(handler, why):
    with pytest.raises(UsageError, match=why):
        read(handler)


def test_the_message_says_how_many_events_were_expected():
    for events, text in ((0, "no event"), (2, "2 events")):
        with pytest.raises(UsageError, match=f"expected {text}"):
            read(lambda x: x, events=events)


def test_types_are_called_what_the_user_wrote():
    assert Declared(int, int).text == "int"
    assert Declared(UserId, int).text == "UserId"
    assert Declared(tuple[int, Frozen], tuple).text == "tuple[int, Frozen]"
    assert Declared(tuple[Opaque, ...], tuple).text == "tuple[Opaque, ...]"
    assert Declared(Literal["a"], str).text == "Literal['a']"


def test_something_odd_has_the_class_object():
    assert declare(typing.TypeVar("T"))[0][0].origin is object


def test_a_partial_or_a_builtin_is_no_riddle():
    assert read(len, events=1).inputs == ((),)
    with pytest.raises(UsageError):
        oz.transform(functools.partial(lambda x, y: x, 1))
