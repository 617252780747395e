"""Stages: what a node of a flow does. Descriptions that decorators return, and the workers made from them."""

from obzen_runtime.stages.codec import LATEST, Codec, difference, schema_fingerprint
from obzen_runtime.stages.context import Context, Event
from obzen_runtime.stages.crossing import payload_problem, same_class
from obzen_runtime.stages.delivery import Delivery
from obzen_runtime.stages.edge import Edge, Entry, Inbox, Place, Window
from obzen_runtime.stages.emit import AtEnd, Each, Emit, Every, at_end, each, every
from obzen_runtime.stages.fingerprint import code_fingerprint
from obzen_runtime.stages.handling import Handling, OnError, Threads, threads
from obzen_runtime.stages.items import At, Bad, Offset
from obzen_runtime.stages.join import How, Join, JoinStage, join
from obzen_runtime.stages.letters import DeadLetters, LettersStage, dead_letters
from obzen_runtime.stages.machines import (
    TERMINAL,
    BeginDrain,
    Completed,
    Crash,
    Fail,
    GiveUp,
    Initialize,
    Pause,
    Ready,
    Restarted,
    Resume,
    Start,
    Suspend,
)
from obzen_runtime.stages.node import Link, Node, Path, Port, Target
from obzen_runtime.stages.outside import refused_by, refusing
from obzen_runtime.stages.recollect import Recollects
from obzen_runtime.stages.redo import Catcher, Redone, StoppedClock, finished, leftover, redo, take_over
from obzen_runtime.stages.schema import MISSING, Copied, Declared, Parameter, Signature, copied
from obzen_runtime.stages.shared import DEAD_LETTERS, Counters, Letters, Log
from obzen_runtime.stages.sink import Sink, SinkStage, sink
from obzen_runtime.stages.snapshots import Keeper, stands_on
from obzen_runtime.stages.source import Progress, Source, SourceStage, source
from obzen_runtime.stages.stage import Stage
from obzen_runtime.stages.standing import Standing
from obzen_runtime.stages.stateful import Fold, Stateful, fold, stage, stateful
from obzen_runtime.stages.top import Top, top
from obzen_runtime.stages.transform import Transform, transform
from obzen_runtime.stages.versions import Undecoded, schema, versions_of

__all__ = [
    "DEAD_LETTERS",
    "LATEST",
    "MISSING",
    "TERMINAL",
    "At",
    "AtEnd",
    "Bad",
    "BeginDrain",
    "Catcher",
    "Codec",
    "Completed",
    "Context",
    "Copied",
    "Counters",
    "Crash",
    "DeadLetters",
    "Declared",
    "Delivery",
    "Each",
    "Edge",
    "Emit",
    "Entry",
    "Event",
    "Every",
    "Fail",
    "Fold",
    "GiveUp",
    "Handling",
    "How",
    "Inbox",
    "Initialize",
    "Join",
    "JoinStage",
    "Keeper",
    "Letters",
    "LettersStage",
    "Link",
    "Log",
    "Node",
    "Offset",
    "OnError",
    "Parameter",
    "Path",
    "Pause",
    "Place",
    "Port",
    "Progress",
    "Ready",
    "Recollects",
    "Redone",
    "Restarted",
    "Resume",
    "Signature",
    "Sink",
    "SinkStage",
    "Source",
    "SourceStage",
    "Stage",
    "Standing",
    "Start",
    "Stateful",
    "StoppedClock",
    "Suspend",
    "Target",
    "Threads",
    "Top",
    "Transform",
    "Undecoded",
    "Window",
    "at_end",
    "code_fingerprint",
    "copied",
    "dead_letters",
    "difference",
    "each",
    "every",
    "finished",
    "fold",
    "join",
    "leftover",
    "payload_problem",
    "redo",
    "refused_by",
    "refusing",
    "same_class",
    "schema",
    "schema_fingerprint",
    "sink",
    "source",
    "stage",
    "stands_on",
    "stateful",
    "take_over",
    "threads",
    "top",
    "transform",
    "versions_of",
]
