"""Whether a stage's code is still the same: a hash that a run keeps in its manifest.

It covers the bytecode of the stage's functions, of those they wrap or close over, and of the module functions they
name, their defaults and what state begins with, not comments, docstrings or line numbers. Bytecode differs between
Python versions; the manifest names the version.
"""

import decimal
import dis
import functools
import hashlib
import types
from typing import Any

import msgspec

from obzen_runtime.stages.node import Node
from obzen_runtime.stages.schema import closure_of

__all__ = ["code_fingerprint"]

_CONSTANT = frozenset(dis.hasconst)
"""Instructions that load a constant, by its number."""


def code_fingerprint(node: Node) -> str:
    """SHA-256 of everything callable in a description, its bound parameters and stand-in aside."""
    digest = hashlib.sha256()
    seen: set[int] = set()
    for name, value in sorted(vars(node).items()):
        if name not in ("bound", "signature", "name", "simulate"):
            _add(digest, value, seen)
    return digest.hexdigest()


def _add(digest: Any, value: Any, seen: set[int]) -> None:
    if value is None or isinstance(value, str | int | float | complex | bytes | decimal.Decimal | set | frozenset):
        digest.update(f"{_text(value)},".encode())
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, types.FunctionType):
        _add_function(digest, value, seen)
    elif isinstance(value, type):
        _add_class(digest, value, seen)
    elif isinstance(value, types.MethodType):
        _add(digest, value.__func__, seen)
    elif isinstance(value, functools.partial):
        for part in (value.func, *value.args, *value.keywords.values()):
            _add(digest, part, seen)
    elif callable(getattr(value, "__wrapped__", None)):  # such as what lru_cache gives
        _add(digest, value.__wrapped__, seen)
    elif isinstance(value, tuple | list | dict | msgspec.Struct):
        digest.update(f"{type(value).__name__}(".encode())
        for part in _parts(value):
            _add(digest, part, seen)
        digest.update(b")")
        seen.discard(id(value))  # equal ones may be one object or not


def _add_function(digest: Any, function: types.FunctionType, seen: set[int]) -> None:
    _add_code(digest, function.__code__)
    for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
        if not isinstance(default, list | dict | set):  # such as a cache
            _add(digest, default, seen)
    for named in _names(function.__code__):
        found = function.__globals__.get(named)
        if isinstance(found, types.FunctionType) and found.__module__ == function.__module__:
            _add(digest, found, seen)
    for held in closure_of(function).values():
        if callable(held) and not isinstance(held, type):
            _add(digest, held, seen)


def _add_class(digest: Any, described: type, seen: set[int]) -> None:
    for name, member in sorted(vars(described).items()):
        for function in _functions(member):
            digest.update(name.encode())
            _add(digest, function, seen)
    if issubclass(described, msgspec.Struct):
        for default in (described.__struct_fields__, *described.__struct_defaults__):
            _add(digest, getattr(default, "factory", default), seen)
    for base in described.__bases__:
        if base.__module__ == described.__module__:
            _add(digest, base, seen)


def _text(value: Any) -> str:
    """A constant; a set's order is another in every process."""
    return repr(sorted(map(repr, value))) if isinstance(value, set | frozenset) else repr(value)


def _parts(value: Any) -> list[Any]:
    """What a container holds."""
    if isinstance(value, msgspec.Struct):
        return [getattr(value, name) for name in value.__struct_fields__]
    if isinstance(value, dict):
        return [part for item in value.items() for part in item]
    return list(value)


def _functions(member: object) -> list[types.FunctionType]:
    """The functions that a member of a class is made of."""
    parts = (member, *(getattr(member, name, None) for name in ("__func__", "fget", "fset", "func")))
    return [part for part in parts if isinstance(part, types.FunctionType)]


def _names(code: types.CodeType) -> list[str]:
    inner = [name for const in code.co_consts if isinstance(const, types.CodeType) for name in _names(const)]
    return [*code.co_names, *inner]


def _add_code(digest: Any, code: types.CodeType) -> None:
    """Instructions, with the constants they load: a docstring is loaded by none, and moves the others when it comes."""
    digest.update(repr((code.co_names, code.co_varnames, code.co_freevars)).encode())
    argument = 0
    for opcode, low in zip(code.co_code[::2], code.co_code[1::2], strict=True):
        argument = argument << 8 | low
        if opcode == dis.EXTENDED_ARG:
            continue
        loaded = code.co_consts[argument] if opcode in _CONSTANT else argument
        digest.update(f"{opcode} ".encode())
        if isinstance(loaded, types.CodeType):
            _add_code(digest, loaded)
        else:
            digest.update(f"{_text(loaded)},".encode())
        argument = 0
