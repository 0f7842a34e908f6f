"""The next command, from what is there: so that nobody needs the manual to go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from control.cli.session import Session

if TYPE_CHECKING:
    from control.v1 import governance_pb2, rollout_pb2


def next_step(session: Session, model: str = "") -> str:
    """The command that takes this installation, or this model, further."""
    status, approvals = session.control.status(model), session.control.approvals(model)
    return decide(status.models, approvals) + session.data_flag


def decide(models: Sequence[rollout_pb2.ModelStatus], approvals: Sequence[governance_pb2.Approval]) -> str:
    """What to do first: register, approve, promote, and where somebody answers, score."""
    champions = {model.model: model.champion_version for model in models if model.champion_version}
    pending = [a for a in approvals if a.state == "pending"]
    ready = [a for a in approvals if a.state == "approved" and a.version > champions.get(a.model, 0)]
    if pending:
        return f"interlock approval approve {pending[0].model}/{pending[0].version}"
    if ready:
        return f"interlock model promote {ready[0].model}/{ready[0].version}"
    if champions:
        return f"interlock score {next(iter(champions))} --entity NAME=KEY"
    return "interlock model init MODEL.onnx"
