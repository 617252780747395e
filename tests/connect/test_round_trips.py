import datetime
import math

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from obzen_runtime.connect import csv_sink, csv_source, json_sink, json_source, jsonl_sink, jsonl_source
from tests.connect.kit import Colour, Every, read

TEXT = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(
    ['"', "\r", "\n", "\r\n", ",", "null", " x ", "'", '""', "\0", "a\rb", "\ufeff"]
)
INTS = st.integers(-(2**63), 2**64 - 1)
MOMENTS = st.datetimes(timezones=st.just(datetime.UTC)) | st.datetimes()
SPANS = st.timedeltas(datetime.timedelta(days=-10_000), datetime.timedelta(days=10_000))
EVENTS = st.builds(
    Every,
    whole=INTS,
    real=st.floats(allow_nan=False),
    truth=st.booleans(),
    text=TEXT,
    data=st.binary(max_size=10),
    money=st.decimals(allow_nan=False, allow_infinity=False),
    moment=MOMENTS,
    day=st.dates(),
    time=st.times(),
    span=SPANS,
    key=st.uuids(),
    colour=st.sampled_from(Colour),
    maybe_whole=st.none() | INTS,
    maybe_truth=st.none() | st.booleans(),
    maybe_day=st.none() | st.dates(),
    maybe_colour=st.none() | st.sampled_from(Colour),
)


def through(directory, sink, source, events, kind=Every):
    path = directory / "file"
    written = sink("out", kind, path=path)
    writer = written.handler(**written.bound)
    writer.resume(None)
    for start in range(0, len(events), 3):
        writer.write(events[start : start + 3])
        writer.flush()
    writer.close()
    return read(source("in", kind, path=path))


@given(st.lists(EVENTS, max_size=8))
def test_csv_gives_back_what_was_written(tmp_path_factory, events):
    assert through(tmp_path_factory.mktemp("csv"), csv_sink, csv_source, events) == events


@given(st.lists(EVENTS, max_size=8).filter(lambda events: all(math.isfinite(event.real) for event in events)))
def test_json_gives_back_what_was_written(tmp_path_factory, events):
    directory = tmp_path_factory.mktemp("json")
    assert through(directory, json_sink, json_source, events) == events
    assert through(directory, jsonl_sink, jsonl_source, events) == events


class Pair(msgspec.Struct, frozen=True):
    left: str
    right: str


@given(st.lists(st.builds(Pair, TEXT, TEXT), max_size=30))
def test_any_text_survives_a_csv_cell(tmp_path_factory, pairs):
    assert through(tmp_path_factory.mktemp("csv"), csv_sink, csv_source, pairs, Pair) == pairs


def test_not_a_number_survives_csv(tmp_path):
    made = msgspec.defstruct("Made", [("x", float)], frozen=True)
    [back] = through(tmp_path, csv_sink, csv_source, [made(math.nan)], made)
    assert math.isnan(back.x)
