"""Flows: graphs of stages, checked when described, supervised when run."""

from obzen_runtime.flow.agreement import Agreement, Disagreement, VerifyReport, verify, verifying
from obzen_runtime.flow.builder import Flow, flow_from
from obzen_runtime.flow.certificate import ReplayReport, StageReplay
from obzen_runtime.flow.changes import judge_changes, judge_schemas, schemas_written
from obzen_runtime.flow.contracts import Verdict
from obzen_runtime.flow.divergence import Divergence
from obzen_runtime.flow.machine import PIPELINE, Cancel, Drain, PauseFlow, ResumeFlow, StopFlow
from obzen_runtime.flow.pipeline import Pipeline
from obzen_runtime.flow.replay import replay, replaying
from obzen_runtime.flow.requeue import Requeue, Wanted, refusal, requeued, source_name
from obzen_runtime.flow.topology import Arc, Ignored, Topology, ignored

__all__ = [
    "PIPELINE",
    "Agreement",
    "Arc",
    "Cancel",
    "Disagreement",
    "Divergence",
    "Drain",
    "Flow",
    "Ignored",
    "PauseFlow",
    "Pipeline",
    "ReplayReport",
    "Requeue",
    "ResumeFlow",
    "StageReplay",
    "StopFlow",
    "Topology",
    "Verdict",
    "VerifyReport",
    "Wanted",
    "flow_from",
    "ignored",
    "judge_changes",
    "judge_schemas",
    "refusal",
    "replay",
    "replaying",
    "requeued",
    "schemas_written",
    "source_name",
    "verify",
    "verifying",
]
