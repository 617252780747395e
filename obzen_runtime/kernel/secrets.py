"""Finds what looks like a secret, so that nothing of the kind is written where it would stay for ever.

A name that says so (`password`, `api_key` …) with a value, a value of a known shape (a private key, a bearer
token, a password in a URL), or 12 to 24 lower-case words as wallets use them. It is a net, not a proof: the
remedy for a hit is a reference to the secret, and for a false one the place named in `allowed`.
"""

import re
from collections.abc import Collection, Mapping

__all__ = ["find_secret", "looks_secret"]

NAMES = (
    "accesskey",
    "accesstoken",
    "apikey",
    "apitoken",
    "authorization",
    "authtoken",
    "bearer",
    "clientsecret",
    "credential",
    "encryptionkey",
    "idtoken",
    "keystore",
    "mnemonic",
    "passphrase",
    "passwd",
    "password",
    "privatekey",
    "recoveryphrase",
    "refreshtoken",
    "secret",
    "seedphrase",
    "sessiontoken",
    "signingkey",
)
"""What a name must hold, in lower case and without separators, to be a secret's."""

_SHAPES = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|\bauthorization:\s*\S"
    r"|\bbearer\s+[a-z0-9._~+/=-]{16,}"
    r"|\b(?:password|passwd|passphrase|secret|api[_-]?key|access[_-]?token|private[_-]?key)\s*[=:]\s*\S"
    r"|\b[a-z][a-z0-9+.-]*://[^\s/:@]+:[^\s/@]+@"
    r"|\bAKIA[0-9A-Z]{16}\b"
    r"|\bgh[pousr]_[A-Za-z0-9]{36}"
    r"|\bxox[abprs]-[A-Za-z0-9-]{10,}"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",
    re.IGNORECASE,
)
_MNEMONIC = re.compile(r"[a-z]{3,8}(?: [a-z]{3,8})*")
_MNEMONIC_WORDS = (12, 15, 18, 21, 24)  # the only lengths BIP 39 has


def looks_secret(text: str) -> bool:
    """Tell whether a text has the shape of a secret."""
    if _SHAPES.search(text):
        return True
    return _MNEMONIC.fullmatch(text) is not None and text.count(" ") + 1 in _MNEMONIC_WORDS


def find_secret(value: object, allowed: Collection[str] = ()) -> str | None:
    """Return the place (`$.a.0.b`) of the first thing in maps and lists that looks secret, or None.

    Places in `allowed` are skipped with all they hold. Truth values, None and empty things under a secret's name are fine.
    """
    stack: list[tuple[str, str, object]] = [("$", "", value)]
    while stack:
        place, name, item = stack.pop()
        if place in allowed:
            continue
        if looks_secret(name) or (_names_secret(name) and _says_something(item)) or (isinstance(item, str) and looks_secret(item)):
            return place
        if isinstance(item, Mapping):
            stack.extend((f"{place}.{key}", str(key), inner) for key, inner in reversed(list(item.items())))
        elif isinstance(item, list | tuple):
            stack.extend((f"{place}.{index}", "", item[index]) for index in reversed(range(len(item))))
    return None


def _names_secret(name: str) -> bool:
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return any(word in plain for word in NAMES)


def _says_something(value: object) -> bool:
    return not isinstance(value, bool) and value not in (None, "", b"", [], (), {})
