"""States as tables: a machine is written as rows, checked when it is built and run from a frozen table.

What draws machines and graphs stands behind the side door `obzen_runtime.fsm.pictures`.
"""

from obzen_runtime.fsm.compiled import Machine
from obzen_runtime.fsm.row import Action, Guard, Row, on

__all__ = ["Action", "Guard", "Machine", "Row", "on"]
