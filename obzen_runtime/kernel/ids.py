"""Ids as types: a checker finds a run id passed where an artifact id belongs, and a decoder refuses a malformed one.

Each id is a `NewType` over an annotated `str`. At run time it is a plain string, so every codec takes it without
hooks and it costs nothing; in a msgspec struct the annotation makes each decode check the rule again. Text from
outside becomes an id through its rule: `RUN_ID.new(text)` raises `IdValidationError`, and `OP_ID.must_new("price")`
is for constants in code, where a malformed id is a bug and not somebody's input.

    OpId         price                      one segment: a-z, then a-z 0-9 _, 1 to 63 characters
    OpPath       price.fetch                machine.step
    StateId      price.fetch.pending        machine.step.state
    RunId        01jzq8…  or  nightly       26 characters of a uuid, or a name given by the user
    StageName    Tally                      a Python name, 1 to 63 characters
    ArtifactId   9f86d0…                    SHA-256 of the bytes, 64 hex digits
    FactKey      http/get:rates             parts of A-Z a-z 0-9 _ - joined by . / :, 1 to 255 characters
    ContextKey   prices.last                the same
"""

import hashlib
import re
import uuid
from typing import Annotated, Generic, NewType, TypeVar, cast

import msgspec

from obzen_runtime.kernel.clock import Clock, Entropy
from obzen_runtime.kernel.errors import IdValidationError, InternalError

__all__ = [
    "ARTIFACT_ID",
    "CONTEXT_KEY",
    "FACT_KEY",
    "OP_ID",
    "OP_PATH",
    "RUN_ID",
    "STAGE_NAME",
    "STATE_ID",
    "ArtifactId",
    "ContextKey",
    "FactKey",
    "IdRule",
    "OpId",
    "OpPath",
    "RunId",
    "StageName",
    "StateId",
    "artifact_id",
    "child_run_id",
    "new_run_id",
    "run_id_of",
    "run_uuid",
]

# `$` alone matches before a final newline; the look-ahead refuses it, and JSON Schema readers understand both.
_OP_ID = r"^[a-z][a-z0-9_]{0,62}$(?!\n)"
_OP_PATH = r"^[a-z][a-z0-9_]{0,62}(\.[a-z][a-z0-9_]{0,62}){1}$(?!\n)"
_STATE_ID = r"^[a-z][a-z0-9_]{0,62}(\.[a-z][a-z0-9_]{0,62}){2}$(?!\n)"
_RUN_ID = r"^[a-z0-9][a-z0-9_.-]{0,63}$(?!\n)"
_STAGE_NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,62}$(?!\n)"
_ARTIFACT_ID = r"^[0-9a-f]{64}$(?!\n)"
_KEY = r"^(?=.{1,255}$)[A-Za-z0-9_-]+([.:/][A-Za-z0-9_-]+)*$(?!\n)"

OpId = NewType("OpId", Annotated[str, msgspec.Meta(pattern=_OP_ID)])
"""A machine, step or operation by its stable name."""
OpPath = NewType("OpPath", Annotated[str, msgspec.Meta(pattern=_OP_PATH)])
"""A step within its machine."""
StateId = NewType("StateId", Annotated[str, msgspec.Meta(pattern=_STATE_ID)])
"""A state within its step."""
RunId = NewType("RunId", Annotated[str, msgspec.Meta(pattern=_RUN_ID)])
"""One execution; also the name of its directory."""
StageName = NewType("StageName", Annotated[str, msgspec.Meta(pattern=_STAGE_NAME)])
"""A node of a flow."""
ArtifactId = NewType("ArtifactId", Annotated[str, msgspec.Meta(pattern=_ARTIFACT_ID)])
"""Bytes by their own hash."""
FactKey = NewType("FactKey", Annotated[str, msgspec.Meta(pattern=_KEY)])
"""A recorded outcome of an outside call, within its run."""
ContextKey = NewType("ContextKey", Annotated[str, msgspec.Meta(pattern=_KEY)])
"""A value in the context that steps share."""

I = TypeVar("I", bound=str)  # noqa: E741 - a type variable is not read as a number


class IdRule(Generic[I]):
    """The way from text to one kind of id."""

    __slots__ = ("_match", "_rule", "kind")

    def __init__(self, kind: str, pattern: str, rule: str) -> None:
        self.kind = kind
        self._match = re.compile(pattern).search
        self._rule = rule

    def new(self, text: str) -> I:
        """Check the text, of whatever origin; `IdValidationError` says which rule it breaks."""
        if not isinstance(text, str) or self._match(text) is None:
            raise IdValidationError(self.kind, text, remedy=self._rule)
        return cast("I", str(text))

    def must_new(self, text: str) -> I:
        """Check a constant of the program; a malformed one is a bug and raises `InternalError`."""
        try:
            return self.new(text)
        except IdValidationError as wrong:
            raise InternalError(str(wrong), remedy=self._rule) from wrong

    def __repr__(self) -> str:
        return f"IdRule({self.kind})"


_SEGMENT = "a-z first, then a-z, 0-9 or _, 1 to 63 characters"
_PARTS = "Use parts of A-Z, a-z, 0-9, _ or - joined by '.', '/' or ':', 1 to 255 characters"

OP_ID: IdRule[OpId] = IdRule("op_id", _OP_ID, f"Use one segment: {_SEGMENT}")
OP_PATH: IdRule[OpPath] = IdRule("op_path", _OP_PATH, f"Use machine.step; each segment {_SEGMENT}")
STATE_ID: IdRule[StateId] = IdRule("state_id", _STATE_ID, f"Use machine.step.state; each segment {_SEGMENT}")
RUN_ID: IdRule[RunId] = IdRule("run_id", _RUN_ID, "Use a-z or 0-9 first, then a-z, 0-9, '_', '.' or '-', 1 to 64 characters")
STAGE_NAME: IdRule[StageName] = IdRule("stage_name", _STAGE_NAME, "Use a Python name of ASCII letters, digits and _, 1 to 63 characters")
ARTIFACT_ID: IdRule[ArtifactId] = IdRule("artifact_id", _ARTIFACT_ID, "Use the SHA-256 of the bytes as 64 lower-case hex digits")
FACT_KEY: IdRule[FactKey] = IdRule("fact_key", _KEY, _PARTS)
CONTEXT_KEY: IdRule[ContextKey] = IdRule("context_key", _KEY, _PARTS)


def artifact_id(content: bytes | bytearray | memoryview) -> ArtifactId:
    """Name bytes by their SHA-256."""
    return ArtifactId(hashlib.sha256(content).hexdigest())


_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u
_VALUES = {digit: value for value, digit in enumerate(_DIGITS)}
_LENGTH = 26
_NAMED = uuid.UUID("7f6d1d5e-1c0b-5a63-9a53-0b8c6f5d2e41")


def new_run_id(clock: Clock, entropy: Entropy) -> RunId:
    """Make a uuid of version 7 (RFC 9562): ids sort by the millisecond they were made in."""
    random = int.from_bytes(entropy.bytes(10))
    stamp = (clock.wall_ms() & (1 << 48) - 1) << 80
    return run_id_of(uuid.UUID(int=stamp | 0x7 << 76 | (random >> 62 & 0xFFF) << 64 | 0b10 << 62 | random & (1 << 62) - 1))


def run_id_of(value: uuid.UUID) -> RunId:
    """Show a uuid as 26 characters of Crockford's base 32, lower-case; the texts sort as the uuids do."""
    return RunId("".join(_DIGITS[value.int >> shift & 31] for shift in range(5 * (_LENGTH - 1), -1, -5)))


def run_uuid(run: RunId) -> uuid.UUID:
    """Return the uuid that `run_id_of` shows as this id; a name given by the user stands for a uuid5 of it."""
    if len(run) == _LENGTH and run[0] <= "7" and all(character in _VALUES for character in run):
        number = 0
        for character in run:
            number = number << 5 | _VALUES[character]
        return uuid.UUID(int=number)
    return uuid.uuid5(_NAMED, run)


def child_run_id(parent: RunId, fact: FactKey) -> RunId:
    """Name the child run that a fact of its parent started: uuid5 of the two, the same in every replay."""
    return run_id_of(uuid.uuid5(run_uuid(parent), fact))
