"""Canonical JSON (RFC 8785): equal values give equal bytes on every machine, so that a hash of them is an id.

Stricter than the RFC where it protects the hash: no floats, because two languages may print one differently;
no integers beyond ±(2^53 - 1), which JSON readers round; nothing that looks like a secret, because a hashed
structure is kept for ever.
"""

import hashlib
import json
from collections.abc import Collection

import msgspec

from obzen_runtime.kernel.errors import ValidationFailed
from obzen_runtime.kernel.secrets import find_secret

__all__ = ["canonical_hash", "canonical_json"]

_LARGEST = 2**53 - 1
_DEEPEST = 128
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), check_circular=False)

Plain = str | int | bool | list["Plain"] | dict[str, "Plain"] | None


def canonical_json(value: object, *, allowed: Collection[str] = ()) -> bytes:
    """Encode maps with text keys, lists, texts, integers, truth values, None, and structs and dataclasses of these.

    Keys are ordered by their UTF-16 code units. Places (`$.a.0.b`) in `allowed` may look like secrets.
    Raises `ValidationFailed` with code `float_not_allowed`, `out_of_range`, `wrong_type`, `not_encodable` or
    `secret_refused`, naming the place.
    """
    try:
        plain = msgspec.to_builtins(value, order="deterministic", builtin_types=(bytes, bytearray, memoryview))
    except RecursionError as deep:
        raise _too_deep("$") from deep
    except (TypeError, ValueError) as wrong:
        raise ValidationFailed(f"no canonical form: {wrong}", code="wrong_type", remedy=_TYPES) from wrong
    ordered = _ordered(plain, "$", 0)
    place = find_secret(ordered, allowed)
    if place is not None:
        raise ValidationFailed(
            f"{place} looks like a secret",
            code="secret_refused",
            remedy="Hand over the name of a credential instead, or allow this place",
            place=place,
        )
    return _ENCODER.encode(ordered).encode()


def canonical_hash(value: object, *, allowed: Collection[str] = ()) -> str:
    """Return the SHA-256 of the canonical JSON, as 64 lower-case hex digits. Errors as `canonical_json`."""
    return hashlib.sha256(canonical_json(value, allowed=allowed)).hexdigest()


_TYPES = "Use maps with text keys, lists, texts, integers, truth values and None"


def _ordered(value: object, place: str, depth: int) -> Plain:
    if depth > _DEEPEST:
        raise _too_deep(place)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        _utf16(value, place)
        return value
    if isinstance(value, int):
        if not -_LARGEST <= value <= _LARGEST:
            raise ValidationFailed(f"{place} is beyond ±(2^53 - 1)", code="out_of_range", remedy="Write it as text", place=place)
        return value
    if isinstance(value, float):
        raise ValidationFailed(
            f"{place} is a float", code="float_not_allowed", remedy="Write it as text or as a scaled integer", place=place
        )
    if isinstance(value, list | tuple):
        return [_ordered(item, f"{place}.{index}", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ValidationFailed(f"{place} has the key {key!r}, not a text", code="wrong_type", remedy=_TYPES, place=place)
        keys = sorted(value, key=lambda key: _utf16(key, place))
        return {key: _ordered(value[key], f"{place}.{key}", depth + 1) for key in keys}
    raise ValidationFailed(f"{place} is of type {type(value).__name__}", code="wrong_type", remedy=_TYPES, place=place)


def _utf16(text: str, place: str) -> bytes:
    try:
        return text.encode("utf-16-be")
    except UnicodeEncodeError as half:
        raise ValidationFailed(
            f"{place} holds half a surrogate pair", code="not_encodable", remedy="Decode the text properly first", place=place
        ) from half


def _too_deep(place: str) -> ValidationFailed:
    return ValidationFailed(f"the value is nested deeper than {_DEEPEST}", code="too_large", remedy="Flatten it", place=place[:200])
