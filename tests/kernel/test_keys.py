"""A key is the text that the other side knows the work by, with the number of the try beside it."""

import json

import msgspec

from obzen_runtime.kernel import IdempotencyKey


def test_a_key_is_plain_text_for_whoever_takes_it():
    key = IdempotencyKey("r/sink/a@3", 2)
    assert (key, key.attempt) == ("r/sink/a@3", 2)
    assert {key: 1}["r/sink/a@3"] == 1
    assert json.dumps({"key": key}) == '{"key": "r/sink/a@3"}'
    assert msgspec.json.encode(str(key)) == b'"r/sink/a@3"'
    assert f"shop-{key}" == "shop-r/sink/a@3"


def test_two_tries_of_one_piece_of_work_have_one_key():
    assert IdempotencyKey("x").attempt == 1
    assert IdempotencyKey("x", 1) == IdempotencyKey("x", 7)
    assert hash(IdempotencyKey("x", 1)) == hash(IdempotencyKey("x", 7))
