"""Trials: the one exception from "no traffic without an approval", and where it ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.rollout.lifecycle import LIVE, Stage
from control.rollout.routes import RouteTable, derive
from control.rollout.tables import current_table
from control.rollout.trial import TRIABLE, Trial
from control.rollout.version import VersionRecord
from control.security import Role
from control.server import ControlPlane
from control.v1 import governance_pb2, rollout_pb2
from tests.control.planes import Client, add_version, add_view, client_for, key, running, view_named
from tests.control.test_rollout import gateway, promotion, status
from tests.control.test_routes import DEFINITIONS, histories
from tests.support import until


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with running(tmp_path_factory.mktemp("control"), allow_unapproved=True) as plane:
        yield plane


def trial_of(model: str, version: int) -> rollout_pb2.TryVersionRequest:
    """A request to put a version on trial, under a key of its own."""
    return rollout_pb2.TryVersionRequest(idempotency_key=key(), model=model, version=version, wait_ms=3_000)


def decision(model: str, version: int) -> dict[str, object]:
    """What both decisions take."""
    return {"idempotency_key": key(), "model": model, "version": version, "comment": "seen"}


def answers(table: RouteTable) -> dict[str, tuple[int, bool]]:
    """By model: the version that answers, and whether it is marked."""
    return {route.model: (route.champion.version, route.champion.unapproved) for route in table.models}


@st.composite
def trials(draw: st.DrawFn) -> tuple[list[VersionRecord], list[Trial]]:
    """Versions of some models, and trials of some of them."""
    records = draw(histories())
    chosen = {record.model: record for record in draw(st.permutations(records)) if draw(st.booleans())}
    return records, [Trial(r.model, r.version, 50 + place) for place, r in enumerate(chosen.values())]


@given(histories())
def test_without_a_trial_no_table_holds_what_is_not_in_a_live_stage(records: list[VersionRecord]) -> None:
    """What normal installations have: no trial, so nothing that is unapproved."""
    stages = {(record.model, record.version): record.stage for record in records}
    for route in derive("h", records, DEFINITIONS).models:
        assert stages[route.model, route.champion.version] in LIVE
        assert not route.champion.unapproved


@given(trials())
def test_a_trial_adds_only_marked_versions_and_only_to_models_without_a_champion(
    given_records: tuple[list[VersionRecord], list[Trial]],
) -> None:
    """The one exception, stated: everything that is not in a live stage is marked, and takes nobody's place."""
    records, running_trials = given_records
    plain, tried = derive("h", records, DEFINITIONS), derive("h", records, DEFINITIONS, running_trials)
    stages = {(record.model, record.version): record.stage for record in records}
    assert answers(plain).items() <= answers(tried).items()
    for model, (version, unapproved) in answers(tried).items():
        assert unapproved == (stages[model, version] not in LIVE)
        assert stages[model, version] in LIVE | TRIABLE
    assert tried.revision >= plain.revision


def test_a_version_on_trial_answers_marked_until_it_is_approved_and_promoted(
    plane: ControlPlane, mia: Client, ben: Client
) -> None:
    """The act is audited, the stage stays what it was, and promotion ends the mark."""
    version = add_version(plane.store, "churn")
    with gateway(plane, "g1") as one:
        answer = mia.call(mia.rollout.TryVersion, trial_of("churn", version))
        assert (list(answer.confirmed), answers(current_table(plane.store))["churn"]) == (["g1"], (version, True))
        assert one.tables[-1].models[-1].champion.unapproved
        found = status(mia, "churn")
        assert (found.champion_version, found.trial_version, list(found.approved_by)) == (0, version, [])
        entries = mia.call(mia.governance.ListAudit, governance_pb2.ListAuditRequest(subject=f"churn/{version}"))
        assert (entries.entries[0].action, entries.entries[0].actor) == ("version.try", "mia")
        ben.call(ben.governance.ApproveVersion, governance_pb2.ApproveVersionRequest(**decision("churn", version)))
        assert answers(current_table(plane.store))["churn"] == (version, True)
        mia.call(mia.rollout.PromoteVersion, promotion("churn", version, wait_ms=3_000))
        assert answers(current_table(plane.store))["churn"] == (version, False)
        later = add_version(plane.store, "churn")
        refused = mia.refused(mia.rollout.TryVersion, trial_of("churn", later))
    assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "TRIAL_REFUSED")
    assert f"churn/{version} is the approved champion" in refused.message


def test_the_next_trial_takes_the_place_of_the_one_before(plane: ControlPlane, mia: Client) -> None:
    """A changed file is the next version, and the revision grows."""
    first, second = add_version(plane.store, "fraud"), add_version(plane.store, "fraud")
    before = mia.call(mia.rollout.TryVersion, trial_of("fraud", first)).revision
    after = mia.call(mia.rollout.TryVersion, trial_of("fraud", second)).revision
    assert after > before
    assert answers(current_table(plane.store))["fraud"] == (second, True)


def test_a_rejection_ends_a_trial_at_once(plane: ControlPlane, mia: Client, ben: Client) -> None:
    """Gateways get a newer table without the model."""
    version = add_version(plane.store, "credit")
    with gateway(plane, "g2") as two:
        put = mia.call(mia.rollout.TryVersion, trial_of("credit", version))
        ben.call(ben.governance.RejectVersion, governance_pb2.RejectVersionRequest(**decision("credit", version)))
        table = until(lambda: next((t for t in two.tables if t.revision > put.revision), None))
    assert "credit" not in [route.model for route in table.models]


def test_stored_features_are_not_tried(plane: ControlPlane, mia: Client) -> None:
    """They need rows that somebody materializes, so an installation that is more than a trial."""
    view = view_named("usage")
    add_view(plane.store, view)
    version = add_version(plane.store, "stored", views=[view])
    assert "stored features (usage)" in mia.refused(mia.rollout.TryVersion, trial_of("stored", version)).message


def test_a_control_plane_that_was_not_started_for_trial_ends_every_trial(tmp_path: Path) -> None:
    """Its table has nothing unapproved, by a newer revision and an audit entry, and it makes no trial."""
    with running(tmp_path, allow_unapproved=True) as plane:
        version = add_version(plane.store, "churn")
        mia = client_for(plane, "mia", Role.ML_ENGINEER)
        put = mia.call(mia.rollout.TryVersion, trial_of("churn", version)).revision
    with running(tmp_path, allow_unapproved=True) as plane:
        assert answers(current_table(plane.store)) == {"churn": (version, True)}
    with running(tmp_path) as plane:
        table = current_table(plane.store)
        assert (table.models, table.revision > put) == ((), True)
        mia = client_for(plane, "mia", Role.ML_ENGINEER)
        assert mia.refused(mia.rollout.TryVersion, trial_of("churn", version)).reason == "TRIAL_REFUSED"
        entries = mia.call(mia.governance.ListAudit, governance_pb2.ListAuditRequest(subject="churn")).entries
    assert [entry.action for entry in entries] == ["version.end_trial", "version.try", "version.register"]


def test_trial_is_refused_off_loopback(tmp_path: Path) -> None:
    """Nobody else on the network is ever answered by what nobody approved."""
    from control.config import Config

    with pytest.raises(ValueError, match="refused off loopback"):
        ControlPlane(Config(data=tmp_path, address="0.0.0.0:0", allow_unapproved=True))


def test_no_stage_allows_a_trial_that_a_decision_has_ended() -> None:
    """Rejected, rolled back and retired versions are not among those that may be tried."""
    assert frozenset({Stage.REGISTERED, Stage.APPROVED}) == TRIABLE
