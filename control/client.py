"""What Python imports of Interlock: the words of a notebook, and the services as typed calls.

    from control.client import check, connect

Another library on PyPI imports as `control`, a toolbox for control systems: the two cannot share an environment.
"""

from __future__ import annotations

from control.notebook.checking import Checked, check
from control.services import ControlPlane, FileDigest, Gateway, GatewayAdmin, digest_file, lineage, new_key

__all__ = [
    "Checked",
    "ControlPlane",
    "FileDigest",
    "Gateway",
    "GatewayAdmin",
    "check",
    "digest_file",
    "lineage",
    "new_key",
]
