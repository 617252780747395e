"""What is told of a run when it has ended, or while it lives."""

import os

import msgspec

from obzen_runtime.flow import Verdict
from obzen_runtime.kernel import ErrorInfo, ObzenError

__all__ = ["FlowFailed", "Report", "StageReport", "footer"]


class StageReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one stage did, in events."""

    state: str
    received: int = 0
    emitted: int = 0
    dropped: int = 0
    dead: int = 0
    doubted: int = 0
    errors: int = 0
    seconds: float = 0.0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended."""

    state: str
    """`drained`, `failed` or `cancelled`."""
    run_id: str
    directory: str
    """Where the run is kept; empty for a run in memory."""
    reason: str = ""
    stages: dict[str, StageReport] = {}
    contracts: tuple[Verdict, ...] = ()
    error: ErrorInfo | None = None
    dead_letters: int = 0
    earlier: bool = False
    """The run had drained before: nothing was done."""

    @property
    def doubted(self) -> int:
        """Deliveries of which nobody knows whether they were made."""
        return sum(stage.doubted for stage in self.stages.values())


class FlowFailed(ObzenError):
    """A flow failed. `report` says how."""

    default_code = "flow_failed"

    def __init__(self, report: Report) -> None:
        assert report.error is not None
        where = report.error.details.get("stage") or report.error.details.get("actor")
        super().__init__(f"the flow failed{f' in stage {where}' if where else ''}: {report.error.message}", remedy=report.error.remedy)
        self.report = report


def footer(report: Report) -> str:
    """What to look at next, for standard error."""
    letters = f", {report.dead_letters} dead letters" if report.dead_letters else ""
    letters += f", {report.doubted} in doubt" if report.doubted else ""
    head = f"{report.state}{f' ({report.reason})' if report.state == 'cancelled' else ''}{letters}"
    if not report.directory:
        return head
    place = os.path.relpath(report.directory) if not report.directory.startswith("..") else report.directory
    then = f"replay {place} --verify" if report.state == "drained" else f"resume {place}"
    return f"{head}: {place}\n  obzen inspect {place}\n  obzen {then}"
