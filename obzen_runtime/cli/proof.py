"""The exit codes of a proof: whatever happens, it says whether the same came out, and if that cannot be said, why."""

from collections.abc import Callable

from obzen_runtime.cli.command import tell
from obzen_runtime.kernel import FlowInvalid, JournalDamaged, NotFound, StateFailed, UsageError

__all__ = ["DIVERGED", "MATCH", "REFUSED", "TOOL_FAILED", "UNCERTAIN", "proving"]

MATCH = 0
DIVERGED = 1
UNCERTAIN = 2
REFUSED = 3
TOOL_FAILED = 4


def proving(prove: Callable[[], int], *, debug: bool, unfit: int = UNCERTAIN) -> int:
    """Run a proof; an error becomes a message and a code.

    `unfit`: the flow is not there or not the run's; 3: the run cannot be relied on; 4: anything else that went wrong here.
    Wrong usage stays what it is.
    """
    failed: Exception
    try:
        return prove()
    except UsageError:
        raise
    except FlowInvalid as error:
        code, failed = unfit, error
    except (JournalDamaged, NotFound, StateFailed) as error:
        code, failed = unfit if error.code == "file_not_found" else REFUSED, error
    except Exception as error:  # noqa: BLE001 - told as a bug, under the code of a proof
        code, failed = TOOL_FAILED, error
    tell(failed, debug=debug)
    return code
