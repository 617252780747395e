"""Records to test with: every kind, with every column in use, also those that no flow writes yet."""

from obzen_runtime.events import (
    ActorAborted,
    ActorCompleted,
    ActorRestarted,
    ActorStalled,
    ActorState,
    Block,
    Checkpoint,
    Contract,
    Cursor,
    DeadLetter,
    DeliveryIntent,
    DeliveryResolved,
    Dropped,
    End,
    Loss,
    Lost,
    Offsets,
    Paired,
    Receipt,
    Record,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunForked,
    RunResumed,
    RunStarted,
    SchemaChange,
    Setting,
    Since,
    Slice,
    Snapshot,
    StageInfo,
    Tick,
    Watermark,
)
from obzen_runtime.kernel import ErrorInfo

__all__ = ["RECORDS", "sample_records"]

_CAUSE = ErrorInfo(kind="TRANSIENT", code="transient", message="before", category="rpc", retryable=True, retry_after_ms=5)
_ERROR = ErrorInfo(
    kind="PERMANENT",
    code="permanent",
    message="no",
    category="user",
    type="ValueError",
    remedy="Do not.",
    details={"n": 1, "s": "x", "f": 0.5, "b": True, "z": None},
    cause=_CAUSE,
)
_CURSOR = Cursor(
    next={"a": 5, "b": 7}, taken=12, within=1, gaps={"a": ((1, 2), (3, 4))}, inside="a", mark=b"\xa4mark", since=3, crc=2**32 - 1
)
_STARTED = RunStarted(
    run_id="r", flow="f", at=1, epoch=3, stages=(StageInfo(name="a", kind="source", types=("int", "str")), StageInfo("b", "fold", ("a",)))
)
_RESUMED = RunResumed(
    at=6, epoch=2, tail_lost=(10, 20), code={"b": "cd" * 32}, schemas={"a": (SchemaChange(7, "ab" * 32, {"int": 1, "Order": 2}),)}
)
_FORKED = RunForked(run_id="r2", origin="r", at=30, live=True)

RECORDS: tuple[Record, ...] = (
    _STARTED,
    Block(stage="a", base=0, count=2, at=2, payloads=b"\x92\x01\xa1x", types=b"\x00\x01", parents=Offsets(((1, 2),)), times=(1, 2)),
    Block(
        stage="b",
        base=0,
        count=1,
        at=3,
        payloads=b"\x91\x03",
        types=1,
        inputs=(Slice("a", 0, 2), End("a", "natural", 2), Watermark("a", 5), Tick(9), Setting("p", b"\x01")),
        cursor=_CURSOR,
        parents=Since((0,)),
        outcomes=(1,),
        keys=b"\x91\xa1k",
        depth=2,
        errors=(Lost("dropped", b"\x01\x02"), Lost("undecodable", ((1, 1),))),
    ),
    Block(stage="j", base=0, count=2, at=3, payloads=b"\x92\x01\x02", parents=Paired(((1, 1), (0, 1)), "b", (0, -1))),
    Receipt(stage="c", at=4, inputs=(Slice("b", 0, 1),), cursor=Cursor(next={"b": 1}, taken=1), errors=(Lost("doubted", ((1, 1),)),)),
    DeadLetter(ordinal=0, stage="b", at=5, error=_ERROR, upstream="a", event=1, payload=b"\x00" * 60, type=1),
    DeadLetter(ordinal=1, stage="a", at=5, error=_ERROR, payload=b"raw", place="x.csv:3"),
    _RESUMED,
    RunFailed(at=7, cause=_ERROR),
    RunCancelled(at=8, reason="user_stop"),
    ActorState(actor="a", source="created", event="Start", target="running", at=9),
    ActorCompleted(actor="a", state="drained", reason="done", at=10, written=2, end="truncated"),
    ActorAborted(actor="a", state="running", error=_ERROR, at=11),
    ActorRestarted(actor="a", count=1, error=_ERROR, at=12),
    ActorStalled(actor="a", why="no_credit", seconds=1.5, at=13, detail="a -> b"),
    Contract(edge="a -> b", written=2, accounted=1, passed=False, at=14, missing="receipt"),
    Checkpoint(
        at=15,
        cursors={"b": _CURSOR},
        written={"a": 2},
        ends={"a": "poison"},
        counters={"a": {"n": 1}},
        intents=(3,),
        dead_letters=2,
        floor=2,
        taken_ends={"b": {"a": "natural"}},
        edges={"a -> b": (2, 1)},
        doubted={"c": {"b@0": "open"}},
        origins=(("r0", {"a": 1}),),
        snapshots={"b": 16},
        resumed=_RESUMED,
        forked=_FORKED,
    ),
    Snapshot(actor="b", artifact="ab" * 32, taken=12, at=16, cursor=_CURSOR, floor=3),
    Loss(start=1, stop=2, at=17),
    DeliveryIntent(stage="c", at=18, upstream="b", event=0),
    DeliveryResolved(stage="c", at=19, upstream="b", event=0, outcome="delivered"),
    _FORKED,
    Dropped(upto=1, at=21, archive="/archive/r", started=_STARTED, link=7),
    RunCompleted(at=22),
)
"""The golden runs of a version keep these, so a new column goes in here first."""


def sample_records() -> list[Record]:
    """One record of every type at least, every column in use."""
    return list(RECORDS)
