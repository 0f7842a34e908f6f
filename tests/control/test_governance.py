"""Approvals, tokens and the trail, over a real server."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert, update
from sqlalchemy.exc import IntegrityError

from control.rollout.lifecycle import Stage
from control.rollout.records import find_version
from control.security import Role
from control.server import ControlPlane
from control.store.store import Store
from control.store.tables import approvals, versions
from control.v1 import governance_pb2 as pb
from control.v1 import rollout_pb2
from tests.control.planes import Client, add_version, client_for, key, running


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("control")


@pytest.fixture(scope="module")
def plane(data: Path) -> Iterator[ControlPlane]:
    with running(data) as plane:
        yield plane


@pytest.fixture(scope="module")
def operator(plane: ControlPlane) -> Client:
    return client_for(plane, "olga", Role.OPERATOR)


def stage_of(store: Store, model: str, version: int) -> Stage:
    """Where a version stands now."""
    with store.read() as connection:
        return find_version(connection, model, version).stage


def test_an_approval_is_bound_to_the_digest_and_moves_the_version(plane: ControlPlane, ben: Client) -> None:
    """It says who decided what about which bytes."""
    version = add_version(plane.store, "bound")
    request = pb.ApproveVersionRequest(idempotency_key=key(), model="bound", version=version, comment="looks right")
    approval = ben.call(ben.governance.ApproveVersion, request).approval
    with plane.store.read() as connection:
        digest = find_version(connection, "bound", version).digest
    assert (approval.digest, approval.decided_by, approval.submitted_by) == (digest, "ben", "ana")
    assert (approval.state, approval.comment) == ("approved", "looks right")
    assert stage_of(plane.store, "bound", version) is Stage.APPROVED


def test_another_digest_than_the_registered_one_is_refused(plane: ControlPlane, ben: Client) -> None:
    """The approver looked at something else."""
    version = add_version(plane.store, "other")
    request = pb.ApproveVersionRequest(idempotency_key=key(), model="other", version=version, digest="0" * 64)
    refused = ben.refused(ben.governance.ApproveVersion, request)
    assert refused.reason == "ARGUMENT_INVALID"
    assert "look at the version again" in refused.message
    assert stage_of(plane.store, "other", version) is Stage.REGISTERED


@pytest.mark.parametrize("method", ["ApproveVersion", "RejectVersion"])
def test_who_submitted_a_version_cannot_decide_on_it(plane: ControlPlane, method: str) -> None:
    """Two tokens of one actor are one person."""
    version = add_version(plane.store, "own", submitter="cleo")
    cleo = client_for(plane, "cleo", Role.APPROVER)
    request = getattr(pb, f"{method}Request")(idempotency_key=key(), model="own", version=version, comment="mine")
    refused = cleo.refused(getattr(cleo.governance, method), request)
    assert (refused.code, refused.reason) == ("PERMISSION_DENIED", "APPROVAL_OWN")
    assert stage_of(plane.store, "own", version) is Stage.REGISTERED


@pytest.mark.parametrize(
    "change",
    [
        {"decided_by": "ana"},
        {"decided_by": "ANA"},
        {"submitted_by": "dan"},
        {"digest": "0" * 64},
        {"decision": "perhaps"},
    ],
)
def test_the_store_itself_refuses_an_approval_that_python_would_let_through(
    plane: ControlPlane, change: dict[str, str]
) -> None:
    """By the submitter in any spelling, with a false submitter, of another digest, of another kind."""
    version = add_version(plane.store, "sql")
    with plane.store.read() as connection:
        record = find_version(connection, "sql", version)

    def approve(values: dict[str, str]) -> None:
        with plane.store.unit("ben") as unit:
            sequence = unit.record("version.approve", record.subject, {})
            row = {
                "model": "sql",
                "version": version,
                "decided_by": "ben",
                "digest": record.digest,
                "submitted_by": "ana",
                "decision": "approved",
                "decided_at_ns": 1,
                "comment": "",
                "sequence": sequence,
            }
            unit.connection.execute(insert(approvals).values({**row, **values}))

    with pytest.raises(IntegrityError):
        approve(change)
    approve({})


def test_the_store_itself_lets_no_version_into_traffic_without_an_approval(plane: ControlPlane) -> None:
    """A statement that skips the lifecycle is aborted."""
    version = add_version(plane.store, "skipped")
    for stage in (Stage.SHADOW, Stage.CANARY, Stage.CHAMPION):
        with pytest.raises(IntegrityError, match="no approval"), plane.store.unit("eve") as unit:
            unit.connection.execute(
                update(versions)
                .where(versions.c.model == "skipped", versions.c.version == version)
                .values(stage=stage, stage_sequence=unit.record("forged", "skipped", {}))
            )
    assert stage_of(plane.store, "skipped", version) is Stage.REGISTERED


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE versions SET digest = 'x' WHERE model = 'fixed'",
        "UPDATE versions SET document_json = '{}' WHERE model = 'fixed'",
        "UPDATE versions SET submitted_by = 'eve' WHERE model = 'fixed'",
        "UPDATE approvals SET decided_by = 'eve' WHERE model = 'fixed'",
        "DELETE FROM approvals WHERE model = 'fixed'",
        "INSERT INTO versions SELECT model, 99, 'champion', stage_sequence, digest, task, document_json, manifest_json,"
        " admission_json, model_sha256, golden_sha256, submitted_by, submitted_at_ns, feature_sequence, 0 FROM versions"
        " WHERE model = 'fixed'",
    ],
)
def test_the_store_itself_keeps_versions_and_decisions_as_they_were(
    plane: ControlPlane, ben: Client, statement: str
) -> None:
    """Whatever a program of ours may come to do."""
    version = add_version(plane.store, "fixed")
    request = pb.ApproveVersionRequest(idempotency_key=key(), model="fixed", version=version)
    ben.call(ben.governance.ApproveVersion, request)
    with pytest.raises(IntegrityError), plane.store.unit("eve") as unit:
        unit.connection.exec_driver_sql(statement)


def test_a_rejection_needs_a_reason_and_is_final(plane: ControlPlane, ben: Client) -> None:
    """Nobody approves it afterwards."""
    version = add_version(plane.store, "bad")
    bare = pb.RejectVersionRequest(idempotency_key=key(), model="bad", version=version, comment=" ")
    assert ben.refused(ben.governance.RejectVersion, bare).reason == "ARGUMENT_INVALID"
    request = pb.RejectVersionRequest(idempotency_key=key(), model="bad", version=version, comment="leaks the label")
    assert ben.call(ben.governance.RejectVersion, request).approval.state == "rejected"
    approve = pb.ApproveVersionRequest(idempotency_key=key(), model="bad", version=version)
    refused = ben.refused(ben.governance.ApproveVersion, approve)
    assert refused.reason == "TRANSITION_REFUSED"
    assert "rejected" in refused.message


def test_unknown_versions_are_named(ben: Client) -> None:
    """The message says what was asked for."""
    request = pb.ApproveVersionRequest(idempotency_key=key(), model="nothing", version=7)
    refused = ben.refused(ben.governance.ApproveVersion, request)
    assert (refused.code, refused.reason) == ("NOT_FOUND", "VERSION_UNKNOWN")
    assert "nothing/7" in refused.message


def test_waiting_versions_are_listed_before_decisions(plane: ControlPlane, ben: Client) -> None:
    """Of one model where named."""
    first, second = add_version(plane.store, "listed"), add_version(plane.store, "listed")
    ben.call(
        ben.governance.ApproveVersion,
        pb.ApproveVersionRequest(idempotency_key=key(), model="listed", version=first),
    )
    found = ben.call(ben.governance.ListApprovals, pb.ListApprovalsRequest(model="listed")).approvals
    assert [(item.version, item.state) for item in found] == [(second, "pending"), (first, "approved")]
    assert len(ben.call(ben.governance.ListApprovals, pb.ListApprovalsRequest()).approvals) > 2
    assert ben.refused(ben.governance.ListApprovals, pb.ListApprovalsRequest(model="no")).reason == "VERSION_UNKNOWN"


def test_repeating_a_decision_returns_the_first_answer(plane: ControlPlane, ben: Client) -> None:
    """And adds no entry to the trail."""
    for method, comment in (("ApproveVersion", ""), ("RejectVersion", "no")):
        version = add_version(plane.store, "twice")
        fields = {"idempotency_key": key(), "model": "twice", "version": version, "comment": comment}
        request = getattr(pb, f"{method}Request")(**fields)
        first = ben.call(getattr(ben.governance, method), request)
        head = ben.call(ben.governance.VerifyAudit, pb.VerifyAuditRequest()).head_hash
        assert ben.call(getattr(ben.governance, method), request) == first
        assert ben.call(ben.governance.VerifyAudit, pb.VerifyAuditRequest()).head_hash == head
        request.comment = "something else"
        assert ben.refused(getattr(ben.governance, method), request).reason == "IDEMPOTENCY_KEY_REUSED"


def test_a_created_token_works_and_its_secret_is_kept_nowhere(
    plane: ControlPlane, operator: Client, data: Path
) -> None:
    """Not in the store, not in the trail, not in what is kept for repeats."""
    request = pb.CreateTokenRequest(idempotency_key=key(), actor="dora", roles=["auditor"])
    made = operator.call(operator.governance.CreateToken, request)
    dora = Client(plane.address, made.token)
    assert dora.call(dora.governance.VerifyAudit, pb.VerifyAuditRequest()).ok
    assert made.info.expires_at_ns - made.info.created_at_ns == 90 * 86_400 * 10**9
    secret = made.token.split("_", 2)[2].encode()
    assert not [path for path in data.glob("store.sqlite*") if secret in path.read_bytes()]
    listed = operator.call(operator.governance.ListTokens, pb.ListTokensRequest()).tokens
    assert made.info in listed


def test_a_repeated_creation_says_that_the_secret_was_shown(operator: Client) -> None:
    """It names the token, so that it can be revoked."""
    request = pb.CreateTokenRequest(idempotency_key=key(), actor="dora", roles=["auditor"])
    made = operator.call(operator.governance.CreateToken, request)
    refused = operator.refused(operator.governance.CreateToken, request)
    assert refused.reason == "TOKEN_SHOWN"
    assert refused.facts == {"token_id": made.info.token_id}


def test_a_revoked_token_is_refused_at_its_next_call(plane: ControlPlane, operator: Client) -> None:
    """And revoking it again under the same key is the same answer."""
    request = pb.CreateTokenRequest(idempotency_key=key(), actor="gone", roles=["auditor"])
    made = operator.call(operator.governance.CreateToken, request)
    gone = Client(plane.address, made.token)
    assert gone.call(gone.governance.ListAudit, pb.ListAuditRequest()).entries
    revoke = pb.RevokeTokenRequest(idempotency_key=key(), token_id=made.info.token_id)
    first = operator.call(operator.governance.RevokeToken, revoke)
    assert first.token.revoked
    assert gone.refused(gone.governance.ListAudit, pb.ListAuditRequest()).reason == "UNAUTHENTICATED"
    assert operator.call(operator.governance.RevokeToken, revoke) == first


def test_a_token_that_is_not_there_cannot_be_revoked(operator: Client) -> None:
    """NOT_FOUND, with the id."""
    request = pb.RevokeTokenRequest(idempotency_key=key(), token_id="nope")
    assert operator.refused(operator.governance.RevokeToken, request).reason == "TOKEN_UNKNOWN"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"actor": "", "roles": ["auditor"]}, "actor"),
        ({"actor": "Ana", "roles": ["auditor"]}, "actor"),
        ({"actor": "ana b", "roles": ["auditor"]}, "actor"),
        ({"actor": "a" * 65, "roles": ["auditor"]}, "actor"),
        ({"actor": "ana", "roles": []}, "roles"),
        ({"actor": "ana", "roles": ["root"]}, "roles"),
        ({"actor": "ana", "roles": ["auditor"], "valid_s": -1}, "valid_s"),
        ({"actor": "ana", "roles": ["auditor"], "valid_s": 2**62}, "valid_s"),
    ],
)
def test_a_token_request_that_is_wrong_names_the_field(operator: Client, fields: dict[str, object], named: str) -> None:
    """Before anything is written."""
    refused = operator.refused(operator.governance.CreateToken, pb.CreateTokenRequest(idempotency_key=key(), **fields))
    assert refused.reason == "ARGUMENT_INVALID"
    assert refused.message.startswith(f"{named}:")


def test_the_trail_is_listed_newest_first_by_subject_and_in_pages(plane: ControlPlane, ben: Client) -> None:
    """A model's name finds the entries about its versions, and no other model's."""
    for model in ("page", "page", "pager", "page2"):
        add_version(plane.store, model)
    found = ben.call(ben.governance.ListAudit, pb.ListAuditRequest(subject="page")).entries
    assert [entry.subject for entry in found] == ["page/2", "page/1"]
    newest = ben.call(ben.governance.ListAudit, pb.ListAuditRequest(limit=2)).entries
    assert [entry.sequence for entry in newest] == [newest[0].sequence, newest[0].sequence - 1]
    rest = ben.call(ben.governance.ListAudit, pb.ListAuditRequest(before=newest[-1].sequence, limit=1)).entries
    assert rest[0].sequence == newest[-1].sequence - 1


def test_a_change_without_a_key_is_refused(plane: ControlPlane, ben: Client, operator: Client) -> None:
    """Each mutation takes one."""
    version = add_version(plane.store, "keyless")
    named = {"model": "keyless", "version": version, "comment": "x"}
    for client, method, fields in (
        (ben, "ApproveVersion", named),
        (ben, "RejectVersion", named),
        (operator, "CreateToken", {"actor": "ana", "roles": ["auditor"]}),
        (operator, "RevokeToken", {"token_id": "x"}),
    ):
        refused = client.refused(getattr(client.governance, method), getattr(pb, f"{method}Request")(**fields))
        assert refused.reason == "IDEMPOTENCY_KEY_MISSING"


def test_a_tampered_trail_is_reported_with_its_entry(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Somebody edits the file with the triggers dropped; verification names the entry."""
    data = tmp_path_factory.mktemp("tampered")
    with running(data) as plane:
        raw = sqlite3.connect(data / "store.sqlite")
        raw.execute("DROP TRIGGER audit_keeps_content")
        raw.execute("UPDATE audit SET actor = 'nobody' WHERE sequence = 2")
        raw.commit()
        raw.close()
        auditor = client_for(plane, "ida", Role.AUDITOR)
        found = auditor.call(auditor.governance.VerifyAudit, pb.VerifyAuditRequest())
    assert not found.ok
    assert (found.first_bad, found.entries) == (2, 2)
    assert "not what was written" in found.problem


def test_a_regulated_model_takes_two_people(plane: ControlPlane) -> None:
    """The first approval leaves the version where it is, the same person counts once, the second approves it."""
    version = add_version(plane.store, "credit", tier="regulated")
    ben, bea = client_for(plane, "ben", Role.APPROVER), client_for(plane, "bea", Role.APPROVER)
    mia = client_for(plane, "mia", Role.ML_ENGINEER)
    promote = rollout_pb2.PromoteVersionRequest(idempotency_key=key(), model="credit", version=version)

    def approve(client: Client) -> pb.ApproveVersionRequest:
        return pb.ApproveVersionRequest(idempotency_key=key(), model="credit", version=version)

    assert ben.call(ben.governance.ApproveVersion, approve(ben)).approval.still_needed == 1
    waiting = ben.call(ben.governance.ListApprovals, pb.ListApprovalsRequest(model="credit")).approvals[0]
    assert (waiting.state, waiting.still_needed) == ("pending", 1)
    assert mia.refused(mia.rollout.PromoteVersion, promote).reason == "APPROVAL_MISSING"
    again = ben.refused(ben.governance.ApproveVersion, approve(ben))
    assert (again.reason, "1 more must" in again.message) == ("TRANSITION_REFUSED", True)
    assert bea.call(bea.governance.ApproveVersion, approve(bea)).approval.still_needed == 0
    assert mia.call(mia.rollout.PromoteVersion, promote).revision
