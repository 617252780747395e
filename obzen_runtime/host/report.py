"""What is told of a run when it has ended, or while it lives."""

import shlex
from pathlib import Path

import msgspec

from obzen_runtime.flow import Verdict
from obzen_runtime.kernel import ErrorInfo, ObzenError, counted

__all__ = ["FlowFailed", "Report", "StageReport", "failure_of", "footer", "near"]


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
        super().__init__(f"the flow failed: {_cause(report)}", remedy=report.error.remedy)
        self.report = report


def failure_of(report: Report) -> str:
    """The error that ended a run, in one line with its remedy; empty when none did."""
    if report.error is None:
        return ""
    return f"{_cause(report)}{'. ' + report.error.remedy if report.error.remedy else ''}"


def _cause(report: Report) -> str:
    """An error with the stage where it was and, for what the user's code raised, its type."""
    error = report.error
    assert error is not None
    failed = next((name for name, stage in report.stages.items() if stage.state == "failed"), "")
    stage = str(error.details.get("stage") or error.details.get("actor") or failed)
    where = f"stage {stage}: " if stage and stage not in error.message else ""
    kind = f"{error.type}: " if error.type and not error.remedy and error.type not in error.message else ""
    return f"{where}{kind}{' '.join(error.message.split())}"


def footer(report: Report, seconds: float | None = None, failure: str = "") -> str:
    """How a run ended, where it is kept, and what can be asked of it: for standard error.

    `failure` is what is said of the error that ended it, where nobody else says it.
    """
    left = f", {counted(report.dead_letters, 'dead letter')}" if report.dead_letters else ""
    left += f", {counted(report.doubted, 'delivery', 'deliveries')} in doubt" if report.doubted else ""
    why = f" ({report.reason})" if report.state == "cancelled" and report.reason else ""
    took = f" after {seconds:.2f} s" if seconds is not None else ""
    when = " before, nothing was left to do" if report.earlier else took
    lines = [f"{report.state}{why}{when}{left}{f': {failure}' if failure else ''}"]
    if report.directory:
        place = shlex.quote(near(report.directory))
        lines += [f"  {place}", f"  obzen inspect {place}"]
        lines.append(f"  obzen replay {place} --verify" if report.state == "drained" else f"  obzen resume {place}")
        if report.dead_letters:
            lines.append(f"  obzen dead-letters {place}")
        if report.doubted:
            lines.append(f"  obzen resolve {place}")
    return "\n".join(lines)


def near(directory: str | Path) -> str:
    """A path as seen from here where it lies beneath, in a form that every command takes as a path."""
    whole, here = Path(directory).resolve(), Path.cwd()
    text = str(whole.relative_to(here)) if whole.is_relative_to(here) else str(whole)
    return text if "/" in text else f"./{text}"
