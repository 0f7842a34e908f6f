"""What Python imports of Interlock: the words of a notebook, and the services as typed calls.

    from control.client import check, connect

Another library on PyPI imports as `control`, a toolbox for control systems: the two cannot share an environment.
"""

from __future__ import annotations

from control.connection import CallFailed, Refused, Unreachable
from control.notebook.checking import Checked, check
from control.notebook.comparison import Comparison
from control.notebook.installation import Installation, connect
from control.notebook.registration import Origin, Registered
from control.notebook.scoring import Scores
from control.notebook.table import Table
from control.services import ControlPlane, Gateway, GatewayAdmin
from gateway.contract.errors import Fault

__all__ = [
    "CallFailed",
    "Checked",
    "Comparison",
    "ControlPlane",
    "Fault",
    "Gateway",
    "GatewayAdmin",
    "Installation",
    "Origin",
    "Refused",
    "Registered",
    "Scores",
    "Table",
    "Unreachable",
    "check",
    "connect",
]
