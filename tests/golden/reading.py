"""What a version does with a golden run: decode, replay, go on."""

from pathlib import Path

from obzen_runtime import FlowFailed, resume
from obzen_runtime.events import Record, RunResumed
from obzen_runtime.flow import Flow, replay, schemas_written
from obzen_runtime.journal import RunDirectory
from obzen_runtime.kernel import NotFound, StateFailed
from obzen_runtime.stages import Codec
from tests.golden.kit import events_of, records_of


def codecs_of(flow: Flow, run: Path, records: list[tuple[int, Record]]) -> dict[str, Codec]:
    """How the events of a run are read by a flow."""
    codecs = {name: Codec(name, declared) for name, declared in flow.topology.outputs.items()}
    schemas_written(codecs, RunDirectory(run).read_manifest(), {})
    for _, record in records:
        if isinstance(record, RunResumed):
            schemas_written(codecs, RunDirectory(run).read_manifest(), record.schemas)
    return codecs


def replayed(flow: Flow, run: Path) -> bool:
    """Whether a replay finds no difference; False when it says that part of the log is gone."""
    try:
        report = replay(flow, run)
    except (NotFound, StateFailed):
        return False
    assert report.differences == (), [str(each) for each in report.differences]
    return True


def gone_on(flow: Flow, run: Path) -> tuple[str, dict[str, str]]:
    """The state that going on ends in, and the events then."""
    try:
        state = resume(flow, run, journal=run.parent, allow_code_change=True).state
    except FlowFailed as failed:
        state = f"failed: {failed.report.error.code}"
    records = records_of(run)
    return state, events_of(records, codecs_of(flow, run, records))
