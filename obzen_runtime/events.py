"""Records: what a run writes down, as frozen structs that grow by addition only, and their codecs.

A run appends records to one journal. Most bytes are blocks: the outputs of one step of one stage as columns,
together with the input position that produced them. That both are in one record is the rule everything rests
on: there is no moment in which one exists without the other.

Records are msgpack maps; a field at its default is absent, so a reader of any version reads the records of an
older one. `KINDS` numbers the record types; the number stands in the journal's frame so that a reader can skip
what it does not need without decoding it. Numbers are never reused.

Event `stage@n` is element `n - base` of the block of `stage` that covers ordinal `n`. Offsets inside a block or
receipt count the inputs of that step from 0, over its slices in order.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, groupby, islice
from operator import sub
from types import MappingProxyType
from typing import Literal

import msgspec

from obzen_runtime.kernel import ErrorInfo, NotFound

__all__ = [
    "KINDS",
    "RECORD_FORMAT",
    "ActorAborted",
    "ActorCompleted",
    "ActorRestarted",
    "ActorStalled",
    "ActorState",
    "Block",
    "Checkpoint",
    "Contract",
    "Cursor",
    "DeadLetter",
    "DeliveryIntent",
    "DeliveryResolved",
    "Dropped",
    "End",
    "EndKind",
    "Input",
    "Loss",
    "Lost",
    "Offsets",
    "Paired",
    "Parents",
    "Receipt",
    "Record",
    "RunCancelled",
    "RunCompleted",
    "RunFailed",
    "RunForked",
    "RunResumed",
    "RunStarted",
    "Runs",
    "SchemaChange",
    "Setting",
    "Since",
    "Slice",
    "Snapshot",
    "StageInfo",
    "Tick",
    "Watermark",
    "decode_record",
    "encode_record",
    "expand",
    "kind_number",
    "runs_of",
    "worst_end",
]

EndKind = Literal["natural", "truncated", "poison"]
"""How a stream ended: all of it, cut short by a stop, or broken. Worst wins over several inputs."""

_END_ORDER: Mapping[EndKind, int] = MappingProxyType({"natural": 0, "truncated": 1, "poison": 2})


def worst_end(kinds: Iterable[EndKind]) -> EndKind:
    """`natural < truncated < poison`; natural when there are none."""
    return max(kinds, key=_END_ORDER.__getitem__, default="natural")


Runs = tuple[tuple[int, int], ...] | bytes
"""Ascending offsets as (step, repeat) pairs: from -1, add `step` `repeat` times, for each pair.

All of 0..n-1 is ((1, n),); every second from 0 is ((1, 1), (2, n - 1)); five outputs of one input are ((1, 1), (0, 4)).
Irregular ones are bytes instead, one step a byte: that costs a tenth of pairs to make.
"""


def runs_of(offsets: Sequence[int]) -> Runs:
    """Pack non-descending offsets >= 0."""
    if not offsets:
        return ()
    steps = list(map(sub, offsets, (-1, *offsets)))
    distinct = set(steps[1:])
    if len(distinct) <= 1:
        first, rest = steps[0], len(steps) - 1
        if not rest or steps[1] == first:
            return ((first, rest + 1),)
        return ((first, 1), (steps[1], rest))
    if len(offsets) > _FEW and max(distinct) < _BYTE and steps[0] < _BYTE:
        return bytes(steps)
    return tuple((step, len(list(group))) for step, group in groupby(steps))


_FEW = 16
_BYTE = 256


def expand(runs: Runs) -> Iterator[int]:
    """Unpack what `runs_of` packed."""
    if isinstance(runs, bytes):
        yield from islice(accumulate(runs, initial=-1), 1, None)
        return
    at = -1
    for step, repeat in runs:
        for _ in range(repeat):
            at += step
            yield at


class Slice(msgspec.Struct, frozen=True, array_like=True, tag="slice"):
    """Events `upstream@start … upstream@(stop - 1)` were taken."""

    upstream: str
    start: int
    stop: int


class End(msgspec.Struct, frozen=True, array_like=True, tag="end"):
    """`upstream` ended after writing `total` events in all."""

    upstream: str
    end: EndKind
    total: int


class Watermark(msgspec.Struct, frozen=True, array_like=True, tag="watermark"):
    """No event of `upstream` with an event time below `time` (milliseconds) is expected any more."""

    upstream: str
    time: int


class Tick(msgspec.Struct, frozen=True, array_like=True, tag="tick"):
    """A timer of the stage fired at `time` (wall milliseconds)."""

    time: int


class Setting(msgspec.Struct, frozen=True, array_like=True, tag="set"):
    """A parameter was changed while running; `value` is its msgpack form."""

    parameter: str
    value: bytes


Input = Slice | End | Watermark | Tick | Setting
"""What a step took, in order. A stage acts on a signal only when it takes it from this sequence."""


class Cursor(msgspec.Struct, frozen=True, omit_defaults=True):
    """A stage's whole position after a step."""

    next: dict[str, int] = {}
    """Per upstream the next ordinal to take."""
    taken: int = 0
    """Inputs taken since the start of the run, over all upstreams: the stage's own input ordinal."""
    within: int = 0
    """Outputs already given for the current input, or keys already emitted, in first-seen order."""
    gaps: dict[str, tuple[tuple[int, int], ...]] = {}
    """Per upstream the ranges [start, stop) below `next` not yet done (unordered concurrency)."""
    inside: str = ""
    """With `within`, the upstream of the input that is not finished; empty at the final emission."""
    mark: bytes = b""
    """The stage's place outside the run, in msgpack: the last offset a source gave, where a sink stands in what it writes."""
    since: int = 0
    """Items a source gave after the offset `mark`; all it gave when it has none."""
    crc: int = 0
    """CRC-32 of all a source without offsets gave, item by item, so that the same items are known again."""


class Offsets(msgspec.Struct, frozen=True, array_like=True, tag="offsets"):
    """Output i comes from the input at the i-th of these offsets."""

    runs: Runs


class Paired(msgspec.Struct, frozen=True, array_like=True, tag="paired"):
    """Output i comes from the input at the i-th offset and from `reference@ordinals[i]` (-1: none)."""

    runs: Runs
    reference: str
    ordinals: tuple[int, ...]


class Since(msgspec.Struct, frozen=True, array_like=True, tag="since"):
    """Output i comes from this stage's inputs number `since[i]` up to the cursor's `taken`; keys are in the column `keys`."""

    since: tuple[int, ...]


Parents = Offsets | Paired | Since
"""Where outputs come from. Absent: the i-th output comes from the i-th input that is not in `errors`."""


class Lost(msgspec.Struct, frozen=True, array_like=True):
    """Inputs of a step that gave no output, and why: dropped, filtered, unmatched, late, skipped, dead or undecodable."""

    reason: str
    runs: Runs


class Block(msgspec.Struct, frozen=True, omit_defaults=True, tag="block", tag_field="kind"):
    """The outputs of one step of one stage, as columns, with the position that the step reached.

    A step without outputs (a fold, a filter that let nothing pass, the end of an input) is a block of count 0.
    """

    stage: str
    base: int
    """Ordinal of the first output."""
    count: int
    """Outputs in this block."""
    at: int
    """Wall time of the step that brought the events, milliseconds since 1970 UTC."""
    payloads: bytes = b""
    """One msgpack array of `count` payloads, encoded in one call."""
    types: int | bytes = 0
    """Index into the stage's declared output types; one byte an output when mixed (at most 256 types)."""
    inputs: tuple[Input, ...] = ()
    """What the step took, in order."""
    cursor: Cursor | None = None
    parents: Parents | None = None
    outcomes: tuple[int, ...] = ()
    """Positions of the effect outcomes this block used."""
    times: tuple[int, ...] = ()
    """Event times in milliseconds, one an output."""
    keys: bytes = b""
    """One msgpack array of the outputs' keys."""
    depth: int = 0
    """Iteration depth inside a cycle."""
    errors: tuple[Lost, ...] = ()
    """Inputs that gave no output, by reason."""


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True, tag="receipt", tag_field="kind"):
    """A sink delivered the inputs of one step, but for those in `errors`."""

    stage: str
    at: int
    inputs: tuple[Input, ...] = ()
    cursor: Cursor | None = None
    errors: tuple[Lost, ...] = ()


class DeliveryIntent(msgspec.Struct, frozen=True, omit_defaults=True, tag="delivery.intent", tag_field="kind"):
    """A `sensitive` sink is about to deliver one event; without a receipt behind it, nobody knows whether it did."""

    stage: str
    at: int
    upstream: str
    event: int


class DeliveryResolved(msgspec.Struct, frozen=True, omit_defaults=True, tag="delivery.resolved", tag_field="kind"):
    """What became of a delivery in doubt: a person, or a policy, decided."""

    stage: str
    at: int
    upstream: str
    event: int
    outcome: Literal["doubted", "delivered", "deliver", "dead"]
    """`doubted`: found without a receipt; `delivered`: it was; `deliver`: it was not, deliver it; `dead`: give it up as a dead letter."""


class DeadLetter(msgspec.Struct, frozen=True, omit_defaults=True, tag="dead_letter", tag_field="kind"):
    """An event that could not be processed, kept with its error. It is event `dead_letters@ordinal`."""

    ordinal: int
    stage: str
    """The stage that failed."""
    at: int
    error: ErrorInfo
    upstream: str = ""
    """With `event`, the event that failed; empty when it never became one (a bad row)."""
    event: int = -1
    payload: bytes = b""
    """The event's msgpack form, or the raw bytes of a bad row."""
    place: str = ""
    """Where a bad row stands, such as `flights.csv:17`."""
    type: int = 0
    """Index into the upstream's declared output types: what `payload` is to be read as."""


class StageInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the journal must know of a stage to be read without its code."""

    name: str
    kind: str
    inputs: tuple[str, ...] = ()
    """Names of the stages it reads."""
    types: tuple[str, ...] = ()
    """Declared output types; a block's `types` column indexes them."""
    takes: dict[str, tuple[int, ...]] = {}
    """Per input of which it does not take every event, where the type alone decides: indices of the types it takes."""


RECORD_FORMAT = 1
"""Version of the record format. Records grow by addition, so it rises only when an older reader would misread them."""


class RunStarted(msgspec.Struct, frozen=True, omit_defaults=True, tag="run.started", tag_field="kind"):
    """The first record of a run: what it is made of."""

    run_id: str
    flow: str
    at: int
    epoch: int = 1
    stages: tuple[StageInfo, ...] = ()
    format: int = RECORD_FORMAT
    """Version of the record format."""


class SchemaChange(msgspec.Struct, frozen=True, array_like=True):
    """From event `since` on a stage's events are of this schema."""

    since: int
    fingerprint: str
    versions: dict[str, int]
    """Per declared output type, by name and in order, the version of its class."""


class RunResumed(msgspec.Struct, frozen=True, omit_defaults=True, tag="run.resumed", tag_field="kind"):
    """Another process went on with the run."""

    at: int
    epoch: int
    tail_lost: tuple[int, int] | None = None
    """Bytes [from, to) of the last segment cut away by recovery."""
    code: dict[str, str] = {}
    """Per stage whose code has changed since: its new fingerprint."""
    schemas: dict[str, tuple[SchemaChange, ...]] = {}
    """Per stage whose event types have changed since the run was started: each change, in order."""


class RunForked(msgspec.Struct, frozen=True, omit_defaults=True, tag="run.forked", tag_field="kind"):
    """From here on this is another run, which shares the past with `origin` up to this record."""

    run_id: str
    origin: str
    """The run it was forked from."""
    at: int
    live: bool = False
    """Whether it may deliver; else its sinks take their inputs and call nobody."""


class RunCompleted(msgspec.Struct, frozen=True, omit_defaults=True, tag="run.completed", tag_field="kind"):
    """The run drained: every input ended once and every contract passed."""

    at: int


class RunFailed(msgspec.Struct, frozen=True, omit_defaults=True, tag="run.failed", tag_field="kind"):
    """The run ended by a failure."""

    at: int
    cause: ErrorInfo


class RunCancelled(msgspec.Struct, frozen=True, omit_defaults=True, tag="run.cancelled", tag_field="kind"):
    """The run was ended by a person, or by the deadline of such an order."""

    at: int
    reason: str
    """`user_stop`, `user_cancel`, `stop_timeout` or `journal_full`."""


class ActorState(msgspec.Struct, frozen=True, omit_defaults=True, tag="actor.state", tag_field="kind"):
    """An actor's machine moved."""

    actor: str
    source: str
    event: str
    target: str
    at: int


class ActorCompleted(msgspec.Struct, frozen=True, omit_defaults=True, tag="actor.completed", tag_field="kind"):
    """An actor left its loop of its own accord; `written` is what its evidence for contracts rests on."""

    actor: str
    state: str
    reason: str
    at: int
    written: int = 0
    """Events it wrote in all."""
    end: EndKind = "natural"


class ActorAborted(msgspec.Struct, frozen=True, omit_defaults=True, tag="actor.aborted", tag_field="kind"):
    """An actor died of something its machine has no row for."""

    actor: str
    state: str
    error: ErrorInfo
    at: int


class ActorRestarted(msgspec.Struct, frozen=True, omit_defaults=True, tag="actor.restarted", tag_field="kind"):
    """A crashed actor was rebuilt at its last committed position."""

    actor: str
    count: int
    """Restarts in the window, this one included."""
    error: ErrorInfo
    at: int


class ActorStalled(msgspec.Struct, frozen=True, omit_defaults=True, tag="actor.stalled", tag_field="kind"):
    """An actor made no progress for a while: a fact, not a failure."""

    actor: str
    why: str
    """`loop_held`: a handler keeps the loop; `no_credit`: a consumer is slow."""
    seconds: float
    at: int
    detail: str = ""
    """The handler's stack, or the edge that withholds credit."""


class Contract(msgspec.Struct, frozen=True, omit_defaults=True, tag="contract", tag_field="kind"):
    """The verdict on one edge: what was written equals what was accounted for, or both numbers."""

    edge: str
    written: int
    accounted: int
    passed: bool
    at: int
    missing: str = ""
    """Evidence that is not there, by name."""


class Checkpoint(msgspec.Struct, frozen=True, omit_defaults=True, tag="checkpoint", tag_field="kind"):
    """All positions at one point of the log: opening and resuming start here."""

    at: int
    cursors: dict[str, Cursor] = {}
    written: dict[str, int] = {}
    """Per stage its next ordinal."""
    ends: dict[str, EndKind] = {}
    counters: dict[str, dict[str, int]] = {}
    """Per stage its report counters."""
    intents: tuple[int, ...] = ()
    """Positions of effect intents without an outcome."""
    dead_letters: int = 0
    """Next ordinal of `dead_letters`."""
    floor: int = 0
    """The oldest position that some stage has not taken yet: reading from here on is enough to resume; 0 when unknown."""
    taken_ends: dict[str, dict[str, EndKind]] = {}
    """Per stage the upstreams whose end it took."""
    edges: dict[str, tuple[int, int]] = {}
    """Per edge the events delivered and accounted for since the start of the run."""
    doubted: dict[str, dict[str, str]] = {}
    """Per sink the events whose delivery is not settled, as `upstream@ordinal`: `open`, or what was decided and not yet done."""
    origins: tuple[tuple[str, dict[str, int]], ...] = ()
    """The runs this one was forked from, the oldest first, each with the next ordinal of every stage at the fork."""
    snapshots: dict[str, int] = {}
    """Per stage with state the position of its last snapshot."""
    resumed: RunResumed | None = None
    """The newest of its kind, as long as the run was gone on with."""
    forked: RunForked | None = None
    """The newest of its kind, when this is a fork."""


class Snapshot(msgspec.Struct, frozen=True, omit_defaults=True, tag="snapshot", tag_field="kind"):
    """The state of `actor` after it took `taken` inputs is the artifact `artifact`."""

    actor: str
    artifact: str
    taken: int
    at: int
    cursor: Cursor | None = None
    """The actor's position when the state was taken."""
    floor: int = 0
    """The oldest position that holds inputs taken after it; 0 when unknown."""


class Dropped(msgspec.Struct, frozen=True, omit_defaults=True, tag="journal.dropped", tag_field="kind"):
    """Records below `upto` are no longer kept here; every position they held was passed by all who needed them."""

    upto: int
    at: int
    archive: str = ""
    """Directory they were moved to; empty when they were deleted."""
    started: RunStarted | None = None
    """What the run is made of: its first record, which is among those dropped."""
    link: int = 0
    """Checksum of the seal before position `upto`, which its segment continues."""


class Loss(msgspec.Struct, frozen=True, omit_defaults=True, tag="loss", tag_field="kind"):
    """Records [start, stop) were lost and the loss was accepted by a person."""

    start: int
    stop: int
    at: int


Record = (
    Block
    | Receipt
    | DeadLetter
    | RunStarted
    | RunResumed
    | RunCompleted
    | RunFailed
    | RunCancelled
    | ActorState
    | ActorCompleted
    | ActorAborted
    | ActorRestarted
    | ActorStalled
    | Contract
    | Checkpoint
    | Snapshot
    | Loss
    | DeliveryIntent
    | DeliveryResolved
    | RunForked
    | Dropped
)
"""Everything a journal holds."""

KINDS: Mapping[int, type[Record]] = MappingProxyType(
    {
        1: Block,
        2: Receipt,
        3: DeadLetter,
        4: RunStarted,
        5: RunResumed,
        6: RunCompleted,
        7: RunFailed,
        8: RunCancelled,
        9: ActorState,
        10: ActorCompleted,
        11: ActorAborted,
        12: ActorRestarted,
        13: ActorStalled,
        14: Contract,
        15: Checkpoint,
        16: Snapshot,
        17: Loss,
        18: DeliveryIntent,
        19: DeliveryResolved,
        20: RunForked,
        21: Dropped,
    }
)
"""Number of each record type in a frame. 255 is the seal of a segment and belongs to the journal."""

_NUMBERS: Mapping[type[Record], int] = MappingProxyType({record: number for number, record in KINDS.items()})
_ENCODER = msgspec.msgpack.Encoder(order="deterministic")
_DECODERS: Mapping[int, msgspec.msgpack.Decoder[Record]] = MappingProxyType(
    {number: msgspec.msgpack.Decoder(record) for number, record in KINDS.items()}
)

encode_record = _ENCODER.encode
"""Record to bytes; equal records give equal bytes."""


def kind_number(record: Record) -> int:
    """The number that stands in the frame."""
    return _NUMBERS[type(record)]


def decode_record(number: int, data: bytes | memoryview) -> Record:
    """Bytes to record. A number this version does not know is refused by name: the journal is newer."""
    decoder = _DECODERS.get(number)
    if decoder is None:
        raise NotFound(f"record kind {number} is unknown to this version", remedy="Read this journal with the version that wrote it.")
    return decoder.decode(data)
