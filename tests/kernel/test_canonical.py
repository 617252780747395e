"""Canonical JSON: one byte string a value, and nothing in it that could not be reproduced or must not be kept."""

import dataclasses
import datetime
import enum
import hashlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from obzen_runtime.kernel import ValidationFailed, canonical_hash, canonical_json

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


def refused(value, code, **options):
    with pytest.raises(ValidationFailed) as caught:
        canonical_json(value, **options)
    assert caught.value.code == code
    assert caught.value.remedy
    return caught.value


def test_M_009_rfc_8785_3_2_3_orders_keys_by_utf16_code_units():
    value = {
        "\u20ac": "Euro Sign",
        "\r": "Carriage Return",
        "\ufb33": "Hebrew Letter Dalet With Dagesh",
        "1": "One",
        "\U0001f600": "Emoji: Grinning Face",
        "\u0080": "Control",
        "\u00f6": "Latin Small Letter O With Diaeresis",
    }
    assert canonical_json(value).decode() == (
        '{"\\r":"Carriage Return","1":"One","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis",'
        '"\u20ac":"Euro Sign","\U0001f600":"Emoji: Grinning Face","\ufb33":"Hebrew Letter Dalet With Dagesh"}'
    )


def test_M_009_rfc_8785_3_2_2_escapes_as_the_sample_does():
    value = {"string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/", "literals": [None, True, False]}
    assert canonical_json(value) == bytes.fromhex(
        "7b 22 6c 69 74 65 72 61 6c 73 22 3a 5b 6e 75 6c 6c 2c 74 72 75 65 2c 66 61 6c 73 65 5d 2c"
        "22 73 74 72 69 6e 67 22 3a 22 e2 82 ac 24 5c 75 30 30 30 66 5c 6e 41 27 42 5c 22 5c 5c 5c 5c 5c 22 2f 22 7d"
    )


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        (
            '{"sin":"ignore locale","péché":"is wrong according to French","pêche":"but canonicalization MUST","peach":"This order"}',
            '{"peach":"This order","péché":"is wrong according to French","pêche":"but canonicalization MUST","sin":"ignore locale"}',
        ),
        (
            '{"1":{"f":{"f":"hi","F":5},"\\n":56},"10":{},"":"empty","a":{},"111":[{"e":"yes","E":"no"}],"A":{}}',
            '{"":"empty","1":{"\\n":56,"f":{"F":5,"f":"hi"}},"10":{},"111":[{"E":"no","e":"yes"}],"A":{},"a":{}}',
        ),
        ('{"Unnormalized Unicode":"A\\u030a"}', '{"Unnormalized Unicode":"A\u030a"}'),
        ('[56,{"d":true,"10":null,"1":[]}]', '[56,{"1":[],"10":null,"d":true}]'),
        ('{"\\u0080":"Control\\u007f","</script>":"Browser"}', '{"</script>":"Browser","\u0080":"Control\u007f"}'),
    ],
)
def test_M_009_published_vectors_give_identical_bytes(given_text, expected):
    assert canonical_json(json.loads(given_text)) == expected.encode()


def test_M_009_every_control_character_has_its_one_escape():
    short = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r"}
    for code in range(32):
        assert canonical_json(chr(code)) == b'"' + short.get(code, f"\\u{code:04x}").encode() + b'"'


@given(plain)
def test_M_009_the_bytes_are_json_of_the_same_value_and_a_fixed_point(value):
    kept = canonical_json(value)
    assert json.loads(kept) == value
    assert canonical_json(json.loads(kept)) == kept


@given(st.dictionaries(st.text(max_size=4), st.integers(0, 9)), st.randoms())
def test_M_009_the_order_of_insertion_does_not_matter(value, random):
    items = list(value.items())
    random.shuffle(items)
    assert canonical_hash(dict(items)) == canonical_hash(value)


def test_M_009_the_hash_is_sha256_of_the_bytes():
    assert canonical_hash({}) == hashlib.sha256(b"{}").hexdigest()
    assert canonical_hash({"b": 1, "a": [True]}) == hashlib.sha256(b'{"a":[true],"b":1}').hexdigest()


@pytest.mark.parametrize("number", [1.5, 1.0, -0.0, float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"a": [x]}, lambda x: (x,)])
def test_M_009_floats_are_refused_wherever_they_hide(number, wrap):
    refused(wrap(number), "float_not_allowed")


def test_M_009_the_place_of_a_refusal_is_named():
    assert refused({"a": [0, {"b": 1.5}]}, "float_not_allowed").details["place"] == "$.a.1.b"


@pytest.mark.parametrize("number", [2**53, -(2**53), 2**64, 10**400])
def test_M_009_integers_a_json_reader_would_round_are_refused(number):
    refused([number], "out_of_range")
    assert canonical_json([2**53 - 1, -(2**53) + 1]) == b"[9007199254740991,-9007199254740991]"


@pytest.mark.parametrize("value", [{1: "a"}, {None: 1}, {("a",): 1}, b"bytes", bytearray(b"x"), object(), 1j, {"a": lambda: 0}])
def test_M_009_what_json_has_no_form_for_is_refused(value):
    refused(value, "wrong_type")


@pytest.mark.parametrize("value", ["\ud800", ["a\udfff"], {"\ud83d": 1}])
def test_M_009_half_a_surrogate_pair_is_refused(value):
    refused(value, "not_encodable")


def test_M_009_circles_and_towers_are_refused():
    circle = []
    circle.append(circle)
    refused(circle, "too_large")
    tower = []
    for _ in range(200):
        tower = [tower]
    refused(tower, "too_large")


def test_M_009_structs_dataclasses_and_enums_have_the_form_of_their_fields():
    class Colour(enum.Enum):
        RED = "red"

    class Step(msgspec.Struct):
        name: str
        colour: Colour

    @dataclasses.dataclass
    class Plan:
        steps: tuple[Step, ...]
        day: datetime.date

    plan = Plan((Step("a", Colour.RED),), datetime.date(2024, 2, 29))
    assert canonical_json(plan) == b'{"day":"2024-02-29","steps":[{"colour":"red","name":"a"}]}'


def test_M_009_sets_have_one_order():
    assert canonical_json({"tags": {"b", "a", "c"}}) == b'{"tags":["a","b","c"]}'


def test_M_009_what_looks_secret_is_refused_and_may_be_allowed_by_place():
    value = {"parameters": [{"password": "hunter2"}]}
    assert refused(value, "secret_refused").details["place"] == "$.parameters.0.password"
    assert b"hunter2" in canonical_json(value, allowed=["$.parameters.0.password"])
    with pytest.raises(ValidationFailed, match="looks like a secret"):
        canonical_hash(value)
