"""One error tree, one classification table, so that every floor reacts to a failure in the same way.

A failure is a value (`ErrorInfo`) that is journaled and read back, and an exception (`ObzenError`) that
carries the value through Python. `kind` says how the runtime reacts, `category` where it came from, `code`
is a stable identifier from `codes.py`. User code speaks two of these words, `Transient` and `Permanent`;
whatever else it raises is classified by `FOREIGN`.

    ObzenError
    ├── ValidationFailed      a value breaks its rules                         VALIDATION
    │   ├── UsageError        the caller used the command or the interface wrongly
    │   └── IdValidationError an id breaks the rule of its kind
    ├── FlowInvalid           a flow or plan cannot be built                    PLAN
    ├── ProtocolViolated      a machine or handler broke its contract           PROTOCOL
    ├── NotFound              a run, artifact, file or action is not there      NOT_FOUND
    ├── PermissionDenied      not allowed                                       PERMISSION
    ├── Transient             try again; it may work                            TRANSIENT
    │   └── RateLimited       try again after `retry_after` seconds             RATE_LIMITED
    ├── TimedOut              a limit of time passed                            TIMEOUT
    ├── Cancelled             somebody asked for the end                        CANCELLED
    ├── Permanent             trying again is useless                           PERMANENT
    ├── ResourceFailed        a resource is exhausted or unhealthy              RESOURCE
    ├── StateFailed           state cannot be read, written or migrated         STATE
    ├── StorageFailed         the journal or an artifact cannot be kept         STORAGE
    │   ├── JournalDamaged    what was kept is no longer what was written
    │   ├── NewerFormat       a newer version wrote it
    │   ├── JournalFailed     a write or sync failed; nothing is acknowledged after it
    │   ├── JournalLocked     another process holds the run
    │   ├── Fenced            a writer of a newer epoch took over
    │   └── Concurrency       the head moved since it was read
    ├── IoFailed              reading or writing something else failed          IO
    ├── ConfigInvalid         an option or a setting is wrong                   CONFIG
    └── InternalError         a bug, ours or a handler's                        INTERNAL
"""

import asyncio
import hashlib
import traceback
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import msgspec

from obzen_runtime.kernel.codes import CODES, Category, Kind

__all__ = [
    "Cancelled",
    "Concurrency",
    "ConfigInvalid",
    "ErrorInfo",
    "Fenced",
    "FlowInvalid",
    "IdValidationError",
    "InternalError",
    "IoFailed",
    "JournalDamaged",
    "JournalFailed",
    "JournalLocked",
    "NewerFormat",
    "NotFound",
    "ObzenError",
    "Permanent",
    "PermissionDenied",
    "ProtocolViolated",
    "RateLimited",
    "ResourceFailed",
    "StateFailed",
    "StorageFailed",
    "TimedOut",
    "Transient",
    "UsageError",
    "ValidationFailed",
    "classify",
    "error_from",
]

Scalar = str | int | float | bool | None
"""What a field of a failure may hold."""

_CAUSES = 8
_LONGEST_TEXT = 8192
_LONGEST_WAIT = 1e12


class ErrorInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A failure as a value: what is journaled, shown and read back."""

    kind: Kind
    """How the runtime reacts."""
    code: str
    """Stable identifier, a key of `CODES`."""
    message: str
    """For people: one line, or the text of an exception that has several."""
    category: Category = "unknown"
    """Where it came from."""
    retryable: bool = False
    """Whether trying again may help."""
    remedy: str = ""
    """What to do about it."""
    retry_after_ms: int | None = None
    """Milliseconds to wait before the next try; a floor, not a promise."""
    type: str = ""
    """Name of the Python exception, for people."""
    trace: str = ""
    """First 16 hex digits of the SHA-256 of the traceback's places: equal for equal faults."""
    details: dict[str, Scalar] = {}
    """Fields of this failure."""
    run_id: str | None = None
    step_id: str | None = None
    attempt: int | None = None
    """Tries before this one, 0-based."""
    cause: "ErrorInfo | None" = None
    """The failure behind this one."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


class ObzenError(Exception):
    """Root of every error the runtime raises.

    `message` is one line; `remedy` says what to do; `details` are the fields a program may read.
    `code` must be in `CODES`.
    """

    default_code: ClassVar[str] = "internal"
    category: ClassVar[Category] = "unknown"
    """Where such errors come from; `origin` of one that was read back may differ."""
    exit_code: ClassVar[int] = 1
    """What the command exits with when this error ends it (sysexits numbers)."""

    def __new__(cls, *args: Any, **_: Any) -> Self:
        self = super().__new__(cls, *args)
        # Set here too: a subclass of the user's may forget to call our __init__.
        self.message = str(args[0]) if args else ""
        self.code = cls.default_code
        self.remedy = ""
        self.details = {}
        self.retry_after = None
        self.origin = cls.category
        return self

    def __init__(self, message: str, *, code: str | None = None, remedy: str = "", **details: Any) -> None:
        super().__init__(message)
        self.message: str = message
        self.code: str = code or self.default_code
        self.remedy: str = remedy
        self.details: dict[str, Scalar] = {key: _scalar(value) for key, value in details.items()}
        self.retry_after: float | None = None
        self.origin: Category = self.category
        if self.code not in CODES:
            raise ValueError(f"unknown error code {self.code!r}: add it to kernel/codes.py")

    def __str__(self) -> str:
        return f"{self.message}. {self.remedy}" if self.remedy else self.message

    @property
    def kind(self) -> Kind:
        """How the runtime reacts."""
        return CODES[self._known_code()][0]

    @property
    def retryable(self) -> bool:
        """Whether trying again may help."""
        return CODES[self._known_code()][1]

    @property
    def is_transient(self) -> bool:
        """Whether the failure was declared to pass by itself (kind TRANSIENT)."""
        return self.kind == "TRANSIENT"

    @property
    def is_permanent(self) -> bool:
        """Whether the failure was declared to last (kind PERMANENT)."""
        return self.kind == "PERMANENT"

    def _known_code(self) -> str:
        return self.code if self.code in CODES else self.default_code

    def caused_by(self, cause: BaseException) -> Self:
        """Set the cause and return the error, so that it can be raised or returned in one expression."""
        self.__cause__ = cause
        return self


class ValidationFailed(ObzenError):
    """A value breaks its rules."""

    default_code = "invalid_value"
    category: ClassVar[Category] = "parsing_input"
    exit_code = 64


class UsageError(ValidationFailed):
    """The caller used the command or the interface wrongly: a call or a decorator was given what it cannot work with."""

    default_code = "usage"
    category = "user"


class IdValidationError(ValidationFailed):
    """An id breaks the rule of its kind (`op_id`, `run_id` …); the rule is the remedy."""

    default_code = "invalid_id"

    def __init__(self, id_kind: str, value: object, *, remedy: str = "") -> None:
        shown = value if isinstance(value, str) else repr(value)
        super().__init__(f"invalid {id_kind}: {shown}", remedy=remedy, id_kind=id_kind, value=shown)
        self.args = (id_kind, value)  # what a copy or a pickle is made from

    def __str__(self) -> str:
        return self.message

    @property
    def id_kind(self) -> str:
        """Which kind of id was asked for."""
        return str(self.details["id_kind"])

    @property
    def value(self) -> str:
        """The text refused."""
        return str(self.details["value"])


class FlowInvalid(ObzenError):
    """A flow cannot be built. `problems` holds every fault found, each with its fix."""

    default_code = "invalid_flow"
    category = "user"
    exit_code = 78

    def __init__(self, message: str, *, code: str | None = None, remedy: str = "", problems: tuple[str, ...] = ()) -> None:
        super().__init__(message, code=code, remedy=remedy, **{f"problem_{number}": text for number, text in enumerate(problems, 1)})

    @property
    def problems(self) -> tuple[str, ...]:
        """Every fault found, in the order found."""
        return tuple(str(text) for key, text in self.details.items() if key.startswith("problem_"))

    def __str__(self) -> str:
        if not self.problems:
            return super().__str__()
        return "\n".join([f"{self.message}:", *(f"  {number}. {problem}" for number, problem in enumerate(self.problems, 1))])


class ProtocolViolated(ObzenError):
    """A machine or a handler broke its contract."""

    default_code = "outcome_not_allowed"
    exit_code = 70


class NotFound(ObzenError):
    """A run, artifact, file or action is not there."""

    default_code = "not_found"
    exit_code = 64


class PermissionDenied(ObzenError):
    """The caller, or the process, may not do this."""

    default_code = "permission_denied"
    exit_code = 74


class Transient(ObzenError):
    """Raised by user code: the same work may succeed when tried again.

    `retry_after` (seconds, also as the text that an HTTP header gives) is a floor for the wait before the next try; what
    is not a number of seconds is passed over.
    """

    default_code = "transient"
    category = "user"

    def __init__(
        self,
        message: str = "transient failure",
        *,
        retry_after: float | str | None = None,
        code: str | None = None,
        remedy: str = "",
        **details: Any,
    ) -> None:
        super().__init__(message, code=code, remedy=remedy, **details)
        self.retry_after = _seconds(retry_after)


class RateLimited(Transient):
    """The other side asks to slow down; try again after `retry_after` seconds."""

    default_code = "rate_limited"


class TimedOut(ObzenError):
    """A limit of time passed."""

    default_code = "attempt_timeout"


class Cancelled(ObzenError):
    """Somebody asked for the end."""

    default_code = "cancelled"


class Permanent(ObzenError):
    """Raised by user code: trying the same work again is useless."""

    default_code = "permanent"
    category = "user"

    def __init__(self, message: str = "permanent failure", *, code: str | None = None, remedy: str = "", **details: Any) -> None:
        super().__init__(message, code=code, remedy=remedy, **details)


class ResourceFailed(ObzenError):
    """A resource is exhausted or unhealthy."""

    default_code = "resource_failed"
    category = "resource"


class StateFailed(ObzenError):
    """State cannot be read, written or migrated."""

    default_code = "state_failed"
    category = "context"


class StorageFailed(ObzenError):
    """The journal or an artifact cannot be kept."""

    default_code = "storage"
    category = "storage"
    exit_code = 74


class JournalDamaged(StorageFailed):
    """What was kept is no longer what was written: refuse, never repair silently."""

    default_code = "corruption"
    exit_code = 65


class NewerFormat(StorageFailed):
    """What was kept was written by a newer version than this one: nothing is wrong with it, but it cannot be read here."""

    default_code = "newer_format"
    exit_code = 78


class JournalFailed(StorageFailed):
    """A write or sync failed: the journal is poisoned, nothing is acknowledged after it."""

    default_code = "journal_failed"


class JournalLocked(StorageFailed):
    """Another process holds the run."""

    default_code = "journal_locked"
    exit_code = 75


class Fenced(StorageFailed):
    """A writer of a newer epoch took over; this one must stop."""

    default_code = "fenced"
    exit_code = 75


class Concurrency(StorageFailed):
    """The head of the journal moved since it was read."""

    default_code = "stale_sequence"
    exit_code = 75


class IoFailed(ObzenError):
    """Reading or writing something other than the journal failed."""

    default_code = "io"
    category = "off_chain"
    exit_code = 74


class ConfigInvalid(ObzenError):
    """An option or a setting is wrong: what holds it refuses the value when it is made."""

    default_code = "config_invalid"
    category = "user"
    exit_code = 78


class InternalError(ObzenError):
    """A bug, ours or a handler's."""

    default_code = "internal"
    exit_code = 70


_BY_CODE: Mapping[str, type[ObzenError]] = {
    "invalid_id": IdValidationError,
    "usage": UsageError,
    "corruption": JournalDamaged,
    "newer_format": NewerFormat,
    "journal_failed": JournalFailed,
    "journal_locked": JournalLocked,
    "fenced": Fenced,
    "stale_sequence": Concurrency,
}
_BY_KIND: Mapping[Kind, type[ObzenError]] = {
    "VALIDATION": ValidationFailed,
    "PLAN": FlowInvalid,
    "PROTOCOL": ProtocolViolated,
    "NOT_FOUND": NotFound,
    "PERMISSION": PermissionDenied,
    "TRANSIENT": Transient,
    "RATE_LIMITED": RateLimited,
    "TIMEOUT": TimedOut,
    "CANCELLED": Cancelled,
    "PERMANENT": Permanent,
    "RESOURCE": ResourceFailed,
    "STATE": StateFailed,
    "STORAGE": StorageFailed,
    "IO": IoFailed,
    "CONFIG": ConfigInvalid,
    "INTERNAL": InternalError,
}

FOREIGN: tuple[tuple[type[BaseException], str, Category], ...] = (
    (asyncio.CancelledError, "cancelled", "scheduler"),
    (msgspec.ValidationError, "wrong_type", "parsing_input"),
    (msgspec.DecodeError, "invalid_format", "parsing_input"),
    (UnicodeError, "invalid_format", "parsing_input"),
    (MemoryError, "memory_exhausted", "resource"),
    (TimeoutError, "attempt_timeout", "unknown"),
    (ConnectionError, "transport", "rpc"),
    (PermissionError, "permission_denied", "off_chain"),
    (FileNotFoundError, "file_not_found", "off_chain"),
    (OSError, "io", "off_chain"),
    (BaseException, "internal", "user"),
)
"""What an exception that is not ours means: the first row whose class matches."""


def classify(error: BaseException) -> ErrorInfo:
    """Turn any exception into the value that is journaled. Never raises.

    `__cause__` becomes `cause`, at most 8 deep. Texts are cut at 8,192 characters and always encodable.
    """
    chain = [error]
    while (cause := chain[-1].__cause__) is not None and cause not in chain and len(chain) < _CAUSES:
        chain.append(cause)
    info = _safely(chain.pop(), None)
    while chain:
        info = _safely(chain.pop(), info)
    return info


def _safely(error: BaseException, cause: ErrorInfo | None) -> ErrorInfo:
    try:
        return _classify_one(error, cause)
    except Exception as broken:  # noqa: BLE001 - an error class of the user's may break in any way; the failure must still be told
        name = type(error).__name__
        return ErrorInfo(
            kind="INTERNAL",
            code="internal",
            message=f"{name} (it could not be read: {type(broken).__name__})",
            category="user",
            type=name,
            cause=cause,
        )


def _classify_one(error: BaseException, cause: ErrorInfo | None) -> ErrorInfo:
    name = type(error).__name__
    if not isinstance(error, ObzenError):
        code, category = next((code, category) for foreign, code, category in FOREIGN if isinstance(error, foreign))
        kind, retryable = CODES[code]
        return ErrorInfo(
            kind=kind,
            code=code,
            message=_text(error, None),
            category=category,
            retryable=retryable,
            type=name,
            trace=_trace(error),
            cause=cause,
        )
    after = _seconds(error.retry_after)
    return ErrorInfo(
        kind=error.kind,
        code=error._known_code(),  # noqa: SLF001 - one file
        message=_text(error, error.message),
        category=error.origin,
        retryable=error.retryable,
        remedy=_encodable(error.remedy),
        retry_after_ms=None if after is None else round(after * 1000),
        type=name,
        trace=_trace(error),
        details={_encodable(key): _scalar(value) for key, value in error.details.items()},
        cause=cause,
    )


def error_from(info: ErrorInfo) -> ObzenError:
    """Make the exception a journaled failure stands for, with its causes.

    `classify` of it gives the same kind, code, message, category, remedy, details and wait. A code of a newer
    release than this one becomes the general code of its kind.
    """
    made = _BY_CODE.get(info.code) or _BY_KIND.get(info.kind, ObzenError)
    error = made.__new__(made)
    ObzenError.__init__(error, info.message, code=info.code if info.code in CODES else None, remedy=info.remedy)
    error.origin = info.category
    error.details = dict(info.details)
    if info.retry_after_ms is not None:
        error.retry_after = info.retry_after_ms / 1000
    return error if info.cause is None else error.caused_by(error_from(info.cause))


def _seconds(wait: object) -> float | None:
    try:
        seconds = float(wait)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return seconds if 0 <= seconds < _LONGEST_WAIT else None


def _text(error: BaseException, message: str | None) -> str:
    try:
        return _encodable(message or str(error) or type(error).__name__)
    except Exception as broken:  # noqa: BLE001 - a user's __str__ may itself raise; the failure must still be told
        return f"{type(error).__name__} (its text could not be made: {type(broken).__name__})"


def _encodable(text: object) -> str:
    """Cut a text, and escape what UTF-8 cannot hold, such as an undecodable byte of a file name."""
    return str(text)[:_LONGEST_TEXT].encode("utf-8", "backslashreplace").decode()


def _scalar(value: object) -> Scalar:
    """Reduce a value to one that every codec takes; subclasses of the plain types would be refused."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return int(value)
    return float(value) if isinstance(value, float) else _encodable(value)


def _trace(error: BaseException) -> str:
    if error.__traceback__ is None:
        return ""
    places = "\n".join(f"{frame.filename}:{frame.name}:{frame.line}" for frame in traceback.extract_tb(error.__traceback__))
    return hashlib.sha256(places.encode("utf-8", "backslashreplace")).hexdigest()[:16]
