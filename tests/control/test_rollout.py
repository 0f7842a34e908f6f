"""Promotion, retirement, status and the routes that gateways get, over a real server."""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import yaml

from control.governance.records import revoke_token
from control.rollout.hub import Hub, Report
from control.rollout.routes import RouteTable
from control.security import Role
from control.server import ControlPlane
from control.v1 import data_plane_pb2 as wire
from control.v1 import features_pb2, governance_pb2, rollout_pb2
from gateway.contract.schema import FeatureView
from tests.control.planes import (
    Client,
    add_version,
    add_view,
    client_for,
    key,
    make_champion,
    no_room,
    refusal,
    running,
    token_for,
    view_named,
)
from tests.support import STRESS, until


class WatchingGateway:
    """A gateway's side of WatchRoutes: it keeps the tables that come and reports what it is told to."""

    def __init__(self, address: str, token: str, gateway_id: str, confirms: bool = True) -> None:
        self.client = Client(address, token)
        self.gateway_id = gateway_id
        self.confirms = confirms
        self.tables: list[wire.RouteTable] = []
        self.acknowledged: list[wire.Acknowledgement] = []
        self.error: grpc.RpcError | None = None
        self._reports: queue.SimpleQueue[wire.WatchRoutesRequest | None] = queue.SimpleQueue()
        self.report(0)
        self._call = self.client.data_plane.WatchRoutes(iter(self._reports.get, None), metadata=self.client.metadata)
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def report(self, revision: int, feature_sequence: int = 0, problems: tuple[str, ...] = ()) -> None:
        """Says what is in force."""
        self._reports.put(
            wire.WatchRoutesRequest(
                gateway_id=self.gateway_id,
                revision=revision,
                feature_sequence=feature_sequence,
                problems=problems,
            )
        )

    def follow(self, history_id: str, revision: int) -> None:
        """Reports a revision of some history."""
        self._reports.put(wire.WatchRoutesRequest(gateway_id=self.gateway_id, history_id=history_id, revision=revision))

    def tell(self, *withdrawals: wire.Withdrawal, pinned: Sequence[wire.PinnedVersion] = ()) -> None:
        """Reports step backs, and versions that callers named."""
        self._reports.put(wire.WatchRoutesRequest(gateway_id=self.gateway_id, withdrawals=withdrawals, pinned=pinned))

    def say(self, revision: int, *traffic: wire.ModelTraffic) -> None:
        """Reports what models' requests were like."""
        report = wire.WatchRoutesRequest(gateway_id=self.gateway_id, revision=revision, traffic=traffic)
        self._reports.put(report)

    def leave(self) -> None:
        """Says goodbye."""
        self._reports.put(None)
        self._thread.join()
        self.client.channel.close()

    def vanish(self) -> None:
        """Is gone without a word."""
        self._call.cancel()
        self._reports.put(None)
        self._thread.join()
        self.client.channel.close()

    def _watch(self) -> None:
        try:
            for answer in self._call:
                self.tables.append(answer.table)
                self.acknowledged = list(answer.acknowledged)
                if self.confirms:
                    self.report(answer.table.revision, 1_000_000)
        except grpc.RpcError as error:
            self.error = error


@contextmanager
def gateway(plane: ControlPlane, gateway_id: str, confirms: bool = True) -> Iterator[WatchingGateway]:
    """A connected gateway."""
    watching = WatchingGateway(plane.address, token_for(plane.store, gateway_id, Role.GATEWAY), gateway_id, confirms)
    try:
        until(lambda: watching.tables)
        yield watching
    finally:
        watching.leave()


def approved(plane: ControlPlane, ben: Client, model: str, views: tuple[FeatureView, ...] = ()) -> int:
    """A version that was registered by ana and approved by ben."""
    version = add_version(plane.store, model, views=views)
    request = governance_pb2.ApproveVersionRequest(idempotency_key=key(), model=model, version=version)
    ben.call(ben.governance.ApproveVersion, request)
    return version


def promotion(model: str, version: int, wait_ms: int = 0) -> rollout_pb2.PromoteVersionRequest:
    """A request to promote, under a key of its own."""
    return rollout_pb2.PromoteVersionRequest(idempotency_key=key(), model=model, version=version, wait_ms=wait_ms)


def status(client: Client, model: str) -> rollout_pb2.ModelStatus:
    """What the status says of a model."""
    return client.call(client.rollout.GetStatus, rollout_pb2.GetStatusRequest(model=model)).models[0]


def test_a_promotion_reaches_every_gateway_and_waits_for_it(plane: ControlPlane, mia: Client, ben: Client) -> None:
    """The revision is the audit entry's number, and the table names the version, its digests and its document."""
    version = approved(plane, ben, "churn")
    with gateway(plane, "g1") as one, gateway(plane, "g2") as two:
        answer = mia.call(mia.rollout.PromoteVersion, promotion("churn", version, wait_ms=20_000))
        assert list(answer.confirmed) == ["g1", "g2"]
        assert not answer.pending
        for watching in (one, two):
            table = watching.tables[-1]
            assert (table.format, table.history_id, table.revision) == (1, plane.store.history_id, answer.revision)
            route = next(route for route in table.models if route.model == "churn")
            assert route.champion.version == version
            assert '"name":"churn"' in route.champion.document_json
    auditor = client_for(plane, "ida", Role.AUDITOR)
    entries = auditor.call(auditor.governance.ListAudit, governance_pb2.ListAuditRequest(subject="churn")).entries
    assert (entries[0].sequence, entries[0].action) == (answer.revision, "version.promote")


def test_a_gateway_that_does_not_confirm_in_time_is_pending(plane: ControlPlane, mia: Client, ben: Client) -> None:
    """The promotion is committed all the same."""
    version = approved(plane, ben, "slow")
    with gateway(plane, "g1"), gateway(plane, "g2", confirms=False):
        answer = mia.call(mia.rollout.PromoteVersion, promotion("slow", version, wait_ms=300))
        assert (list(answer.confirmed), list(answer.pending)) == (["g1"], ["g2"])
        found = status(mia, "slow")
        assert found.champion_version == version
        assert (
            f"GATEWAY_BEHIND: gateway g2 is at revision 0, slow/{version} answers from {answer.revision}"
            in found.problems
        )


def test_two_versions_are_promoted_back_and_forth(plane: ControlPlane, mia: Client, ben: Client) -> None:
    """The former champion is the standby; a third version makes an older standby approved again."""
    first, second, third = (approved(plane, ben, "swing") for _ in range(3))
    revisions = []
    for version, standby in ((first, 0), (second, first), (first, second), (second, first), (third, second)):
        revisions.append(make_champion(mia, ben, "swing", version))
        found = status(mia, "swing")
        assert (found.champion_version, found.standby_version) == (version, standby)
        assert (found.promoted_by, list(found.approved_by)) == ("ben" if standby else "mia", ["ben"])
    assert revisions == sorted(set(revisions))
    assert make_champion(mia, ben, "swing", first) > revisions[-1]


def test_only_the_first_version_is_promoted_directly(plane: ControlPlane, mia: Client, ben: Client) -> None:
    """The refusal names the command that tries the next one."""
    first, second = approved(plane, ben, "direct"), approved(plane, ben, "direct")
    make_champion(mia, ben, "direct", first)
    refused = mia.refused(mia.rollout.PromoteVersion, promotion("direct", second))
    assert refused.reason == "TRANSITION_REFUSED"
    assert f"interlock rollout start direct {second}" in refused.message


@pytest.mark.parametrize("approve", [True, False])
def test_a_version_is_promoted_only_with_an_approval(
    plane: ControlPlane, mia: Client, ben: Client, approve: bool
) -> None:
    """Without one, the message names the command that gives it."""
    version = approved(plane, ben, "guarded") if approve else add_version(plane.store, "guarded")
    if approve:
        assert mia.call(mia.rollout.PromoteVersion, promotion("guarded", version)).revision
        return
    refused = mia.refused(mia.rollout.PromoteVersion, promotion("guarded", version))
    assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "APPROVAL_MISSING")
    assert f"interlock approval approve guarded/{version}" in refused.message


def test_promoting_the_champion_again_is_refused(plane: ControlPlane, mia: Client, ben: Client) -> None:
    """It answers already; no revision is made."""
    version = approved(plane, ben, "again")
    mia.call(mia.rollout.PromoteVersion, promotion("again", version))
    refused = mia.refused(mia.rollout.PromoteVersion, promotion("again", version))
    assert refused.reason == "TRANSITION_REFUSED"
    assert f"again/{version} answers already" in refused.message


def test_repeating_a_promotion_is_the_same_promotion(plane: ControlPlane, mia: Client, ben: Client) -> None:
    """However long the repeat waits, and even after another one."""
    first, second = approved(plane, ben, "repeat"), approved(plane, ben, "repeat")
    request = promotion("repeat", first)
    revision = mia.call(mia.rollout.PromoteVersion, request).revision
    make_champion(mia, ben, "repeat", second)
    request.wait_ms = 10
    assert mia.call(mia.rollout.PromoteVersion, request).revision == revision
    assert status(mia, "repeat").champion_version == second
    request.version = second
    assert mia.refused(mia.rollout.PromoteVersion, request).reason == "IDEMPOTENCY_KEY_REUSED"


def test_a_view_without_rows_refuses_the_promotion(plane: ControlPlane, mia: Client, ben: Client) -> None:
    """And names the command that mends it; with rows, gateways are told which batch to wait for."""
    view, other = view_named("fresh"), view_named("elsewhere")
    add_view(plane.store, view, batches=0)
    version = approved(plane, ben, "featured", (view,))
    refused = mia.refused(mia.rollout.PromoteVersion, promotion("featured", version))
    assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "VIEW_EMPTY")
    assert "interlock features materialize fresh" in refused.message
    newest = add_view(plane.store, view, batches=2)
    add_view(plane.store, other)
    with gateway(plane, "g1") as watching:
        answer = mia.call(mia.rollout.PromoteVersion, promotion("featured", version, wait_ms=20_000))
        table = next(table for table in watching.tables if table.revision == answer.revision)
    route = next(route for route in table.models if route.model == "featured")
    assert route.champion.feature_sequence == newest
    assert [pinned.definition_json for pinned in table.views if pinned.hash == view.digest()] == [view.canonical()]
    assert other.digest() not in {pinned.hash for pinned in table.views}


def test_the_champion_is_never_retired_and_others_are_for_good(plane: ControlPlane, mia: Client, ben: Client) -> None:
    """Repeating a retirement is the same retirement."""
    first, second = approved(plane, ben, "old"), approved(plane, ben, "old")
    for version in (first, second):
        make_champion(mia, ben, "old", version)
    request = rollout_pb2.RetireVersionRequest(idempotency_key=key(), model="old", version=second, reason="done")
    refused = mia.refused(mia.rollout.RetireVersion, request)
    assert refused.reason == "TRANSITION_REFUSED"
    assert "promote another version first" in refused.message
    request = rollout_pb2.RetireVersionRequest(idempotency_key=key(), model="old", version=first, reason="done")
    sequence = mia.call(mia.rollout.RetireVersion, request).sequence
    assert mia.call(mia.rollout.RetireVersion, request).sequence == sequence
    assert status(mia, "old").standby_version == 0
    again = rollout_pb2.StartRolloutRequest(idempotency_key=key(), model="old", version=first)
    refused = mia.refused(mia.rollout.StartRollout, again)
    assert refused.reason == "TRANSITION_REFUSED"
    assert "nothing follows that stage" in refused.message


def test_a_gateway_that_connects_late_gets_the_whole_table_at_once(
    plane: ControlPlane, mia: Client, ben: Client
) -> None:
    """No change has to come first."""
    version = approved(plane, ben, "late")
    revision = mia.call(mia.rollout.PromoteVersion, promotion("late", version)).revision
    with gateway(plane, "g9") as watching:
        assert watching.tables[0].revision == revision


def test_a_gateway_that_vanishes_is_no_longer_connected(plane: ControlPlane, mia: Client) -> None:
    """Nobody waits for it."""

    def connected() -> list[str]:
        answer = mia.call(mia.rollout.GetStatus, rollout_pb2.GetStatusRequest())
        return [found.gateway_id for found in answer.gateways]

    token = token_for(plane.store, "brief", Role.GATEWAY)
    watching = WatchingGateway(plane.address, token, "brief")
    until(lambda: "brief" in connected())
    watching.vanish()
    until(lambda: "brief" not in connected())


FROZEN = """
import sys, threading, grpc
from control.v1 import data_plane_pb2 as pb
from control.v1.data_plane_pb2_grpc import DataPlaneServiceStub
address, token = sys.argv[1:]
def reports():
    yield pb.WatchRoutesRequest(gateway_id="frozen")
    threading.Event().wait()
stub = DataPlaneServiceStub(grpc.insecure_channel(address))
for table in stub.WatchRoutes(reports(), metadata=(("authorization", f"Bearer {token}"),)):
    print("connected", flush=True)
"""


@pytest.mark.stress
@pytest.mark.skipif(not STRESS, reason="waits for 15 s of silence")
def test_a_gateway_that_freezes_is_noticed_though_its_connection_stands(plane: ControlPlane, mia: Client) -> None:
    """Its kernel acknowledges, its process does not: pings go unanswered."""
    token = token_for(plane.store, "frozen", Role.GATEWAY)
    process = subprocess.Popen([sys.executable, "-c", FROZEN, plane.address, token], stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"connected\n"
    process.send_signal(signal.SIGSTOP)

    def connected() -> list[str]:
        answer = mia.call(mia.rollout.GetStatus, rollout_pb2.GetStatusRequest())
        return [found.gateway_id for found in answer.gateways]

    assert "frozen" in connected()
    until(lambda: "frozen" not in connected(), 40)
    process.kill()
    process.communicate()


def test_what_a_gateway_reports_is_in_the_status(plane: ControlPlane, mia: Client) -> None:
    """Revision, features, problems and the age of the report."""
    with gateway(plane, "g5", confirms=False) as watching:
        watching.report(7, 3, ("no room for the journal",))

        def found() -> rollout_pb2.GatewayStatus | None:
            answer = mia.call(mia.rollout.GetStatus, rollout_pb2.GetStatusRequest())
            return next((one for one in answer.gateways if one.gateway_id == "g5" and one.revision == 7), None)

        reported = until(found)
        assert (reported.feature_sequence, list(reported.problems)) == (3, ["no room for the journal"])
        assert 0 <= reported.report_age_ms < 20_000


def test_a_second_connection_of_a_gateway_takes_the_place_of_the_first(plane: ControlPlane, mia: Client) -> None:
    """As after a network that lost the goodbye; the end of the first does not disconnect the second."""
    with gateway(plane, "twin") as first, gateway(plane, "twin") as second:
        until(lambda: not first._thread.is_alive())
        answer = mia.call(mia.rollout.GetStatus, rollout_pb2.GetStatusRequest())
        assert [found.gateway_id for found in answer.gateways] == ["twin"]
        assert second.tables


@pytest.mark.parametrize("gateway_id", ["", "a b", "x" * 65])
def test_a_gateway_without_a_name_is_refused(plane: ControlPlane, gateway_id: str) -> None:
    """The field is named."""
    watching = WatchingGateway(plane.address, token_for(plane.store, "g", Role.GATEWAY), gateway_id)
    error = until(lambda: watching.error)
    assert refusal(error).reason == "ARGUMENT_INVALID"
    watching.leave()


def test_a_gateway_whose_token_was_revoked_is_cut_off(plane: ControlPlane) -> None:
    """Its stream goes on for seconds at most, for as long as it reports."""
    token = token_for(plane.store, "stolen", Role.GATEWAY)
    watching = WatchingGateway(plane.address, token, "stolen")
    until(lambda: watching.tables)
    with plane.store.unit("test") as unit:
        unit.record("token.revoke", "test", {})
        revoke_token(unit, token.split("_")[1])

    def cut_off() -> bool:
        watching.report(1)
        return watching.error is not None

    until(cut_off)
    assert refusal(watching.error).reason == "UNAUTHENTICATED"
    watching.leave()


def test_features_of_another_history_are_refused(plane: ControlPlane) -> None:
    """The message says what an operator can do."""
    client = client_for(plane, "g1", Role.GATEWAY)
    request = wire.WatchFeaturesRequest(from_sequence=1, history_id="another")
    with pytest.raises(grpc.RpcError) as error:
        next(client.data_plane.WatchFeatures(request, metadata=client.metadata, timeout=20))
    assert refusal(error.value).reason == "HISTORY_MISMATCH"


def test_feature_batches_come_in_order_and_go_on_as_they_are_appended(plane: ControlPlane, mia: Client) -> None:
    """From the number that the gateway asks for."""
    view = view_named("logged")
    definition = yaml.safe_dump(view.model_dump(mode="json"))
    mia.call(mia.features.ApplyView, features_pb2.ApplyViewRequest(idempotency_key=key(), definition_yaml=definition))
    newest = [materialize(mia, "logged", rows) for rows in (1, 2, 3)][-1]
    client = client_for(plane, "g1", Role.GATEWAY)
    request = wire.WatchFeaturesRequest(from_sequence=newest - 1, history_id=plane.store.history_id)
    with running_stream(client, request) as stream:
        got = [next(stream) for _ in range(2)]
        assert materialize(mia, "logged", 4) == newest + 1
        got.append(next(stream))
    assert [answer.batch.sequence for answer in got] == [newest - 1, newest, newest + 1]
    assert [len(answer.batch.keys) for answer in got] == [2, 3, 4]
    assert {(answer.history_id, answer.batch.definition_json) for answer in got} == {
        (plane.store.history_id, view.canonical())
    }


def materialize(client: Client, view: str, rows: int) -> int:
    """Appends so many rows and returns the batch's number."""
    messages = [
        features_pb2.MaterializeRequest(header=features_pb2.MaterializeHeader(idempotency_key=key(), view=view)),
        features_pb2.MaterializeRequest(
            rows=features_pb2.FeatureRows(
                keys=[f"s{row}" for row in range(rows)],
                event_times_ns=[time.time_ns()] * rows,
                columns=[features_pb2.FeatureColumn(name="minutes", numbers=[1.5] * rows)],
            )
        ),
    ]
    (answer,) = client.features.Materialize(iter(messages), metadata=client.metadata, timeout=30)
    return int(answer.sequence)


@contextmanager
def running_stream(
    client: Client, request: wire.WatchFeaturesRequest
) -> Iterator[Iterator[wire.WatchFeaturesResponse]]:
    """A feature stream that ends with the block."""
    stream = client.data_plane.WatchFeatures(request, metadata=client.metadata)
    yield stream
    stream.cancel()


def test_an_artifact_that_is_not_there_is_named_so(plane: ControlPlane) -> None:
    """A path is no digest either."""
    client = client_for(plane, "g1", Role.GATEWAY)
    for sha256 in ("0" * 64, "../store.sqlite", ""):
        with pytest.raises(grpc.RpcError) as error:
            list(client.data_plane.FetchArtifact(wire.FetchArtifactRequest(sha256=sha256), metadata=client.metadata))
        assert refusal(error.value).reason == "ARTIFACT_UNKNOWN"


def test_a_restart_derives_the_same_table_from_the_records(tmp_path: Path) -> None:
    """Nothing of the routes lives in memory only."""
    with running(tmp_path) as plane:
        ben, mia = client_for(plane, "ben", Role.APPROVER), client_for(plane, "mia", Role.ML_ENGINEER)
        version = approved(plane, ben, "kept")
        revision = mia.call(mia.rollout.PromoteVersion, promotion("kept", version)).revision
        with gateway(plane, "g1") as before:
            pass
    with running(tmp_path) as plane, gateway(plane, "g1") as after:
        assert after.tables[0] == before.tables[0]
        assert after.tables[0].revision == revision


def test_a_promotion_that_cannot_be_written_changes_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    """UNAVAILABLE means: nothing was changed, the same key may be sent again."""
    with running(tmp_path) as plane:
        ben, mia = client_for(plane, "ben", Role.APPROVER), client_for(plane, "mia", Role.ML_ENGINEER)
        version = approved(plane, ben, "locked")
        request = promotion("locked", version)
        with no_room():
            refused = mia.refused(mia.rollout.PromoteVersion, request)
        assert (refused.code, refused.reason) == ("UNAVAILABLE", "STORE_UNAVAILABLE")
        assert str(tmp_path) not in refused.message
        assert status(mia, "locked").champion_version == 0
        assert mia.call(mia.rollout.PromoteVersion, request).revision
        assert status(mia, "locked").champion_version == version


def test_a_late_publication_never_replaces_a_newer_table() -> None:
    """Two promotions may commit in one order and publish in the other."""
    older, newer = RouteTable("h", 5, (), ()), RouteTable("h", 6, (), ())
    hub = Hub(RouteTable("h", 0, (), ()))
    hub.publish(newer)
    hub.publish(older)
    with hub.session("g1") as session:
        assert next(hub.offers(session)).table is newer


def test_waiting_for_confirmations_ends_when_nobody_wants_to_know() -> None:
    """As when the caller has gone."""
    hub = Hub(RouteTable("h", 0, (), ()))
    with hub.session("g1") as session:
        assert hub.wait_confirmed(3, 60, lambda: False).pending == ("g1",)
        hub.take(session, Report(3, 0, ()))
        assert hub.wait_confirmed(3, 60, lambda: False).confirmed == ("g1",)
