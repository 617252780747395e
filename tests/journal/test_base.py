"""Levels by name."""

import pytest

from obzen_runtime.journal import Fsync, Interval, Memory, Os, level_from, level_text
from obzen_runtime.kernel import ConfigInvalid


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("memory", Memory()),
        ("os", Os()),
        (" OS ", Os()),
        ("fsync", Fsync()),
        ("interval(50)", Interval(50)),
        ("interval( 7 )", Interval(7)),
    ],
)
def test_a_level_is_known_by_its_name(text, level):
    assert level_from(text) == level
    assert level_from(level) is level
    assert level_from(level_text(level)) == level


@pytest.mark.parametrize(
    "text",
    [
        *("", "disk", "interval", "interval(x)", "interval(-1)", "interval(0)", "interval(60001)", "os(1)", "fsync(2)"),
        *("interval(²)", "interval(١٢)", "interval(50", "interval(5)0", "o)s", "interval(" + "9" * 5000 + ")", 50, None, b"os"),
    ],
)
def test_an_unknown_level_is_refused_with_what_there_is(text):
    with pytest.raises(ConfigInvalid) as caught:
        level_from(text)
    assert caught.value.remedy
