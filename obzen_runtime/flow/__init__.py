"""Flows: graphs of stages, checked when described, supervised when run."""

from obzen_runtime.flow.builder import Flow
from obzen_runtime.flow.changes import judge_changes
from obzen_runtime.flow.contracts import Verdict
from obzen_runtime.flow.machine import PIPELINE, Cancel, Drain, PauseFlow, ResumeFlow, StopFlow
from obzen_runtime.flow.pipeline import Pipeline
from obzen_runtime.flow.requeue import Requeue, Wanted, refusal, requeued, source_name
from obzen_runtime.flow.topology import Arc, Ignored, Topology, ignored

__all__ = [
    "PIPELINE",
    "Arc",
    "Cancel",
    "Drain",
    "Flow",
    "Ignored",
    "PauseFlow",
    "Pipeline",
    "Requeue",
    "ResumeFlow",
    "StopFlow",
    "Topology",
    "Verdict",
    "Wanted",
    "ignored",
    "judge_changes",
    "refusal",
    "requeued",
    "source_name",
]
