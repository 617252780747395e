"""Telemetry: named events reach whoever listens, and a listener cannot hurt what it listens to."""

import logging

import pytest

from obzen_runtime.kernel import Telemetry


@pytest.fixture
def heard():
    return []


def test_every_handler_gets_name_measurements_and_metadata(heard):
    telemetry = Telemetry(lambda *event: heard.append(("a", *event)))
    telemetry.attach(lambda *event: heard.append(("b", *event)))
    telemetry.emit("stage.block", {"received": 3}, {"stage": "orders"})
    assert heard == [(who, "stage.block", {"received": 3}, {"stage": "orders"}) for who in "ab"]


def test_nobody_listening_shows_as_empty_handlers():
    telemetry = Telemetry()
    assert telemetry.handlers == ()
    telemetry.emit("run.state", {}, {})


def test_a_detached_handler_hears_no_more_and_detaching_again_is_fine(heard):
    telemetry = Telemetry()
    detach = telemetry.attach(lambda *event: heard.append(event))
    detach()
    detach()
    telemetry.emit("run.state", {}, {})
    assert heard == []
    assert telemetry.handlers == ()


def test_the_same_handler_attached_twice_is_detached_once(heard):
    telemetry = Telemetry(lambda name, *_: heard.append(name))
    (handler,) = telemetry.handlers
    telemetry.attach(handler)()
    telemetry.emit("run.state", {}, {})
    assert heard == ["run.state"]


def test_a_handler_that_raises_is_detached_and_logged_and_the_others_still_hear(heard, caplog):
    def broken(*_):
        raise RuntimeError("exporter is gone")

    telemetry = Telemetry(broken, lambda name, *_: heard.append(name))
    with caplog.at_level(logging.ERROR):
        telemetry.emit("journal.sync", {}, {})
        telemetry.emit("journal.sync", {}, {})
    assert heard == ["journal.sync"] * 2
    assert len(caplog.records) == 1
    assert "journal.sync" in caplog.text
    assert "exporter is gone" in caplog.text


def test_a_handler_may_detach_itself_while_it_hears(heard):
    telemetry = Telemetry()

    def once(name, *_):
        heard.append(name)
        detach()

    detach = telemetry.attach(once)
    telemetry.emit("a", {}, {})
    telemetry.emit("b", {}, {})
    assert heard == ["a"]
