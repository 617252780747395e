"""Durable, supervised streaming and actions in plain Python, over one append-only journal.

A flow joins stages: `oz.run(oz.Flow("hello", numbers >> square >> show))`, where `numbers` is a generator decorated
with `@oz.source`, `square` a function with `@oz.transform` and `show` one with `@oz.sink`.
"""

from obzen_runtime.actor import Continue, Directive, Restart, SelfSupervised, Terminate, Transition
from obzen_runtime.events import DeadLetter
from obzen_runtime.flow import Flow, ReplayReport, VerifyReport, ignored, replay, replaying, verify, verifying
from obzen_runtime.fsm import Machine, on
from obzen_runtime.host import FlowFailed, Handle, Report, StageReport, resume, run, start
from obzen_runtime.journal import MemoryJournal, SegmentJournal
from obzen_runtime.kernel import ErrorInfo, IdempotencyKey, ObzenError, Permanent, Retry, Transient
from obzen_runtime.stages import (
    At,
    Bad,
    Context,
    Copied,
    Offset,
    Progress,
    Window,
    at_end,
    copied,
    dead_letters,
    each,
    every,
    fold,
    join,
    sink,
    source,
    stage,
    stateful,
    threads,
    top,
    transform,
)

__all__ = [
    "At",
    "Bad",
    "Context",
    "Continue",
    "Copied",
    "DeadLetter",
    "Directive",
    "ErrorInfo",
    "Flow",
    "FlowFailed",
    "Handle",
    "IdempotencyKey",
    "Machine",
    "MemoryJournal",
    "ObzenError",
    "Offset",
    "Permanent",
    "Progress",
    "ReplayReport",
    "Report",
    "Restart",
    "Retry",
    "SegmentJournal",
    "SelfSupervised",
    "StageReport",
    "Terminate",
    "Transient",
    "Transition",
    "VerifyReport",
    "Window",
    "at_end",
    "copied",
    "dead_letters",
    "each",
    "every",
    "fold",
    "ignored",
    "join",
    "on",
    "replay",
    "replaying",
    "resume",
    "run",
    "sink",
    "source",
    "stage",
    "start",
    "stateful",
    "threads",
    "top",
    "transform",
    "verify",
    "verifying",
]
