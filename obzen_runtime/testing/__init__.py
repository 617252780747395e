"""The public test kit: simulated crashes for users' flows, a conformance suite for journals, a disk that fails on demand.

`simulate(flow, 500)` runs a flow's real code through 500 drawn histories of crashes; `Collected` and `crashing` are
sinks and sources for tests; `JOURNAL_CASES` is what every journal must do.

To read the simulation, begin with `simulation.py`: a history is drawn (`plan.py`), lived process by process (`life.py`)
by the flow with its sources shortened and its sinks replaced (`stands.py`), on a machine (`loop.py`, `disk.py`) with an
outside (`world.py`); what it left is judged (`acknowledged.py`, `evidence.py`) and told (`story.py`). `flows.py` are the
runtime's own.

To read the conformance suite, begin with `journals.py`: what a backend brings is in `harness.py`, the promises are in
`promises.py`, `races.py` and `deaths.py`, each a sentence.
"""

from obzen_runtime.testing.disk import Crashed, Faults, InlineThreads, SimulatedDisk, Unsynced
from obzen_runtime.testing.journals import JOURNAL_CASES, Case, Harness, NotConforming, failures
from obzen_runtime.testing.kit import Collected, crashing
from obzen_runtime.testing.loop import Chance, Deadlock, SeededLoop, SimulatedThreads, Stuck, VirtualClock, VirtualLoop
from obzen_runtime.testing.plan import Crash, Plan, Trouble
from obzen_runtime.testing.samples import sample_records
from obzen_runtime.testing.simulation import Options, SimulationReport, Simulator, Violation, simulate
from obzen_runtime.testing.world import World, world

__all__ = [
    "JOURNAL_CASES",
    "Case",
    "Chance",
    "Collected",
    "Crash",
    "Crashed",
    "Deadlock",
    "Faults",
    "Harness",
    "InlineThreads",
    "NotConforming",
    "Options",
    "Plan",
    "SeededLoop",
    "SimulatedDisk",
    "SimulatedThreads",
    "SimulationReport",
    "Simulator",
    "Stuck",
    "Trouble",
    "Unsynced",
    "Violation",
    "VirtualClock",
    "VirtualLoop",
    "World",
    "crashing",
    "failures",
    "sample_records",
    "simulate",
    "world",
]
