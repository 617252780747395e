"""A handler's annotations are its schema: read once, when it is described, and checked when the flow is built."""

import contextlib
import inspect
import re
import types
import typing
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping
from typing import Annotated, Any, Final, NamedTuple, TypeVar, Union

from obzen_runtime.kernel import UsageError
from obzen_runtime.stages.items import At

__all__ = [
    "MISSING",
    "Copied",
    "Declared",
    "Parameter",
    "Signature",
    "closure_of",
    "copied",
    "declare",
    "hints_of",
    "read_handler",
    "renamed",
    "text_of",
]

T = TypeVar("T")


class _Copied:
    def __repr__(self) -> str:
        return "oz.copied"


copied: Final = _Copied()
"""Marks a payload type that may change: `Annotated[dict[str, int], oz.copied]`. Consumers get decoded copies."""

Copied = Annotated[T, copied]
"""`oz.Copied[dict[str, int]]` is short for `Annotated[dict[str, int], oz.copied]`."""

MISSING: Final = object()
"""No default: the parameter must be bound."""


class Declared(NamedTuple):
    """One declared payload type."""

    annotation: Any
    """As written, for the codec."""
    origin: type
    """The class an event of this type has."""
    copied: bool = False

    @property
    def text(self) -> str:
        """How the type is called in messages."""
        return text_of(self.annotation)


class Parameter(NamedTuple):
    """One configuration parameter of a handler."""

    name: str
    annotation: Any
    default: Any = MISSING


class Signature(NamedTuple):
    """What a handler's annotations say."""

    inputs: tuple[tuple[Declared, ...], ...]
    """Declared types of each event parameter; an empty tuple takes anything."""
    outputs: tuple[Declared, ...] | None
    """Declared output types; None when the handler is not annotated."""
    optional: bool
    """Returning None drops the event."""
    many: bool
    """A generator: any number of outputs for one event."""
    asynchronous: bool
    context: bool
    """The handler takes the context behind its events."""
    parameters: Mapping[str, Parameter]


_ASYNC_STREAMS = (AsyncIterator, AsyncIterable, AsyncGenerator)
_STREAMS = (Iterator, Iterable, Generator, *_ASYNC_STREAMS)
_MODULES = re.compile(r"(?:[A-Za-z_<][\w<>]*\.)+(?=[A-Za-z_])")


def read_handler(handler: Callable[..., Any], *, events: int, context: type, every_parameter: bool = False) -> Signature:
    """Read a handler that takes `events` event parameters, then perhaps one of type `context`.

    Keyword-only parameters are configuration; with `every_parameter` (a source) all are.
    Raises `UsageError` naming the handler when its shape is not that.
    """
    name = getattr(handler, "__name__", str(handler))
    hints = hints_of(handler)
    positional, parameters = _split(handler, name, hints, every_parameter)
    wants_context = False
    if positional and hints.get(positional[-1]) is context:
        wants_context = True
        positional = positional[:-1]
    elsewhere = next((each for each in (*positional, *parameters) if _mentions(hints.get(each), context)), None)
    if elsewhere is not None:
        raise UsageError(
            f"handler {name!r} takes the context as {elsewhere!r}, where it is not given",
            remedy="Make it the last positional parameter, behind the event: `context: oz.Context`. A source has none.",
        )
    if len(positional) != events:
        expected = "no event" if events == 0 else "one event" if events == 1 else f"{events} events"
        raise UsageError(
            f"handler {name!r} takes {len(positional)} positional parameters, expected {expected}",
            remedy="Configuration goes into keyword-only parameters; annotate the context as oz.Context.",
        )
    inputs = tuple(declare(hints[each])[0] if each in hints else () for each in positional)
    outputs, optional, many = _outputs(name, hints)
    asynchronous = _is_async(handler, name, typing.get_origin(hints.get("return")) in _ASYNC_STREAMS, many)
    return Signature(inputs, outputs, optional, many, asynchronous, wants_context, parameters)


def _is_async(handler: Callable[..., Any], name: str, streams_async: bool, many: bool) -> bool:
    """Whether a handler is waited for. Raises `UsageError` when it is defined as something else than it is annotated."""
    coroutine, generator = inspect.iscoroutinefunction(handler), inspect.isgeneratorfunction(handler)
    async_generator = inspect.isasyncgenfunction(handler)
    if many and coroutine:
        raise UsageError(f"handler {name!r} is async def and returns a stream", remedy="Give each event with `yield` instead of `return`.")
    if not many and (generator or async_generator):
        stream = "AsyncIterator" if async_generator else "Iterator"
        raise UsageError(f"handler {name!r} is a generator and not annotated as a stream", remedy=f"Annotate it `-> {stream}[T]`.")
    if streams_async and generator:
        raise UsageError(
            f"handler {name!r} is annotated as an async stream and is not async", remedy="Write `async def`, or `-> Iterator[T]`."
        )
    return coroutine or async_generator or streams_async


def _split(
    handler: Callable[..., Any], name: str, hints: Mapping[str, Any], every_parameter: bool
) -> tuple[list[str], dict[str, Parameter]]:
    positional: list[str] = []
    parameters: dict[str, Parameter] = {}
    try:
        taken = inspect.signature(handler).parameters.values()
    except (TypeError, ValueError) as error:  # a class written in C
        raise UsageError(f"the parameters of {name!r} cannot be read", remedy="Wrap it in a function with annotations.") from error
    for each in taken:
        if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
            raise UsageError(f"handler {name!r} takes *{each.name}: its parameters must be named one by one")
        if each.kind is each.KEYWORD_ONLY or every_parameter:
            default = MISSING if each.default is each.empty else each.default
            parameters[each.name] = Parameter(each.name, hints.get(each.name, Any), default)
        else:
            positional.append(each.name)
    return positional, parameters


def _mentions(annotation: Any, wanted: type) -> bool:
    return annotation is wanted or wanted in typing.get_args(annotation)


def hints_of(handler: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function, or of a class's constructor, evaluated. Raises `UsageError`."""
    if inspect.isclass(handler):
        handler = handler.__init__
    try:
        return typing.get_type_hints(handler, include_extras=True)
    except (SyntaxError, AttributeError) as error:
        name = getattr(handler, "__name__", handler)
        raise UsageError(f"handler {name!r} has an annotation that cannot be read: {error}", remedy="Annotate it with types.") from error
    except TypeError as error:
        raise UsageError(f"{handler!r} is not a function", remedy="Decorate a function defined with def.") from error
    except NameError as error:  # a class defined inside a function, named in a postponed annotation
        try:
            return typing.get_type_hints(handler, localns=closure_of(handler), include_extras=True)
        except NameError:
            raise UsageError(
                f"handler {getattr(handler, '__name__', handler)!r}: annotation {error.name!r} cannot be found",
                remedy="Define the type at module level, or do not postpone annotations.",
            ) from error


def closure_of(handler: Callable[..., Any]) -> dict[str, Any]:
    """What a function uses of the functions around it, such as what a decorator wraps."""
    found: dict[str, Any] = {}
    names = handler.__code__.co_freevars if inspect.isfunction(handler) else ()
    for name, cell in zip(names, getattr(handler, "__closure__", None) or (), strict=False):
        with contextlib.suppress(ValueError):  # not assigned yet
            found[name] = cell.cell_contents
    return found


def _outputs(name: str, hints: Mapping[str, Any]) -> tuple[tuple[Declared, ...] | None, bool, bool]:
    if "return" not in hints:
        return None, False, False
    annotation = hints["return"]
    many = annotation in _STREAMS or typing.get_origin(annotation) in _STREAMS
    if many:
        arguments = typing.get_args(annotation)
        if not arguments:
            raise UsageError(f"handler {name!r} does not say of what it gives a stream", remedy="Annotate it `-> Iterator[T]`.")
        annotation = arguments[0]
    declared, optional = declare(annotation)
    if not many and any(each.origin in _STREAMS for each in declared):
        raise UsageError(f"handler {name!r} gives a stream or something else", remedy="Annotate it `-> Iterator[T | None]`: None drops.")
    return declared, optional, many


def declare(annotation: Any) -> tuple[tuple[Declared, ...], bool]:
    """The members of a union as declared types, and whether None is one of them."""
    if annotation is Any or annotation is inspect.Parameter.empty or annotation is object:
        return (), False
    if typing.get_origin(annotation) is At:
        return declare(typing.get_args(annotation)[1])
    if typing.get_origin(annotation) is typing.Literal:
        annotation = _literals(annotation)
    marked = typing.get_origin(annotation) is Annotated and any(extra is copied for extra in typing.get_args(annotation)[1:])
    bare = typing.get_args(annotation)[0] if marked else annotation
    if not marked and typing.get_origin(annotation) in (Union, types.UnionType):
        members = typing.get_args(annotation)
        found: list[Declared] = []
        for member in members:
            if member is not type(None):
                found.extend(each for each in declare(member)[0] if each not in found)
        return tuple(found), type(None) in members
    if annotation is None or annotation is type(None):
        return (), True
    try:
        hash(bare)
    except TypeError as error:
        raise UsageError(f"the annotation {bare!r} is not a type", remedy="Write list[int], not [int].") from error
    return (Declared(bare, _origin(bare), marked),), False


def _literals(annotation: Any) -> Any:
    """A Literal of values of several classes as a union of Literals of one each: an event is known by its class."""
    values: dict[type, list[Any]] = {}
    for value in typing.get_args(annotation):
        values.setdefault(type(value), []).append(value)
    if len(values) == 1 and type(None) not in values:
        return annotation
    return Union[tuple(None if kind is type(None) else typing.Literal[tuple(some)] for kind, some in values.items())]  # noqa: UP007


def text_of(annotation: Any) -> str:
    """How a type is called in messages: as it was written, without modules."""
    if isinstance(annotation, type | typing.NewType) and not typing.get_args(annotation):
        return annotation.__name__
    return _MODULES.sub("", str(annotation))


def _origin(annotation: Any) -> type:
    annotation = renamed(annotation)
    if typing.get_origin(annotation) is Annotated:
        return _origin(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) is typing.Literal:
        return type(typing.get_args(annotation)[0])
    origin = typing.get_origin(annotation) or annotation
    if typing.is_typeddict(origin):
        return dict
    nothing_said = origin is Any or getattr(origin, "_is_protocol", False)
    return origin if isinstance(origin, type) and not nothing_said else object


def renamed(annotation: Any) -> Any:
    """The type that a NewType is another name of, or what is no NewType."""
    while isinstance(annotation, typing.NewType):
        annotation = annotation.__supertype__
    return annotation
