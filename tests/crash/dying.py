"""The command in a process that the kernel kills at its append number DIE_AT, before or after the bytes are written."""

import os
import signal
import sys
from typing import Any

from obzen_runtime.cli import main
from obzen_runtime.journal import SegmentJournal

_append = SegmentJournal.append
_left = [int(os.environ.get("DIE_AT", "0"))]
_count = [0]


def append(journal: SegmentJournal, records: Any, **options: Any) -> int:
    _count[0] += 1
    if _count[0] == _left[0] and os.environ.get("DIE_WHEN") == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    position = _append(journal, records, **options)
    if _count[0] == _left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return position


SegmentJournal.append = append  # type: ignore[method-assign]
try:
    main()
finally:
    if told := os.environ.get("APPENDS"):
        with open(told, "w", encoding="ascii") as file:  # noqa: PTH123 - the shortest way at the end of a process
            file.write(str(_count[0]))
sys.exit()
