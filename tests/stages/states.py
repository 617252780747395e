"""What the tests of state share: a total, and a flow of one stage that keeps state."""

import msgspec

import obzen_runtime as oz
from tests.stages.kit import Seen, ints, play, source_of


class Total(msgspec.Struct, frozen=True):
    key: int
    count: int
    sum: int


def through(stage, *, count=100, items=None, kind=int, given=int, journal=None, **options):
    seen = Seen()
    origin = ints(count) if items is None else source_of(*items, kind=kind)
    return play(oz.Flow("f", origin >> stage >> seen.sink(given), **options), journal=journal), seen


def drained(done):
    assert done.error is None
    assert done.state == "drained"
    assert all(verdict.passed for verdict in done.verdicts)
