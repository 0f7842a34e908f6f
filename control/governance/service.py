"""GovernanceService: approvals, tokens and the audit trail on the wire."""
# ruff: noqa: N802, ARG002 - the generated base class gives the methods their names and arguments

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from grpc import ServicerContext

from control.governance import decisions, tokens
from control.governance.records import (
    Decision,
    add_decision,
    all_tokens,
    decisions_on,
    entries_before,
    find_token,
    own_version,
    revoke_token,
    whole_trail,
)
from control.rollout.lifecycle import UNDONE, Event, Stage, advance
from control.rollout.records import find_version, model_names, save, standing_approvers, versions_in
from control.rollout.version import VersionRecord
from control.security import Token, caller
from control.store.audit import Entry, verify
from control.store.idempotency import once
from control.store.store import Store, Unit, read_head
from control.v1 import governance_pb2 as pb
from control.v1.governance_pb2_grpc import GovernanceServiceServicer
from gateway.contract.errors import Fault, Reason

MOST_ENTRIES: Final = 1000
VOID: Final = "void"
DECISIONS: Final = {Event.APPROVE: "approved", Event.REJECT: "rejected"}


class Keyed(Protocol):
    """A request of a change."""

    @property
    def idempotency_key(self) -> str:
        """What makes it repeatable."""

    def SerializeToString(self, *, deterministic: bool = ...) -> bytes:
        """Its content."""


class GovernanceService(GovernanceServiceServicer):
    """Answers from the store, and changes it in units of work."""

    def __init__(self, store: Store, publish: Callable[[], None]) -> None:
        self._store = store
        self._publish = publish  # a decision against a version on trial ends the trial

    def ListApprovals(self, request: pb.ListApprovalsRequest, context: ServicerContext) -> pb.ListApprovalsResponse:
        """Pending first, then newest first."""
        with self._store.read() as connection:
            model_names(connection, request.model)
            registered = versions_in(connection, frozenset({Stage.REGISTERED}), request.model)
            registered.sort(key=lambda record: record.submitted_at_ns, reverse=True)
            waiting = [(one, decisions.still_needed(one, standing_approvers(connection, one))) for one in registered]
            undone = {r[:2] for r in versions_in(connection, UNDONE, request.model)}
            given = decisions_on(connection, request.model)
        # What was rolled back since needs a new approval.
        given = [decision._replace(decision=VOID) if decision[:2] in undone else decision for decision in given]
        return pb.ListApprovalsResponse(
            approvals=[_pending(record, missing) for record, missing in waiting]
            + [_approval(decision) for decision in given]
        )

    def ApproveVersion(self, request: pb.ApproveVersionRequest, context: ServicerContext) -> pb.ApproveVersionResponse:
        """Approves exactly the registered digest, by somebody else than its submitter."""
        comment = decisions.check_comment(request.comment)

        def change(unit: Unit) -> bytes:
            record = find_version(unit.connection, request.model, request.version)
            decisions.check_digest(record, request.digest)
            decision, missing = _decide(unit, record, Event.APPROVE, comment)
            return pb.ApproveVersionResponse(approval=_approval(decision, missing)).SerializeToString()

        return pb.ApproveVersionResponse.FromString(self._once("ApproveVersion", request, context, change))

    def RejectVersion(self, request: pb.RejectVersionRequest, context: ServicerContext) -> pb.RejectVersionResponse:
        """Rejects a version for good: a better one is a new version."""
        comment = decisions.check_comment(request.comment, required=True)

        def change(unit: Unit) -> bytes:
            record = find_version(unit.connection, request.model, request.version)
            decision, _ = _decide(unit, record, Event.REJECT, comment)
            return pb.RejectVersionResponse(approval=_approval(decision)).SerializeToString()

        answer = self._once("RejectVersion", request, context, change)
        self._publish()
        return pb.RejectVersionResponse.FromString(answer)

    def CreateToken(self, request: pb.CreateTokenRequest, context: ServicerContext) -> pb.CreateTokenResponse:
        """Makes a token. Its secret is in this answer and nowhere else: what is kept for repeats has none."""
        actor = decisions.check_actor(request.actor)
        roles = decisions.check_roles(request.roles)
        valid_s = decisions.check_validity(request.valid_s)
        secrets: list[str] = []

        def change(unit: Unit) -> bytes:
            token, text = tokens.create(unit, actor, roles, valid_s)
            secrets.append(text)
            return pb.CreateTokenResponse(info=_token(token)).SerializeToString()

        response = pb.CreateTokenResponse.FromString(self._once("CreateToken", request, context, change))
        if not secrets:
            raise Fault(
                Reason.TOKEN_SHOWN,
                f"this idempotency key made token {response.info.token_id} of {actor} before, and its secret is shown "
                "once; if it was lost, revoke that token and create another with a new key",
                token_id=response.info.token_id,
            )
        response.token = secrets[0]
        return response

    def ListTokens(self, request: pb.ListTokensRequest, context: ServicerContext) -> pb.ListTokensResponse:
        """Every token there ever was, newest first, without secrets."""
        with self._store.read() as connection:
            return pb.ListTokensResponse(tokens=[_token(token) for token in all_tokens(connection)])

    def RevokeToken(self, request: pb.RevokeTokenRequest, context: ServicerContext) -> pb.RevokeTokenResponse:
        """Ends a token's validity: at once for new calls, within seconds for streams that go on."""

        def change(unit: Unit) -> bytes:
            token = find_token(unit.connection, request.token_id)
            if token is None:
                raise Fault(
                    Reason.TOKEN_UNKNOWN,
                    f"no token has the id {request.token_id[:80]!r}; `interlock token list` shows them",
                )
            unit.record("token.revoke", f"token/{token.token_id}", {"actor": token.actor})
            revoke_token(unit, token.token_id)
            return pb.RevokeTokenResponse(token=_token(token._replace(revoked=True))).SerializeToString()

        return pb.RevokeTokenResponse.FromString(self._once("RevokeToken", request, context, change))

    def ListAudit(self, request: pb.ListAuditRequest, context: ServicerContext) -> pb.ListAuditResponse:
        """A page of the trail, newest first."""
        limit = min(request.limit or 100, MOST_ENTRIES)
        with self._store.read() as connection:
            found = entries_before(connection, request.subject, request.before, limit)
        return pb.ListAuditResponse(entries=[_entry(entry) for entry in found])

    def VerifyAudit(self, request: pb.VerifyAuditRequest, context: ServicerContext) -> pb.VerifyAuditResponse:
        """Recomputes the whole chain within one snapshot."""
        with self._store.read() as connection:
            head = read_head(connection)
            found = verify(whole_trail(connection), head)
        return pb.VerifyAuditResponse(
            ok=not found.first_bad,
            entries=found.entries,
            first_bad=found.first_bad,
            problem=found.problem,
            head_hash=head.hash,
        )

    def _once(self, method: str, request: Keyed, context: ServicerContext, change: Callable[[Unit], bytes]) -> bytes:
        content = request.SerializeToString(deterministic=True)
        return once(self._store, caller(context).actor, request.idempotency_key, method, content, change)


def _decide(unit: Unit, record: VersionRecord, event: Event, comment: str) -> tuple[Decision, int]:
    """Records a decision, and moves the version where that makes its quorum; says how many more must approve."""
    if record.submitted_by == unit.actor:
        raise own_version(record, unit.actor)
    stage = advance(record.stage, event, record.subject)
    facts: dict[str, str | int] = {"digest": record.digest, "submitted_by": record.submitted_by, "comment": comment}
    missing = 0
    if event is Event.APPROVE:
        before = standing_approvers(unit.connection, record)
        decisions.check_first(record, unit.actor, before)
        missing = decisions.still_needed(record, [*before, unit.actor])
        facts["still_needed"] = missing
    sequence = unit.record(f"version.{event}", record.subject, facts)
    decision = add_decision(unit, record, DECISIONS[event], comment, sequence)
    if not missing:
        save(unit.connection, record._replace(stage=stage, stage_sequence=sequence))
    return decision, missing


def _pending(record: VersionRecord, missing: int) -> pb.Approval:
    return pb.Approval(
        model=record.model,
        version=record.version,
        digest=record.digest,
        state="pending",
        submitted_by=record.submitted_by,
        still_needed=missing,
    )


def _approval(decision: Decision, missing: int = 0) -> pb.Approval:
    return pb.Approval(
        model=decision.model,
        version=decision.version,
        digest=decision.digest,
        state=decision.decision,
        submitted_by=decision.submitted_by,
        decided_by=decision.decided_by,
        decided_at_ns=decision.decided_at_ns,
        comment=decision.comment,
        still_needed=missing,
    )


def _token(token: Token) -> pb.Token:
    return pb.Token(
        token_id=token.token_id,
        actor=token.actor,
        roles=sorted(token.roles),
        created_at_ns=token.created_at_ns,
        expires_at_ns=token.expires_at_ns,
        revoked=token.revoked,
    )


def _entry(entry: Entry) -> pb.AuditEntry:
    return pb.AuditEntry(**entry._asdict())
