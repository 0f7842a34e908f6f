"""`interlock rollout replay`: each judgement of a rollout is made again from the audit trail and compared."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from control.cli.command import command
from control.cli.output import moment, table, text
from control.cli.rollout_target import Target, find
from control.cli.rollout_trail import Entry, asked, exported
from control.cli.session import Session
from gateway.contract.errors import Fault, Reason

if TYPE_CHECKING:
    from control.rollout.policy import Policy


class Replayed(NamedTuple):
    """One judgement, made again."""

    sequence: int
    time_ns: int
    action: str
    verdict: str
    difference: str
    """What differs from what was recorded; empty where every bit is the same."""


def declare(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, "replay")(replay)


def replay(
    session: Session,
    target: Target,
    trail: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="An exported trail (`interlock audit list --json`) instead of the server's.",
        ),
    ] = None,
) -> None:
    """Makes every judgement of a rollout again from the audit trail, bit for bit; exit code 1 where one differs."""
    if trail is None:
        rollout = find(session.control, target).rollout
        rollout_id, entries = rollout.rollout_id, list(asked(session.control, rollout.model, rollout.rollout_id))
    else:
        entries = exported(trail)
        rollout_id = _named(entries, target)
    found = replayed(entries, rollout_id)
    different = [one for one in found if one.difference]
    rows = ((one.sequence, moment(one.time_ns), one.action, one.verdict, one.difference or "same") for one in found)
    words = f"{len(found)} judgements of rollout {rollout_id} made again from the audit trail"
    says = f"{len(different)} differ" if different else "each is the same to the last bit"
    document = {"rollout_id": rollout_id, "recomputed": len(found), "different": len(different)}
    session.out.result(
        document | {"judgements": [one._asdict() for one in found]},
        *([table(("entry", "when", "action", "verdict", "again"), rows)] if found else []),
        text(f"{words}: {says}." if found else f"Rollout {rollout_id} was not judged yet.", "red" if different else ""),
    )
    if different:
        raise typer.Exit(1)


def replayed(entries: Iterable[Entry], rollout_id: int) -> list[Replayed]:
    """Every judgement among the entries of one rollout, in order, made again by the policy that began it."""
    ordered = sorted(entries, key=lambda entry: entry.sequence)
    began = next((one for one in ordered if one.sequence == rollout_id and one.action == "rollout.start"), None)
    if began is None:
        raise Fault(Reason.ROLLOUT_UNKNOWN, f"the trail has no entry {rollout_id} that starts a rollout")
    policy, problem = _policy(began.facts)
    return [
        Replayed(one.sequence, one.time_ns, one.action, _verdict(one), problem or _difference(policy, one.facts))
        for one in ordered
        if one.facts.get("rollout_id") == rollout_id and "judgement" in one.facts
    ]


def _policy(facts: Mapping[str, Any]) -> tuple[Policy | None, str]:
    """The policy that was promised, or why it is not the one."""
    from pydantic import ValidationError

    from control.rollout.policy import Policy

    try:
        policy = Policy.model_validate(facts["policy"])
    except (KeyError, ValidationError):
        return None, "the policy of the first entry cannot be read by this release"
    same = policy.digest() == facts.get("policy_sha256")
    return policy, "" if same else "the policy of the first entry is not the one whose hash stands beside it"


def _difference(policy: Policy | None, facts: Mapping[str, Any]) -> str:
    from pydantic import ValidationError

    from control.rollout.case import Case
    from control.rollout.judge import judge

    assert policy is not None
    try:
        case = Case.model_validate(facts["case"])
    except (KeyError, ValidationError):
        return "the case cannot be read by this release"
    again = judge(policy, case).model_dump(mode="json")
    # As text, in which a float has its shortest exact form: that tells apart what == does not, such as 0.0 and -0.0.
    changed = [name for name in again if _bits(again[name]) != _bits(facts["judgement"].get(name))]
    return f"differs in {', '.join(changed)}" if changed or again.keys() != facts["judgement"].keys() else ""


def _bits(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _verdict(entry: Entry) -> str:
    return str(entry.facts["judgement"].get("verdict", ""))


def _named(entries: Iterable[Entry], target: str) -> int:
    """The rollout that a target names within an exported trail: the newest of a model or a version."""
    if target.isdecimal():
        return int(target)
    started = [one for one in entries if one.action == "rollout.start" and target in (one.subject, _model(one.subject))]
    if not started:
        raise Fault(Reason.ROLLOUT_UNKNOWN, f"the trail has no rollout of {target}")
    return max(one.sequence for one in started)


def _model(subject: str) -> str:
    return subject.rpartition("/")[0]
