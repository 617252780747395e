"""Records to test with: one of every type."""

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
    End,
    Loss,
    Lost,
    Offsets,
    Receipt,
    Record,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunResumed,
    RunStarted,
    Since,
    Slice,
    Snapshot,
    StageInfo,
    Tick,
)
from obzen_runtime.kernel import ErrorInfo

__all__ = ["sample_records"]


def sample_records() -> list[Record]:
    """One record of every type, columns and options in use."""
    error = ErrorInfo(kind="PERMANENT", code="permanent", message="no", details={"n": 1, "s": "x", "f": 0.5, "b": True, "z": None})
    cursor = Cursor(next={"a": 5, "b": 7}, taken=12, within=1, gaps={"a": ((1, 2), (3, 4))})
    return [
        RunStarted(run_id="r", flow="f", at=1, stages=(StageInfo(name="a", kind="source", types=("int",)),)),
        Block(stage="a", base=0, count=2, at=2, payloads=b"\x92\x01\x02", types=b"\x00\x01", parents=Offsets(((1, 2),)), times=(1, 2)),
        Block(
            stage="b",
            base=0,
            count=1,
            at=3,
            payloads=b"\x91\x03",
            inputs=(Slice("a", 0, 2), End("a", "natural", 2), Tick(9)),
            cursor=cursor,
            parents=Since((0,)),
            outcomes=(1,),
            keys=b"\x91\xa1k",
            depth=2,
            errors=(Lost("dropped", b"\x01\x02"),),
        ),
        Receipt(stage="c", at=4, inputs=(Slice("b", 0, 1),), cursor=Cursor(next={"b": 1}, taken=1)),
        DeadLetter(ordinal=0, stage="b", at=5, error=error, upstream="a", event=1, payload=b"\x00" * 600, place="x.csv:3"),
        RunResumed(at=6, epoch=2, tail_lost=(10, 20)),
        RunFailed(at=7, cause=error),
        RunCancelled(at=8, reason="user_stop"),
        ActorState(actor="a", source="created", event="Start", target="running", at=9),
        ActorCompleted(actor="a", state="drained", reason="done", at=10, written=2, end="truncated"),
        ActorAborted(actor="a", state="running", error=error, at=11),
        ActorRestarted(actor="a", count=1, error=error, at=12),
        ActorStalled(actor="a", why="no_credit", seconds=1.5, at=13, detail="a->b"),
        Contract(edge="a->b", written=2, accounted=1, passed=False, at=14, missing="receipt"),
        Checkpoint(
            at=15, cursors={"b": cursor}, written={"a": 2}, ends={"a": "poison"}, counters={"a": {"n": 1}}, intents=(3,), dead_letters=1
        ),
        Snapshot(actor="b", artifact="ab" * 32, taken=12, at=16),
        Loss(start=1, stop=2, at=17),
        RunCompleted(at=18),
    ]
