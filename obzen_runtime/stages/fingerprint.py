"""Whether a stage's code is still the same: a hash that a run keeps in its manifest.

It covers the bytecode of the stage's functions, of those they wrap or close over, and of the module functions they
name, not comments, docstrings or line numbers. Bytecode differs between Python versions; the manifest names the version.
"""

import contextlib
import functools
import hashlib
import types
from typing import Any

import msgspec

from obzen_runtime.stages.node import Node

__all__ = ["code_fingerprint"]


def code_fingerprint(node: Node) -> str:
    """SHA-256 of everything callable in a description, its bound parameters and stand-in aside."""
    digest = hashlib.sha256()
    seen: set[int] = set()
    for name, value in sorted(vars(node).items()):
        if name not in ("bound", "signature", "name", "simulate"):
            _add(digest, value, seen)
    return digest.hexdigest()


def _add(digest: Any, value: Any, seen: set[int]) -> None:
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, types.FunctionType):
        _add_code(digest, value.__code__)
        for default in (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()):
            _add(digest, default, seen)
        for named in _names(value.__code__):
            found = value.__globals__.get(named)
            if isinstance(found, types.FunctionType) and found.__module__ == value.__module__:
                _add(digest, found, seen)
        for held in _enclosed(value):
            if callable(held) and not isinstance(held, type):
                _add(digest, held, seen)
    elif isinstance(value, type):
        for name, member in sorted(vars(value).items()):
            for function in _functions(member):
                digest.update(name.encode())
                _add(digest, function, seen)
        for base in value.__bases__:
            if base.__module__ == value.__module__:
                _add(digest, base, seen)
    elif isinstance(value, types.MethodType):
        _add(digest, value.__func__, seen)
    elif isinstance(value, functools.partial):
        for part in (value.func, *value.args, *value.keywords.values()):
            _add(digest, part, seen)
    elif callable(getattr(value, "__wrapped__", None)):  # such as what lru_cache gives
        _add(digest, value.__wrapped__, seen)
    elif value is None or isinstance(value, str | int | float | bytes | msgspec.Struct):
        digest.update(repr(value).encode())


def _enclosed(function: types.FunctionType) -> list[Any]:
    """What a function uses of the functions around it, such as what a decorator wraps."""
    found = []
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # not assigned yet
            found.append(cell.cell_contents)
    return found


def _functions(member: object) -> list[types.FunctionType]:
    """The functions that a member of a class is made of."""
    parts = (member, *(getattr(member, name, None) for name in ("__func__", "fget", "fset", "func")))
    return [part for part in parts if isinstance(part, types.FunctionType)]


def _names(code: types.CodeType) -> list[str]:
    inner = [name for const in code.co_consts if isinstance(const, types.CodeType) for name in _names(const)]
    return [*code.co_names, *inner]


def _add_code(digest: Any, code: types.CodeType) -> None:
    digest.update(code.co_code)
    digest.update(repr((code.co_names, code.co_varnames, code.co_freevars)).encode())
    documented = code.co_consts[0] if code.co_consts and isinstance(code.co_consts[0], str) else None
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            _add_code(digest, const)
        elif isinstance(const, frozenset):  # its order is another in every process
            digest.update(repr(sorted(map(repr, const))).encode())
        elif const is not documented:
            digest.update(repr(const).encode())
