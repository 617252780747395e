"""Descriptions of stages and the paths between them: frozen values that decorators return and `>>` joins.

Nothing happens when a node is made. A flow reads nodes and paths when it is built; the workers that run are made
from them then.
"""

import contextlib
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, ClassVar, Self, TypeAlias

import msgspec

from obzen_runtime.kernel import UsageError
from obzen_runtime.stages.schema import MISSING, Declared, Parameter, Signature

__all__ = [
    "Link",
    "Node",
    "Path",
    "Port",
    "Target",
    "check_called",
]

_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def check_called(name: str, function: object) -> None:
    """Raises `UsageError` for a parameter of a decorator that is no function."""
    if not callable(function):
        raise UsageError(f"{name}={function!r} is not a function", remedy=f"Write {name}=lambda event: ...")


@dataclass(frozen=True, eq=False)
class Node:
    """A stage as described. `handler` is the undecorated function; calling the node with keywords binds parameters."""

    name: str
    handler: Any = None
    bound: Mapping[str, Any] = field(default_factory=dict)
    signature: Signature | None = None

    kind: ClassVar[str] = "stage"
    ports: ClassVar[tuple[str, ...]] = ("",)
    """Names of the inputs; a join has two."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            remedy = "Write a def: a lambda has no name." if self.name == "<lambda>" else "Use letters, digits and _, at most 63."
            raise UsageError(f"stage name {self.name!r} is not allowed", remedy=remedy)

    def __call__(self, *arguments: Any, **parameters: Any) -> Self:
        """Bind parameters and return a new description."""
        if arguments:
            named = next((f"give its parameters by name, such as {self.name}({name}=...), or " for name in self.parameters), "")
            raise TypeError(f"{self.name} is a description of a stage: {named}call {self.name}.handler(...) to run its function")
        unknown = [name for name in parameters if name not in self.parameters]
        if unknown:
            known = ", ".join(self.parameters) or "none"
            raise TypeError(f"{self.name} has no parameter {unknown[0]!r}; it has: {known}")
        return dataclasses.replace(self, bound=MappingProxyType({**self.bound, **parameters}))

    def named(self, name: str) -> Self:
        """The same stage under another name."""
        return dataclasses.replace(self, name=name)

    def __rshift__(self, other: "Target") -> "Path":
        return Path.of(self) >> other

    def __rrshift__(self, other: "Sequence[Node | Path | Port]") -> "Path":
        return Path.of(other) >> self

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """Configuration parameters by name."""
        return self.signature.parameters if self.signature is not None else _NOTHING

    @property
    def unbound(self) -> tuple[str, ...]:
        """Parameters that have neither a value nor a default."""
        return tuple(name for name, each in self.parameters.items() if each.default is MISSING and name not in self.bound)

    @property
    def file(self) -> FilePath | None:
        """The file it reads or writes, where it says so: what a sink writes no other stage of the flow may use."""
        return None

    def accepts(self, port: str) -> tuple[Declared, ...]:
        """Declared types of one input; an empty tuple takes anything."""
        return self.signature.inputs[0] if self.signature is not None and self.signature.inputs else ()

    def outputs(self, upstream: Sequence[Declared]) -> tuple[Declared, ...] | None:
        """Declared types of the outputs, given those of its inputs; None when the handler does not say."""
        return self.signature.outputs if self.signature is not None else ()

    def bind_text(self, parameter: str, texts: Sequence[str]) -> Self:
        """Bind a parameter from the command line: JSON when that parses and fits the annotation, else text.

        Several texts make a list. Raises `UsageError` naming the stage, the parameter and what was expected.
        """
        known = self.parameters.get(parameter)
        if known is None:
            names = ", ".join(self.parameters) or "none"
            raise UsageError(f"stage {self.name!r} has no parameter {parameter!r}", remedy=f"It has: {names}.", code="unknown_option")
        return dataclasses.replace(self, bound=MappingProxyType({**self.bound, parameter: _from_text(self.name, known, texts)}))

    def plain(self) -> dict[str, Any]:
        """The bound parameters as JSON brings them back: paths as text, and of what it cannot hold the representation.

        Raises `UsageError` for text that is no Unicode, such as a name of a file with other bytes.
        """
        try:
            return msgspec.json.decode(msgspec.json.encode(dict(self.bound), enc_hook=_plain))  # type: ignore[no-any-return]
        except UnicodeEncodeError as error:
            raise UsageError(
                f"{self.name}: a parameter is {error.object!r}, which is no Unicode text", remedy="Rename the file."
            ) from error

    def bind_plain(self, values: Mapping[str, Any]) -> Self:
        """Bind what `plain` gave; what is bound to the same already stays. Raises KeyError, ValueError, TypeError."""
        here = self.plain()
        known = self.parameters
        changed = {name: value for name, value in values.items() if name not in here or here[name] != value}
        bound = {name: msgspec.convert(value, known[name].annotation, dec_hook=_convert) for name, value in changed.items()}
        return dataclasses.replace(self, bound=MappingProxyType({**self.bound, **bound}))


def _plain(value: Any) -> str:
    """The same in every process: an object's address is left out."""
    return str(value) if isinstance(value, PurePath) else _ADDRESS.sub("", repr(value))


def _from_text(stage: str, parameter: Parameter, texts: Sequence[str]) -> Any:
    candidates: list[Any] = []
    if len(texts) == 1:
        with contextlib.suppress(msgspec.DecodeError, UnicodeEncodeError):
            candidates.append(msgspec.json.decode(texts[0]))
        candidates.append(texts[0])
    candidates.append(list(texts))
    for candidate in candidates:
        try:
            return msgspec.convert(candidate, parameter.annotation, dec_hook=_convert)
        except (msgspec.ValidationError, TypeError, ValueError):
            continue
    annotation = getattr(parameter.annotation, "__name__", str(parameter.annotation))
    shown, remedy = (texts[0], "Check --set.") if len(texts) == 1 else (list(texts), "Set it once: several values make a list.")
    raise UsageError(f"{stage}.{parameter.name}: {shown!r} is not a value of type {annotation}", code="wrong_type", remedy=remedy)


def _convert(kind: type, value: Any) -> Any:
    if issubclass(kind, FilePath) and isinstance(value, str):
        return FilePath(value)
    raise TypeError(f"cannot make {kind.__name__} of {value!r}")


@dataclass(frozen=True, eq=False)
class Port:
    """One named input of a stage, such as `price.reference`."""

    node: Node
    port: str

    def __rrshift__(self, other: "Sequence[Node | Path | Port]") -> "Path":
        return Path.of(other) >> self


class Link(msgspec.Struct, frozen=True, eq=False):
    """One edge as described."""

    source: Node
    target: Node
    port: str = ""


@dataclass(frozen=True, eq=False)
class Path:
    """Stages joined by `>>`: where it begins, where it ends, and every edge in between."""

    heads: tuple[Port, ...]
    tails: tuple[Node, ...]
    links: tuple[Link, ...] = ()
    nodes: tuple[Node, ...] = field(default=())

    @classmethod
    def of(cls, thing: "Target") -> "Path":
        """A node, port, path or list of these as one path."""
        match thing:
            case Path():
                return thing
            case Node():
                return cls((Port(thing, thing.ports[-1] if thing.ports else ""),), (thing,), (), (thing,))
            case Port():
                return cls((thing,), (thing.node,), (), (thing.node,))
            case list() | tuple():
                parts = [cls.of(part) for part in thing]
                if not parts:
                    raise UsageError("an empty list cannot be joined with >>")
                return cls(
                    _joined(part.heads for part in parts),
                    _joined(part.tails for part in parts),
                    _joined(part.links for part in parts),
                    _joined(part.nodes for part in parts),
                )
        name = getattr(thing, "__name__", repr(thing))
        raise TypeError(f"{name} is not a stage; decorate it with @oz.transform, @oz.sink or another stage decorator")

    def __rshift__(self, other: "Target") -> "Path":
        target = Path.of(other)
        links = tuple(Link(tail, head.node, head.port) for tail in self.tails for head in target.heads)
        return Path(self.heads, target.tails, self.links + links + target.links, self.nodes + target.nodes)

    def __rrshift__(self, other: "Sequence[Node | Path | Port]") -> "Path":
        return Path.of(other) >> self


Target: TypeAlias = "Node | Path | Port | type[Any] | Sequence[Node | Path | Port | type[Any]]"
"""What may stand right of `>>`. A decorated class is a node at run time, though type checkers still see a class."""


def _joined(parts: Iterable[tuple[Any, ...]]) -> tuple[Any, ...]:
    return tuple(each for part in parts for each in part)
