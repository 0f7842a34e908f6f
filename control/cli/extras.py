"""What only the control plane's extra installs."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

from control.cli.problem import Problem

CONTROL_EXTRA: Final = ("sqlalchemy", "alembic", "onnx")


def needs_control(what: str) -> None:
    """Raises Problem where the extra of the control plane is not installed."""
    if missing := [name for name in CONTROL_EXTRA if find_spec(name) is None]:
        raise Problem(
            "EXTRA_MISSING",
            f"{what} needs {', '.join(missing)}, which the base install leaves out: "
            "install the extra with pip install 'interlock[control]'",
        )
