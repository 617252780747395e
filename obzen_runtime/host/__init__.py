"""The composition root: here, and nowhere else, a flow gets its journal, its clock, its watchdog and its loop.

`run` and `resume` own the process. `start` embeds a flow in a program that has a loop of its own, and changes nothing
global.
"""

from obzen_runtime.host.handle import Handle, start
from obzen_runtime.host.opening import LOADING, Opening, Origin
from obzen_runtime.host.process import execute, resume, run
from obzen_runtime.host.report import FlowFailed, Report, StageReport, failure_of, footer, near

__all__ = [
    "LOADING",
    "FlowFailed",
    "Handle",
    "Opening",
    "Origin",
    "Report",
    "StageReport",
    "execute",
    "failure_of",
    "footer",
    "near",
    "resume",
    "run",
    "start",
]
