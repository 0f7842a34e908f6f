"""Which rollout a command is about: named by its number, by its model, or by the version that it tries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from control.cli.arguments import parse_version
from gateway.contract.errors import Fault, Reason

if TYPE_CHECKING:
    from control.services import ControlPlane
    from control.v1 import rollout_pb2

Target = Annotated[
    str,
    typer.Argument(
        metavar="MODEL|ID",
        help="The model (its rollout that runs, or else its newest), a version such as churn/4, or a rollout's number.",
        show_default=False,
    ),
]


def find(control: ControlPlane, target: str) -> rollout_pb2.GetRolloutResponse:
    """The rollout, whole."""
    if target.isdecimal():
        return control.rollout(rollout_id=int(target))
    if "/" not in target:
        return control.rollout(target)
    model, number = parse_version(target)
    found = [one for one in control.rollouts(model, ended=True) if one.challenger == number]
    if not found:
        raise Fault(
            Reason.ROLLOUT_UNKNOWN, f"{target} was never tried; `interlock rollout start {model} {number}` does"
        )
    return control.rollout(rollout_id=found[0].rollout_id)
