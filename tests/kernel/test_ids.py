"""Ids: one rule a kind, checked on the way in and again at every decode."""

import re
import uuid
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from obzen_runtime.kernel import (
    ARTIFACT_ID,
    CONTEXT_KEY,
    FACT_KEY,
    OP_ID,
    OP_PATH,
    RUN_ID,
    STAGE_NAME,
    STATE_ID,
    ArtifactId,
    ContextKey,
    FactKey,
    IdValidationError,
    InternalError,
    OpId,
    OpPath,
    RunId,
    StageName,
    StateId,
    ValidationFailed,
    artifact_id,
    child_run_id,
    new_run_id,
    run_id_of,
    run_uuid,
)

SEGMENT = re.compile(r"[a-z][a-z0-9_]{0,62}")
BAD_SEGMENTS = ["", "Price", "1price", "a-b", "a.b", "a" * 64, "_a", "a b", "ä", "a\n", " a", "ａ", "a٣"]
RULES = [OP_ID, OP_PATH, STATE_ID, RUN_ID, STAGE_NAME, ARTIFACT_ID, FACT_KEY, CONTEXT_KEY]


class Clock:
    def __init__(self, ms):
        self.ms = ms

    def wall_ms(self):
        return self.ms

    def monotonic(self):
        return 0.0


class Entropy:
    def __init__(self, content):
        self.content = content

    def bytes(self, count):
        return self.content[:count]

    def uniform(self, low, high):
        return low


class Ids(msgspec.Struct, omit_defaults=True):
    op: OpId | None = None
    path: OpPath | None = None
    state: StateId | None = None
    run: RunId | None = None
    stage: StageName | None = None
    artifact: ArtifactId | None = None
    fact: FactKey | None = None
    context: ContextKey | None = None


@given(st.text(alphabet="abzAZ019_-. \n", max_size=66) | st.text(max_size=5))
def test_M_001_segment_rule_is_the_written_one_for_any_text(text):
    if SEGMENT.fullmatch(text):
        assert OP_ID.new(text) == text
    else:
        with pytest.raises(IdValidationError):
            OP_ID.new(text)


@pytest.mark.parametrize("text", BAD_SEGMENTS)
def test_M_001_segment_rule_refuses(text):
    with pytest.raises(IdValidationError):
        OP_ID.new(text)


def test_M_002_new_is_fallible_and_must_new_is_for_constants():
    assert OP_ID.new("price") == OP_ID.must_new("price") == "price"
    with pytest.raises(IdValidationError):
        OP_ID.new("Price")
    with pytest.raises(InternalError, match="invalid op_id: Price") as caught:
        OP_ID.must_new("Price")
    assert isinstance(caught.value.__cause__, IdValidationError)


def test_M_002_ids_are_plain_text_equal_hashable_and_stable():
    assert {OP_ID.new("price"), OP_ID.new("price")} == {"price"}
    assert type(OP_ID.new(type("Loud", (str,), {})("price"))) is str


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("op", "price", "Price"),
        ("path", "price.fetch", "price"),
        ("state", "price.fetch.pending", "price.fetch"),
        ("run", "nightly-2", "Nightly"),
        ("stage", "Tally", "9lives"),
        ("artifact", "0" * 64, "0" * 63),
        ("fact", "http/get:rates", "http//rates"),
        ("context", "prices.last", ""),
    ],
)
@pytest.mark.parametrize("codec", [msgspec.json, msgspec.msgpack])
def test_M_002_decode_checks_the_rule_again(codec, field, good, bad):
    kept = codec.encode(Ids(**{field: good}))
    assert getattr(codec.decode(kept, type=Ids), field) == good
    for wrong in (bad, good + "\n"):
        with pytest.raises(msgspec.ValidationError):
            codec.decode(codec.encode({field: wrong}), type=Ids)


@pytest.mark.parametrize("text", ["a", "a.b.c", "a.", ".b", "a..b", "a.B", "a.b\n", "a" * 64 + ".b"])
def test_M_003_op_path_has_exactly_two_segments(text):
    assert OP_PATH.new("machine.step") == "machine.step"
    with pytest.raises(IdValidationError):
        OP_PATH.new(text)


@pytest.mark.parametrize("text", ["a", "a.b", "a.b.c.d", "a.b.", "a.b.1c"])
def test_M_004_state_id_has_exactly_three_segments(text):
    assert STATE_ID.new("m.s.t") == "m.s.t"
    with pytest.raises(IdValidationError):
        STATE_ID.new(text)


@pytest.mark.parametrize(("rule", "kind"), [(OP_ID, "op_id"), (STATE_ID, "state_id"), (RUN_ID, "run_id")])
def test_M_005_the_error_names_kind_and_value(rule, kind):
    with pytest.raises(IdValidationError) as caught:
        rule.new("No!")
    error = caught.value
    assert str(error) == f"invalid {kind}: No!"
    assert (error.id_kind, error.value, error.code, error.kind) == (kind, "No!", "invalid_id", "VALIDATION")
    assert error.remedy
    assert isinstance(error, ValidationFailed)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_M_005_what_is_not_text_is_refused_by_every_rule(rule):
    for value in (None, 3, b"price", ["a"]):
        with pytest.raises(IdValidationError, match=rule.kind):
            rule.new(value)


@given(st.integers(0, 2**128 - 1))
def test_M_006_a_uuid_and_its_text_round_trip(number):
    value = uuid.UUID(int=number)
    run = run_id_of(value)
    assert re.fullmatch(r"[0-7][0-9a-hjkmnp-tv-z]{25}", run)
    assert RUN_ID.new(run) == run
    assert run_uuid(run) == value


@given(st.integers(0, 2**128 - 1), st.integers(0, 2**128 - 1))
def test_M_006_texts_sort_as_the_uuids_do(one, other):
    first, second = (run_id_of(uuid.UUID(int=number)) for number in (one, other))
    assert (first < second) == (one < other)


def test_M_006_a_new_run_id_is_the_uuid7_of_the_rfc_example():
    run = new_run_id(Clock(0x017F22E279B0), Entropy(((0xCC3 << 62) | 0x18C4DC0C0C07398F).to_bytes(10)))
    assert str(run_uuid(run)) == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


@given(st.integers(0, 2**48 - 2), st.binary(min_size=10, max_size=10), st.binary(min_size=10, max_size=10))
def test_M_006_run_ids_sort_by_the_millisecond_they_were_made_in(ms, chance, other):
    early, late = new_run_id(Clock(ms), Entropy(chance)), new_run_id(Clock(ms + 1), Entropy(other))
    assert early < late
    made = run_uuid(early)
    assert (made.version, made.variant, made.int >> 80) == (7, uuid.RFC_4122, ms)


def test_M_006_all_74_random_bits_reach_the_id():
    seen = {new_run_id(Clock(1), Entropy((1 << bit).to_bytes(10))) for bit in range(74)}
    assert len(seen) == 74


def test_M_006_a_child_run_id_is_reproducible_and_its_own():
    parent, fact = RUN_ID.new("nightly"), FACT_KEY.new("child/1")
    child = child_run_id(parent, fact)
    assert child == child_run_id(parent, fact)
    assert run_uuid(child).version == 5
    assert run_uuid(child) == uuid.uuid5(run_uuid(parent), "child/1")
    others = {child_run_id(RUN_ID.new("nightly2"), fact), child_run_id(parent, FACT_KEY.new("child/2")), child_run_id(child, fact)}
    assert len(others | {child}) == 4


def test_M_006_a_child_of_a_recorded_parent_has_this_id_for_ever():
    parent = run_id_of(uuid.UUID("017f22e2-79b0-7cc3-98c4-dc0c0c07398f"))
    assert parent == "01fwhe4ydgfk1shh6w1g60eecf"
    assert run_uuid(child_run_id(parent, FACT_KEY.new("child/1"))) == uuid.uuid5(
        uuid.UUID("017f22e2-79b0-7cc3-98c4-dc0c0c07398f"), "child/1"
    )
    assert str(run_uuid(RUN_ID.new("nightly"))) == NIGHTLY


NIGHTLY = str(uuid.uuid5(uuid.UUID("7f6d1d5e-1c0b-5a63-9a53-0b8c6f5d2e41"), "nightly"))


@pytest.mark.parametrize("name", ["nightly", "a", "0", "2024-01-01_import.v2", "z" * 64, "8" + "0" * 25, "i" * 26])
def test_M_006_a_name_given_by_the_user_is_a_run_id_and_stands_for_one_uuid(name):
    run = RUN_ID.new(name)
    assert run_uuid(run) == run_uuid(run)
    assert run_uuid(run).version == 5


@pytest.mark.parametrize("name", ["", " ", "\t", "Nightly", ".hidden", "-flag", "_x", "a/b", "..", "a" * 65, "a\n", "a\0", "ü"])
def test_M_006_run_names_that_could_not_be_a_directory_are_refused(name):
    with pytest.raises(IdValidationError):
        RUN_ID.new(name)


def test_M_007_an_artifact_id_is_the_sha256_of_its_bytes():
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert artifact_id(b"") == ARTIFACT_ID.new(empty)
    assert artifact_id(memoryview(b"abc")).startswith("ba7816bf")
    for wrong in (empty.upper(), empty[:-1], empty + "0", "g" * 64):
        with pytest.raises(IdValidationError):
            ARTIFACT_ID.new(wrong)


@pytest.mark.parametrize("rule", [FACT_KEY, CONTEXT_KEY], ids=repr)
@pytest.mark.parametrize("bad", ["", " ", ".a", "a.", "a..b", "a b", "a\n", "x" * 256, "a/ü"])
def test_M_008_keys_are_namespaced_texts(rule, bad):
    for good in ("price", "http.get/rates:EUR-USD", "x" * 255):
        assert rule.new(good) == good
    with pytest.raises(IdValidationError):
        rule.new(bad)


@pytest.mark.parametrize("name", ["Tally", "PerState", "_private", "top_n", "x" * 63])
def test_stage_names_take_what_python_calls_functions_and_classes(name):
    assert STAGE_NAME.new(name) == name


@pytest.mark.parametrize("name", ["", "1st", "a-b", "a.b", "a b", "x" * 64, "größe", "a\n"])
def test_stage_names_refuse(name):
    with pytest.raises(IdValidationError):
        STAGE_NAME.new(name)


def test_the_rule_reads_the_same_for_json_schema():
    for kind in (OpId, OpPath, StateId, RunId, StageName, ArtifactId, FactKey, ContextKey):
        (meta,) = get_args(kind.__supertype__)[1:]
        assert meta.pattern.endswith(r"$(?!\n)")
        assert "\\Z" not in meta.pattern
