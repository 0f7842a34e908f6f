"""`interlock token`: who may do what."""

from __future__ import annotations

from typing import Annotated

import typer

from control.cli.command import command, group
from control.cli.output import moment, table, text
from control.cli.session import Session

app = group("Create, list and revoke bearer tokens.")

DAY_S = 86_400


@command(app, "create")
def create(
    session: Session,
    actor: Annotated[str, typer.Argument(help="Who will hold it. Two tokens of one actor are one person.")],
    role: Annotated[
        list[str],
        typer.Option(
            help="A role that it gives; repeat for more: data_scientist, ml_engineer, approver, auditor, caller, "
            "gateway, feature_writer, operator."
        ),
    ],
    valid_days: Annotated[int, typer.Option(min=1, max=3650, help="Days until it expires.")] = 90,
) -> None:
    """Creates a token and prints it, this once: `interlock token create ann --role approver > ann.token`."""
    created = session.control.create_token(actor, role, valid_days * DAY_S)
    session.out.result(created, text(created.token))
    info = created.info
    session.out.note(
        f"The token of {info.actor} ({', '.join(info.roles)}), id {info.token_id}, valid until "
        f"{moment(info.expires_at_ns)}. It is not shown again; keep it in a file that only they can read."
    )


@command(app, "list")
def list_tokens(session: Session) -> None:
    """Lists tokens, newest first, without their secrets."""
    found = session.control.tokens()
    rows = (
        (
            t.token_id,
            t.actor,
            ", ".join(t.roles),
            moment(t.created_at_ns),
            moment(t.expires_at_ns),
            "revoked" if t.revoked else "",
        )
        for t in found
    )
    session.out.result({"tokens": found}, table(("id", "actor", "roles", "created", "expires", ""), rows))


@command(app, "revoke")
def revoke(
    session: Session, token_id: Annotated[str, typer.Argument(help="Its id, as `token list` shows it.")]
) -> None:
    """Ends a token's validity at once."""
    found = session.control.revoke_token(token_id)
    session.out.result(found, text(f"The token {found.token_id} of {found.actor} is revoked."))
