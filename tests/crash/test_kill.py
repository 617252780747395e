"""Fifty times `kill -9` at a drawn append of a whole command, resumed until done; `make crash` does a thousand, larger."""

import sys

import pytest

from tests.crash.campaign import CAMPAIGNS

ROUNDS = {"flights": 13, "words": 13, "orders": 12, "fanin": 12}
PARTS = [(name, part) for name, rounds in ROUNDS.items() for part in (range(6), range(6, rounds))]
"""In eight parts, so that two processes can share them."""


@pytest.mark.crash
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("name", "seeds"), PARTS, ids=lambda value: value if isinstance(value, str) else f"{value[0]}-{value[-1]}")
def test_T_E2E_what_was_killed_and_resumed_wrote_what_one_life_writes(name, seeds, tmp_path):
    campaign = CAMPAIGNS[name]
    rounds = campaign.begin(tmp_path, campaign.sizes[0])
    for seed in seeds:
        rounds.round(seed)
    sys.stdout.write(f"\n{name}: {len(seeds)} rounds, {rounds.deaths} deaths, {rounds.appends} appends a run, 0 differences\n")
    assert rounds.deaths > len(seeds) // 2, "a run may take fewer appends than the uninterrupted one, but not so often"


def test_there_are_fifty_rounds_over_the_four_flows():
    assert sum(len(seeds) for _, seeds in PARTS) == 50
    assert set(ROUNDS) == set(CAMPAIGNS)
