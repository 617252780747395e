"""A line says what happened and its fields, in words and as fields, and costs nothing that nobody wants to see."""

import logging

import pytest

from obzen_runtime.kernel import logger


class Loud:
    def __str__(self):
        raise AssertionError("nobody asked for this line")


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_a_line_reads_event_and_fields_and_keeps_them_as_fields(caplog, level):
    caplog.set_level(logging.DEBUG, "obzen")
    log = logger(actor="a", run="")
    getattr(log, level)("moved", to="b", count=3, actor="c")
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("obzen", level.upper())
    assert record.getMessage() == "moved actor=c to=b count=3"
    assert record.fields == {"actor": "c", "run": "", "to": "b", "count": 3}
    assert record.filename == "test_log.py"
    assert log.fields == {"actor": "a", "run": ""}


def test_percent_signs_are_nothing_special(caplog):
    caplog.set_level(logging.INFO, "obzen")
    logger().info("100 %d done", share="%s")
    assert caplog.messages == ["100 %d done share=%s"]


def test_a_line_below_the_level_is_not_even_made(caplog):
    caplog.set_level(logging.WARNING, "obzen")
    logger(what=Loud()).info("quiet")
    assert caplog.records == []
