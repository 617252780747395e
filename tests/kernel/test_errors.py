"""Errors: one tree, one table, and a failure survives its journey through the journal."""

import _pickle
import asyncio
import copy
import enum
import pickle
import re
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from obzen_runtime.kernel import (
    CODES,
    Cancelled,
    Category,
    Concurrency,
    ErrorInfo,
    FlowInvalid,
    IdValidationError,
    InternalError,
    JournalDamaged,
    NotFound,
    ObzenError,
    Permanent,
    RateLimited,
    ResourceFailed,
    StateFailed,
    TimedOut,
    Transient,
    UsageError,
    ValidationFailed,
    classify,
    error_from,
    errors,
)
from obzen_runtime.kernel.errors import FOREIGN

ENCODE, DECODE = msgspec.msgpack.encode, msgspec.msgpack.Decoder(ErrorInfo).decode


def journaled(error):
    """The error after it was written and read back."""
    return error_from(DECODE(ENCODE(classify(error))))


def tree(root=ObzenError):
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree(child)


def make(cls, message="it broke", **options):
    return cls("op_id", message) if cls is IdValidationError else cls(message, **options)


def same(first, second):
    volatile = {"type": "", "trace": ""}
    return msgspec.structs.replace(first, **volatile) == msgspec.structs.replace(second, **volatile)


@pytest.mark.parametrize("code", sorted(CODES))
def test_each_code_comes_back_from_the_journal_as_the_same_class_and_value(code):
    kind, retryable = CODES[code]
    info = ErrorInfo(
        kind=kind, code=code, message="m", category="rpc", retryable=retryable, remedy="r", retry_after_ms=1500, details={"a": 1}
    )
    error = error_from(DECODE(ENCODE(info)))
    again = classify(error)
    assert same(again, info)
    assert type(error_from(DECODE(ENCODE(again)))) is type(error)
    assert (error.kind, error.code, error.retryable) == (kind, code, retryable)


@pytest.mark.parametrize("cls", [cls for cls in tree() if cls is not ObzenError], ids=lambda cls: cls.__name__)
def test_each_class_of_the_tree_comes_back_from_the_journal(cls):
    error = make(cls)
    back = journaled(error)
    assert type(back) is cls
    assert (back.message, str(back), back.exit_code, back.origin) == (error.message, str(error), error.exit_code, cls.category)
    assert same(classify(back), classify(error))


@pytest.mark.parametrize("cls", list(tree()), ids=lambda cls: cls.__name__)
def test_each_class_says_what_it_means_and_can_be_copied_and_pickled(cls):
    assert cls.__doc__
    assert cls.default_code in CODES
    assert cls.category in get_args(Category)
    error = make(cls)
    for twin in (copy.copy(error), _pickle.loads(pickle.dumps(error))):  # other people's pools pickle what we raise
        assert type(twin) is cls
        assert same(classify(twin), classify(error))


def test_the_drawing_shows_every_class_under_its_parent():
    drawn, parents = {}, {}
    for line in errors.__doc__.splitlines():
        if match := re.match(r"    ((?:│   |    )*(?:├── |└── )?)([A-Z]\w+)(?:\s|$)", line):
            depth = len(match[1]) // 4
            parents[depth] = match[2]
            drawn[match[2]] = parents.get(depth - 1)
    real = {cls.__name__: None if cls is ObzenError else cls.__bases__[0].__name__ for cls in tree()}
    assert drawn == real


def test_M_008_a_code_nobody_registered_is_refused():
    with pytest.raises(ValueError, match=r"codes\.py"):
        Permanent("x", code="no_such_code")


def test_N_064_validation_is_not_retryable_and_names_its_field():
    info = classify(ValidationFailed("age is negative", field="age"))
    assert (info.kind, info.retryable, info.details) == ("VALIDATION", False, {"field": "age"})


def test_N_065_transient_keeps_its_wait_and_its_cause():
    cause = ConnectionError("reset")
    error = Transient("later", retry_after=2.5).caused_by(cause)
    assert error.__cause__ is cause
    info = classify(error)
    assert (info.kind, info.retryable, info.retry_after_ms) == ("TRANSIENT", True, 2500)
    assert (info.cause.code, info.cause.category, info.cause.type) == ("transport", "rpc", "ConnectionError")
    back = error_from(info)
    assert (back.retry_after, back.__cause__.message) == (2.5, "reset")


@pytest.mark.parametrize(
    ("error", "kind", "field"),
    [
        (Permanent("no", reason="closed"), "PERMANENT", ("reason", "closed")),
        (TimedOut("slow", duration=3.0), "TIMEOUT", ("duration", 3.0)),
        (ResourceFailed("full", resource_id="pool"), "RESOURCE", ("resource_id", "pool")),
        (StateFailed("torn"), "STATE", None),
    ],
)
def test_N_066_each_kind_has_its_fields_and_its_text_names_the_kind(error, kind, field):
    info = classify(error)
    assert info.kind == kind
    assert str(info) == f"{kind}: {error.message}"
    assert field is None or field in info.details.items()


@pytest.mark.parametrize(
    ("error", "retryable", "transient", "permanent"),
    [
        (ValidationFailed("x"), False, False, False),
        (Transient("x"), True, True, False),
        (Permanent("x"), False, False, True),
        (TimedOut("x"), True, False, False),
        (ResourceFailed("x"), False, False, False),
        (StateFailed("x"), False, False, False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_N_067_truth_table(error, retryable, transient, permanent):
    for one in (error, journaled(error)):
        assert (one.retryable, one.is_transient, one.is_permanent) == (retryable, transient, permanent)


@pytest.mark.parametrize(
    ("error", "code", "category"),
    [
        (asyncio.CancelledError(), "cancelled", "scheduler"),
        (msgspec.ValidationError("x"), "wrong_type", "parsing_input"),
        (msgspec.DecodeError("x"), "invalid_format", "parsing_input"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"), "invalid_format", "parsing_input"),
        (MemoryError(), "memory_exhausted", "resource"),
        (TimeoutError(), "attempt_timeout", "unknown"),
        (ConnectionResetError(), "transport", "rpc"),
        (BrokenPipeError(), "transport", "rpc"),
        (PermissionError(), "permission_denied", "off_chain"),
        (FileNotFoundError(), "file_not_found", "off_chain"),
        (OSError(28, "No space left"), "io", "off_chain"),
        (ValueError("x"), "internal", "user"),
        (KeyboardInterrupt(), "internal", "user"),
        (ExceptionGroup("x", [ValueError()]), "internal", "user"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_what_is_not_ours_is_classified_by_one_table(error, code, category):
    info = classify(error)
    assert (info.kind, info.retryable) == CODES[code]
    assert (info.code, info.category, info.type) == (code, category, type(error).__name__)
    assert same(classify(journaled(error)), info)


def test_the_foreign_table_has_no_row_that_an_earlier_one_hides():
    for index, (cls, _, _) in enumerate(FOREIGN):
        assert not any(issubclass(cls, earlier) for earlier, _, _ in FOREIGN[:index]), cls


def test_M_025_the_category_survives_the_journal_even_when_it_is_not_the_class_s_own():
    assert classify(Transient("x")).category == "user"
    assert classify(journaled(ConnectionError("x"))).category == "rpc"


def test_the_remedy_is_part_of_the_text():
    assert str(NotFound("no run 7", remedy="List them with obzen runs")) == "no run 7. List them with obzen runs"
    assert str(NotFound("no run 7")) == "no run 7"


def test_a_flow_tells_all_its_problems_also_after_the_journal():
    error = FlowInvalid("3 problems", problems=("no sink\nat all", "b: unused", "c"))
    for one in (error, journaled(error)):
        assert one.problems == ("no sink\nat all", "b: unused", "c")
        assert str(one) == "3 problems:\n  1. no sink\nat all\n  2. b: unused\n  3. c"
    assert str(FlowInvalid("empty", remedy="Add a stage")) == "empty. Add a stage"


def test_journal_errors_come_back_as_themselves_not_as_their_parent():
    assert type(journaled(JournalDamaged("x"))) is JournalDamaged
    assert type(journaled(Concurrency("x"))) is Concurrency
    assert type(journaled(UsageError("x"))) is UsageError


def test_a_kind_without_a_class_is_the_root_and_not_a_bug():
    error = error_from(ErrorInfo(kind="PROCESS", code="command_failed", message="exit 3"))
    assert type(error) is ObzenError
    assert error.kind == "PROCESS"


def test_a_code_of_a_newer_release_becomes_the_general_code_of_its_kind():
    error = error_from(ErrorInfo(kind="TRANSIENT", code="from_the_future", message="x"))
    assert (type(error), error.code, error.kind) == (Transient, "transient", "TRANSIENT")


def test_equal_faults_have_equal_traces():
    def fail(number):
        raise KeyError(number)

    traces = []
    for number in range(2):
        try:
            fail(number)
        except KeyError as error:
            traces.append(classify(error).trace)
    assert traces[0] == traces[1] != ""
    assert re.fullmatch("[0-9a-f]{16}", traces[0])
    assert classify(KeyError(1)).trace == ""


def test_a_circle_of_causes_ends():
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    info = classify(first)
    assert (info.message, info.cause.message, info.cause.cause) == ("a", "b", None)
    first.__cause__ = first
    assert classify(first).cause is None


def test_a_tower_of_causes_is_cut_at_eight():
    error = ValueError("0")
    for number in range(1, 5000):
        outer = ValueError(str(number))
        outer.__cause__ = error
        error = outer
    info, depth = classify(error), 1
    while info.cause is not None:
        info, depth = info.cause, depth + 1
    assert depth == 8


class _Speechless(Exception):
    def __str__(self):
        raise RuntimeError("not even this")


class _Forgetful(Transient):
    def __init__(self, status):
        self.status = status


class _Numbered(Transient):
    def __init__(self, status):
        super().__init__(f"status {status}")
        self.code = status


class _Broken(Transient):
    @property
    def origin(self):
        raise RuntimeError("mine")

    @origin.setter
    def origin(self, value):
        pass


def test_an_error_that_cannot_speak_is_still_told():
    assert classify(_Speechless()).message == "_Speechless (its text could not be made: RuntimeError)"


def test_a_subclass_of_the_user_s_that_forgets_our_init_is_still_transient():
    info = classify(_Forgetful(503))
    assert (info.kind, info.code, info.message, info.type) == ("TRANSIENT", "transient", "503", "_Forgetful")


def test_a_subclass_of_the_user_s_with_a_code_of_its_own_is_still_transient():
    info = classify(_Numbered(503))
    assert (info.kind, info.code, info.message) == ("TRANSIENT", "transient", "status 503")
    assert _Numbered(503).retryable


def test_an_error_class_that_breaks_in_our_hands_is_told_as_a_bug():
    info = classify(_Broken("x"))
    assert (info.kind, info.code, info.type) == ("INTERNAL", "internal", "_Broken")
    assert info.message == "_Broken (it could not be read: RuntimeError)"


class _Level(enum.IntEnum):
    HIGH = 3


class _Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (2**63 - 1, 2**63 - 1),
        (2**63, str(2**63)),
        (_Level.HIGH, 3),
        (_Text("a"), "a"),
        (True, True),
        (None, None),
        (1.5, 1.5),
        (b"x", "b'x'"),
        (["a"], "['a']"),
        ("\udcff.csv", "\\udcff.csv"),
    ],
)
def test_any_field_survives_the_codec(value, kept):
    back = journaled(Permanent("x", field=value)).details["field"]
    assert (back, type(back)) == (kept, type(kept))


@given(st.text(max_size=20), st.text(max_size=20), st.floats(0, 1e6))
def test_any_text_survives_the_codec(message, remedy, wait):
    error = Transient(message, remedy=remedy, retry_after=wait)
    error.__notes__ = [message]
    info = DECODE(ENCODE(classify(error)))
    assert info.message == message or not message
    assert info.retry_after_ms == round(wait * 1000)


def test_text_that_utf8_cannot_hold_is_escaped_and_long_text_is_cut():
    info = classify(OSError("cannot open \udcff"))
    assert ENCODE(info)
    assert info.message == "cannot open \\udcff"
    assert len(classify(Permanent("x" * 100_000, field="y" * 100_000)).message) == 8192


@pytest.mark.parametrize("wait", [float("inf"), float("nan"), -1.0, 1e300, 10**400, "soon", "", [5]])
def test_a_wait_that_is_none_is_dropped(wait):
    info = classify(Transient("x", retry_after=wait))
    assert (info.kind, info.retryable, info.retry_after_ms) == ("TRANSIENT", True, None)


def test_a_wait_may_be_the_text_of_a_header_and_one_that_a_subclass_sets_is_no_danger():
    assert classify(RateLimited("x", retry_after="12")).retry_after_ms == 12_000
    assert Transient("x", retry_after=" 0.5 ").retry_after == 0.5
    error = Transient("x")
    error.retry_after = "Fri, 31 Dec 1999 23:59:59 GMT"
    assert (classify(error).kind, classify(error).retry_after_ms) == ("TRANSIENT", None)


def test_user_words_need_no_message():
    assert (str(Transient()), str(Permanent())) == ("transient failure", "permanent failure")
    assert RateLimited(retry_after=1).kind == "RATE_LIMITED"
    assert Cancelled("x").retryable is False


def test_an_id_error_shows_what_is_not_text():
    assert str(IdValidationError("run_id", None)) == "invalid run_id: None"


def test_causes_come_back_as_errors():
    back = journaled(InternalError("outer").caused_by(Permanent("inner")))
    assert isinstance(back.__cause__, Permanent)
