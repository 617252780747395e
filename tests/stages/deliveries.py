"""What tests of deliveries share: deaths at every append, and how often each event has a receipt."""

from collections import Counter

import pytest

from obzen_runtime.events import Receipt, Slice
from tests.flow.kit import Mortal

DEATHS = pytest.mark.parametrize("written", [False, True], ids=["before", "behind"])
"""Whether a process dies before or behind the writing of an append."""


def count_appends(flow_of):
    journal = Mortal()
    assert journal.live(flow_of()).state == "drained"
    return journal.appends


def sound(played):
    assert (played.state, played.error) == ("drained", None), played.error
    assert [each for each in played.pipeline.verdicts if not each.passed] == []


def terminal(played):
    """How often each event has a receipt."""
    slices = [each for record in played.of(Receipt) for each in record.inputs if isinstance(each, Slice)]
    return Counter(n for each in slices for n in range(each.start, each.stop))
