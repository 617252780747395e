"""What a replay found, as a value: per stage what it did, the first difference of each, and whether that proves anything."""

import platform

import msgspec

from obzen_runtime.flow.divergence import Divergence
from obzen_runtime.journal import Manifest
from obzen_runtime.kernel import versions

__all__ = ["ReplayReport", "StageReplay", "comparable"]


class StageReplay(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay did with one stage."""

    kind: str
    recorded: int = 0
    """Events the run recorded for it."""
    replayed: int = 0
    """Events its code gave now; of a source, those recorded; a sink gives none."""
    steps: int = 0
    """Steps done again; of a sink, receipts checked."""
    letters: int = 0
    """Dead letters recorded."""
    seconds: float = 0.0
    """Spent in its steps."""
    code_changed: bool | None = None
    """Whether its code is another than the run's; None when the run does not say."""


class ReplayReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay found."""

    run_id: str
    flow: str
    verified: bool
    """Whether what came out was compared."""
    stages: dict[str, StageReplay] = {}
    differences: tuple[Divergence, ...] = ()
    """The first of each stage that has one."""
    certified: bool = False
    """Everything was compared and is the same."""
    reason: str = ""
    """Why it is not certified; with a run that lives or was cut off, how far it went."""
    comparable: bool = True
    """False where differences may come from another Python or another machine."""
    records: int = 0
    """Records that were read."""
    events: int = 0
    """Events of all stages but sinks."""
    seconds: float = 0.0
    complete: bool = False
    """Whether the log holds the end of the run."""


def comparable(manifest: Manifest | None) -> tuple[bool, str]:
    """Whether a difference here would be one where the run was made, and why not."""
    if manifest is None:
        return True, ""
    before, now = manifest.versions.get("python", ""), versions()["python"]
    if before and before.split(".")[:2] != now.split(".")[:2]:
        return False, f"the run was made under Python {before}, this is {now}: values may differ for that"
    system, machine = platform.system(), platform.machine()
    if manifest.platform and not (manifest.platform.startswith(system) and machine in manifest.platform):
        return False, f"the run was made on {manifest.platform}, this is {system} {machine}: values may differ for that"
    return True, ""
