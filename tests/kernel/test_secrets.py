"""The secret scan: what it must catch, and the everyday words it must let through."""

import pytest

from obzen_runtime.kernel import find_secret, looks_secret
from obzen_runtime.kernel.secrets import NAMES

WORDS = "legal winner thank year wave sausage worth useful legal winner thank yellow"


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE",
        "-----BEGIN PRIVATE KEY-----",
        "Authorization: Basic dXNlcjpwdw==",
        "curl -H 'authorization: token x'",
        "Bearer abcdefgh12345678",
        "postgres://bob:hunter2@db/app",
        "password=hunter2",
        "api_key: 12",
        "AKIAABCDEFGHIJKLMNOP",
        "ghp_" + "a" * 36,
        "xoxb-1234567890-abc",
        "eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl",
        WORDS,
        " ".join(["abandon"] * 24),
    ],
)
def test_M_065_texts_with_the_shape_of_a_secret_are_seen(text):
    assert looks_secret(text)
    assert find_secret({"note": ["fine", text]}) == "$.note.1"
    assert find_secret({text: 1}) == f"$.{text}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the password was changed",
        "https://example.org:8080/a@b",
        "bearer of news",
        "AKIA",
        "BEGIN PUBLIC KEY",
        "a secret garden",
        WORDS + " zebra",
        WORDS.rsplit(" ", 1)[0],
        WORDS.upper(),
        WORDS.replace("legal", "of"),
    ],
)
def test_M_065_everyday_texts_pass(text):
    assert not looks_secret(text)


def test_M_065_there_are_23_names():
    assert len(set(NAMES)) == 23
    assert list(NAMES) == sorted(NAMES)


@pytest.mark.parametrize("name", ["password", "DB_PASSWORD", "apiKey", "api-key", "private.key", "x_access_token", "Authorization"])
@pytest.mark.parametrize("value", ["x", 7, b"x", ["x"], {"a": 1}])
def test_M_065_a_name_that_says_so_needs_only_a_value(name, value):
    assert find_secret({"outer": {name: value}}) == f"$.outer.{name}"


@pytest.mark.parametrize("value", [None, "", [], {}, True, False])
def test_M_065_a_name_without_a_value_tells_nothing(value):
    assert find_secret({"password": value}) is None


@pytest.mark.parametrize("name", ["token_count", "max_tokens", "author", "key", "pass", "keyboard"])
def test_M_065_everyday_names_pass(name):
    assert find_secret({name: "x"}) is None


def test_M_065_an_allowed_place_is_skipped_with_all_it_holds():
    value = {"a": {"password": "x"}, "b": {"password": "y"}}
    assert find_secret(value) == "$.a.password"
    assert find_secret(value, {"$.a"}) == "$.b.password"
    assert find_secret(value, {"$.a", "$.b.password"}) is None
    assert find_secret(value, {"$"}) is None


def test_M_065_the_first_hit_in_reading_order_is_told():
    assert find_secret([["password=1"], {"secret": 1}]) == "$.0.0"
    assert find_secret(3) is None
