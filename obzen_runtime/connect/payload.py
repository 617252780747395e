"""The types these connectors carry: structs and dataclasses, and for CSV the fields of one as columns."""

import dataclasses
import datetime
import decimal
import enum
import inspect
import types
import typing
import uuid
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, Union

import msgspec

from obzen_runtime.kernel import UsageError

__all__ = ["Field", "checked", "constructor", "fields_of", "name_of", "plain_kind"]

_CELLS = (
    bool,
    int,
    float,
    str,
    bytes,
    decimal.Decimal,
    datetime.datetime,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    uuid.UUID,
)


class Field(NamedTuple):
    """One field of a type, as a column."""

    name: str
    column: str
    """Its encoded name: what `rename` or `field(name=…)` of msgspec made of it."""
    annotation: Any
    """Its type, without None."""
    kind: type
    """The class of its values."""
    optional: bool
    """None is allowed: an empty cell."""
    default: Callable[[], Any] | None
    """Makes the value of a column that is not there; None when the column must be."""


def checked(connector: str, kind: Any) -> type[Any]:
    """`kind` when it is a class this connector can carry, else `UsageError`."""
    if not isinstance(kind, type) or not (issubclass(kind, msgspec.Struct) or dataclasses.is_dataclass(kind)):
        raise UsageError(
            f"{connector}: {name_of(kind)} is not a msgspec struct or a dataclass",
            remedy="Give a class such as: class Row(msgspec.Struct, frozen=True): id: int",
        )
    try:
        msgspec.json.Decoder(kind)
    except (TypeError, NameError) as error:
        raise UsageError(
            f"{connector}: {kind.__name__} cannot be decoded: {error}", remedy="Give its fields types msgspec knows."
        ) from error
    return kind


def fields_of(connector: str, kind: type[Any]) -> tuple[Field, ...]:
    """The fields as columns, in the order of the constructor. Raises `UsageError` naming a field that fits no cell."""
    found: list[Field] = []
    for name, column, annotation, default in _plain_fields(kind):
        inner, optional = _without_none(annotation)
        plain = plain_kind(inner)
        if plain is None:
            raise UsageError(
                f"{connector}: field {kind.__name__}.{name} is {name_of(annotation)}, which does not fit a cell",
                remedy="A cell holds one number, text, truth, date, enum or UUID, or nothing; flatten the field, or use JSON.",
            )
        found.append(Field(name, column, inner, plain, optional, default))
    if not found:
        raise UsageError(f"{connector}: {kind.__name__} has no fields, so it has no columns", remedy="Give it fields.")
    return tuple(found)


def _plain_fields(kind: type[Any]) -> list[tuple[str, str, Any, Callable[[], Any] | None]]:
    if issubclass(kind, msgspec.Struct):
        order = list(inspect.signature(kind).parameters)
        structs = {each.name: each for each in msgspec.structs.fields(kind)}
        return [(name, structs[name].encode_name, structs[name].type, _default(structs[name], msgspec.NODEFAULT)) for name in order]
    hints = typing.get_type_hints(kind, include_extras=True)
    known = {each.name: each for each in dataclasses.fields(kind)}
    order = [name for name in inspect.signature(kind).parameters if name in known]
    return [(name, name, hints[name], _default(known[name], dataclasses.MISSING)) for name in order]


def _default(field: Any, missing: Any) -> Callable[[], Any] | None:
    if field.default is not missing:
        value = field.default
        return lambda: value
    return None if field.default_factory is missing else field.default_factory


def _without_none(annotation: Any) -> tuple[Any, bool]:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        inner, optional = _without_none(arguments[0])
        return Annotated[(inner, *arguments[1:])], optional
    if origin in (Union, types.UnionType) and type(None) in arguments:
        rest = tuple(each for each in arguments if each is not type(None))
        return Union[rest], True  # noqa: UP007 - made of a tuple
    return annotation, False


def plain_kind(annotation: Any) -> type | None:
    """The class of a cell's values; None when a cell cannot hold the type."""
    if isinstance(annotation, typing.NewType):
        return plain_kind(annotation.__supertype__)
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return plain_kind(typing.get_args(annotation)[0])
    if origin is typing.Literal:
        kinds = {type(each) for each in typing.get_args(annotation)}
        return kinds.pop() if len(kinds) == 1 and kinds <= {str, int} else None
    if not isinstance(annotation, type):
        return None
    return annotation if annotation in _CELLS or issubclass(annotation, enum.Enum) else None


def constructor(kind: type[Any], fields: tuple[Field, ...]) -> Callable[..., Any]:
    """A function of the fields' values in their order that makes an event."""
    parameters = inspect.signature(kind).parameters
    if all(parameters[each.name].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for each in fields):
        return kind
    names = tuple(each.name for each in fields)

    def make(*values: Any) -> Any:
        return kind(**dict(zip(names, values, strict=True)))

    return make


def name_of(annotation: Any) -> str:
    """How a type is called in messages."""
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    return str(annotation).replace("typing.", "")
