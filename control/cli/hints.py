"""The next command, from what is there: so that nobody needs the manual to go on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from control.cli.session import Session

if TYPE_CHECKING:
    from control.v1 import governance_pb2


EXAMPLES: Final[Mapping[str, str]] = {"float32": "0.0", "int64": "0", "bool": "true", "string": "TEXT"}
"""How a value of each type is typed."""


def suggest(session: Session, when: str, model: str = "") -> None:
    """Names the command that takes this installation, or this model, further; programs are told nothing."""
    if session.out.as_json:
        return
    status, approvals = session.control.status(model), session.control.approvals(model)
    champions = {found.model: found.champion_version for found in status.models if found.champion_version}
    command = decide(champions, approvals) or _score(session, champions)
    session.out.note(f"{when}: {command}{session.same_flags}")


def decide(champions: Mapping[str, int], approvals: Sequence[governance_pb2.Approval]) -> str:
    """What to do before anything can be scored: register, approve, promote or try; empty where all is done."""
    newer = [a for a in approvals if a.version > champions.get(a.model, 0)]
    pending = [a for a in newer if a.state == "pending"]
    ready = [a for a in newer if a.state == "approved"]
    if pending:
        return f"interlock approval approve {pending[0].model}/{pending[0].version}"
    if ready:
        return into_traffic(ready[0].model, ready[0].version, champions.get(ready[0].model, 0))
    return "" if champions else "interlock model init MODEL.onnx"


def into_traffic(model: str, version: int, champion: int) -> str:
    """What brings an approved version into traffic: a model's first one is promoted, and any later one is tried."""
    return f"interlock rollout start {model} {version}" if champion else f"interlock model promote {model}/{version}"


def _score(session: Session, champions: Mapping[str, int]) -> str:
    """The call that the first champion's document asks for, in words of that document."""
    name, number = next(iter(champions.items()))
    manifest = json.loads(session.control.version(name, number).manifest_json)
    document = manifest.get("document", {})
    entities = [f"--entity {entity}=KEY" for entity in document.get("entities", ())]
    wanted = (item for item in document.get("inputs", ()) if item.get("default") is None)
    inputs = [f"--input {item['request']}={EXAMPLES[item['type']]}" for item in wanted if "request" in item]
    return " ".join(("interlock score", name, *entities, *inputs))
