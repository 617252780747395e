"""Values of a state without a type come back as what they were."""

from typing import Any

import msgspec
import pytest

from obzen_runtime.stages.shape import Shape, Unkept, same


@pytest.mark.parametrize("value", [[1, ["a", (None,)]], {"a": [1], 2: {(1, "x"): b"y"}}, ["t", "l", "d"], [], {}])
def test_values_of_no_declared_type_come_back_as_the_containers_they_were(value):
    shape = Shape(Any)
    packed = msgspec.msgpack.decode(msgspec.msgpack.encode(shape.pack([value])))
    [back] = Shape(Any).unpack(packed)
    assert repr(back) == repr(value)


def test_what_nobody_wrote_is_not_read():
    with pytest.raises(Unkept, match="unknown spelling 'x'"):
        Shape(Any).unpack([1, [["x", 1]]])
    with pytest.raises(Unkept, match="cannot be decoded"):
        Shape(int | list[int] | tuple[int, ...]).unpack([2, [b"\x01"]])
    with pytest.raises(Unkept, match="2 values came back as 1"):
        same([1, 2], [1])
