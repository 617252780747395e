"""The conformance suite for journals: what every backend must do, as cases that anybody can run against their own.

A backend gives a `Harness`: how to open a journal, and what it can do beyond keeping records in one process. Each
case gets a fresh harness. With pytest and pytest-asyncio:

    @pytest.mark.asyncio
    @pytest.mark.parametrize("case", JOURNAL_CASES, ids=str)
    async def test_my_journal(case, tmp_path):
        harness = Harness(open=lambda: MyJournal(tmp_path), survives=True, encodes=True, unlock=..., files=...)
        if case.applies(harness):
            await case.check(harness)

Without it: `asyncio.run(failures(make_harness))` gives the cases that failed, with the reason. What no case can see is
whether bytes that were synced outlive a loss of power: that is between the backend and the disk.
"""

from collections.abc import Callable

from obzen_runtime.testing.deaths import OVERTAKEN, STORED
from obzen_runtime.testing.harness import Case, Check, Harness, NotConforming
from obzen_runtime.testing.promises import ENCODING, PLAIN, SURVIVING
from obzen_runtime.testing.races import RACES, SURVIVING_RACES

__all__ = ["JOURNAL_CASES", "Case", "Harness", "NotConforming", "failures"]


async def failures(make: Callable[[], Harness]) -> dict[str, str]:
    """Run every case that applies, each with a fresh harness; names of those that failed, with the reason."""
    failed = {}
    for case in JOURNAL_CASES:
        harness = make()
        if case.applies(harness):
            try:
                await case.check(harness)
            except Exception as error:  # noqa: BLE001 - whatever a backend raises is what is wrong with it
                failed[case.name] = f"{type(error).__name__}: {error}"
    return failed


def _cases(checks: tuple[Check, ...], *needs: str) -> list[Case]:
    return [Case(check.__name__, check, frozenset(needs)) for check in checks]


JOURNAL_CASES: tuple[Case, ...] = (
    *_cases((*PLAIN, *RACES)),
    *_cases((*SURVIVING, *SURVIVING_RACES), "survives"),
    *_cases(ENCODING, "encodes"),
    *_cases(OVERTAKEN, "survives", "unlock"),
    *_cases(STORED, "survives", "unlock", "files"),
)
"""All cases, each a promise in words."""
