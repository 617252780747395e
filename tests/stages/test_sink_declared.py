"""What a sink is declared to be and what its handler can do must agree."""

from collections.abc import Sequence

import pytest

import obzen_runtime as oz
from obzen_runtime.kernel import UsageError
from obzen_runtime.stages import code_fingerprint


def test_a_sink_and_its_class_of_delivery_must_agree():
    def plain(n: int) -> None: ...

    def with_key(n: int, *, key: oz.IdempotencyKey) -> None: ...

    def with_keys(batch: list[int], *, keys: Sequence[oz.IdempotencyKey]) -> None: ...

    async def waiting(n: int) -> None: ...

    class Half:
        def write(self, n: int) -> None: ...

        def commit(self, position: bytes) -> None: ...

    class Lost:
        def write(self, n: int) -> None: ...

        def position(self) -> int:
            return 0

    for handler, options, said, remedy in [
        (plain, {"delivery": "keyed"}, "no parameter for the key", "*, key: oz.IdempotencyKey"),
        (with_key, {"delivery": "keyed", "batch": 3}, "keys of its batch", "list|keys: Sequence"),
        (with_keys, {"delivery": "keyed"}, "no parameter for the key", "key: oz.IdempotencyKey"),
        (with_key, {}, "'key' is an oz.IdempotencyKey, and the sink is not keyed", 'delivery="keyed"'),
        (plain, {"delivery": "transactional"}, "cannot store its position", "Make it a class"),
        (Half, {"delivery": "transactional"}, "cannot store its position", "stored(run: str, stage: str)"),
        (waiting, {"delivery": "sensitive", "concurrency": 2}, "one after the other", ""),
        (plain, {"delivery": "sensitive", "batch": 2}, "never repeats it", ""),
        (plain, {"delivery": "sensitive", "retry": oz.Retry()}, "never repeats it", ""),
        (plain, {"delivery": "sure"}, "give one of safe, keyed, transactional, sensitive", ""),
        (Lost, {}, "has position() and no resume(position)", "both, or neither"),
    ]:
        with pytest.raises(UsageError) as refused:
            oz.sink(**options)(handler)
        words = remedy.split("|")
        assert said in refused.value.message or words[0] in str(refused.value), refused.value
        assert any(word in str(refused.value) for word in words)


@pytest.mark.parametrize("method", ["flush", "close", "sync", "commit"])
def test_a_writer_with_a_field_where_a_method_is_asked_for_is_refused(method):
    writer = type("Writer", (), {"write": lambda self, n: None, method: True})
    with pytest.raises(UsageError, match=f"sink Writer: {method} is not a method"):
        oz.sink(writer)


def test_a_key_is_no_parameter_to_be_set():
    @oz.sink(delivery="keyed")
    def pay(n: int, *, key: oz.IdempotencyKey, account: str = "a") -> None: ...

    assert list(pay.parameters) == ["account"]
    assert pay.key == "key"


def test_a_stand_in_has_the_shape_of_what_it_stands_for():
    def told(n: int, *, account: str) -> None: ...

    @oz.sink(simulate=told)
    def pay(n: int, *, account: str) -> None: ...

    stand_in = pay(account="a").named("payments").stand_in()
    assert (stand_in.name, stand_in.handler, dict(stand_in.bound)) == ("payments", told, {"account": "a"})

    @oz.sink
    def alone(n: int, *, account: str) -> None: ...

    assert alone.stand_in() is None
    assert code_fingerprint(alone.named("pay")) == code_fingerprint(pay)
    with pytest.raises(UsageError, match=r"has the parameters \(account\), its stand-in other has \(\)"):
        oz.sink(simulate=other)(pay.handler)
    with pytest.raises(UsageError, match="one is a class and one a function"):
        oz.sink(simulate=type("Other", (), {"write": lambda self, n: None}))(other)


def other(n: int) -> None: ...
