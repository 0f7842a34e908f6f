"""`interlock approval`: who said yes."""

from __future__ import annotations

from typing import Annotated

import typer

from control.cli.arguments import VersionArgument
from control.cli.command import command, group
from control.cli.hints import into_traffic
from control.cli.output import moment, short, table, text
from control.cli.session import Session

app = group("Approve or reject versions. Who submitted a version cannot decide on it.")


@command(app, "list")
def list_approvals(
    session: Session, model: Annotated[str, typer.Argument(help="Only this model.", show_default=False)] = ""
) -> None:
    """Lists versions that wait for a decision, then decisions given."""
    found = session.control.approvals(model)
    rows = (
        (
            f"{a.model}/{a.version}",
            a.state,
            a.submitted_by,
            a.decided_by,
            moment(a.decided_at_ns),
            short(a.digest),
            a.comment,
        )
        for a in found
    )
    columns = ("version", "state", "submitted by", "decided by", "when", "digest", "comment")
    session.out.result({"approvals": found}, table(columns, rows) if found else text("No version was ever submitted."))
    if waiting := next((a for a in found if a.state == "pending"), None):
        session.out.note(
            f"Next, by somebody other than {waiting.submitted_by}: "
            f"interlock approval approve {waiting.model}/{waiting.version}{session.same_flags}"
        )


@command(app, "approve")
def approve(
    session: Session,
    version: VersionArgument,
    comment: Annotated[str, typer.Option(help="Why, for the audit trail.")] = "",
    digest: Annotated[
        str, typer.Option(help="The digest that you looked at; refused when it is not the version's.")
    ] = "",
) -> None:
    """Approves a version: it may be promoted from then on."""
    approval = session.control.approve(*version, comment=comment, digest=digest)
    words = f"{version} (digest {short(approval.digest)}) is approved by {approval.decided_by}."
    session.out.result(approval, text(words, "green"))
    if not session.out.as_json:
        (model,) = session.control.status(version.model).models
        tried = any(rollout.challenger == version.number for rollout in model.rollouts)
        watched = f"interlock rollout show {version}"
        command = watched if tried else into_traffic(*version, model.champion_version)
        session.out.note(f"Next: {command}{session.same_flags}")


@command(app, "reject")
def reject(
    session: Session,
    version: VersionArgument,
    comment: Annotated[str, typer.Option(help="Why, for the audit trail and the submitter.")],
) -> None:
    """Rejects a version that waits for a decision."""
    approval = session.control.reject(*version, comment=comment)
    session.out.result(approval, text(f"{version} is rejected by {approval.decided_by}: {approval.comment}"))
