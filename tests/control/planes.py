"""Control planes to test against: real ones, with callers of every role, and versions put there without an upload."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from sqlalchemy import insert
from sqlalchemy.dialects.sqlite import insert as upsert

from control.config import Config
from control.governance.tokens import create
from control.rollout.lifecycle import Stage
from control.security import Role
from control.server import ControlPlane, exclusive
from control.store.store import Store
from control.store.tables import artifacts, feature_batches, feature_views, models, versions
from control.v1 import rollout_pb2
from control.v1.data_plane_pb2_grpc import DataPlaneServiceStub
from control.v1.features_pb2_grpc import FeaturesServiceStub
from control.v1.governance_pb2_grpc import GovernanceServiceStub
from control.v1.registry_pb2_grpc import RegistryServiceStub
from control.v1.rollout_pb2_grpc import RolloutServiceStub
from gateway.contract.document import ModelDocument
from gateway.contract.errors import DOMAIN
from gateway.contract.schema import FeatureView
from tests.support import until


class Refusal(NamedTuple):
    """How a call failed."""

    code: str
    reason: str
    message: str
    facts: dict[str, str]


class Client:
    """A caller with a token, or without one."""

    def __init__(self, address: str, token: str = "") -> None:
        self.channel = grpc.insecure_channel(address)
        self.metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self.governance = GovernanceServiceStub(self.channel)
        self.registry = RegistryServiceStub(self.channel)
        self.rollout = RolloutServiceStub(self.channel)
        self.features = FeaturesServiceStub(self.channel)
        self.data_plane = DataPlaneServiceStub(self.channel)

    def call(self, method: Any, request: Any) -> Any:
        """The answer to a call; any failure is raised."""
        return method(request, metadata=self.metadata, timeout=30)

    def refused(self, method: Any, request: Any) -> Refusal:
        """How the call is refused; fails where it is not."""
        try:
            self.call(method, request)
        except grpc.RpcError as error:
            return refusal(error)
        raise AssertionError("the call was not refused")


def refusal(error: Any) -> Refusal:
    """What a failed call says, checking that it comes from the catalogue."""
    raw = next(value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin")
    status, info = Status.FromString(raw), ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == DOMAIN
    assert status.message == error.details()
    return Refusal(error.code().name, info.reason, error.details(), dict(info.metadata))


def key() -> str:
    """A fresh idempotency key."""
    return uuid.uuid4().hex


@contextmanager
def running(data: Path, **settings: Any) -> Iterator[ControlPlane]:
    """A control plane over the directory, in this process, on a free port."""
    config = Config(data=data, **{"address": "127.0.0.1:0", **settings})
    with exclusive(config.data, config.lock_path):
        plane = ControlPlane(config)
        try:
            yield plane
        finally:
            plane.stop()


@contextmanager
def no_room() -> Iterator[None]:
    """No file of this process may grow, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Process:
    """A control plane as a process of its own, ready to be called."""

    def __init__(self, data: Path, *flags: str) -> None:
        self.data = data
        self.process = subprocess.Popen(
            [sys.executable, "-m", "control", "--data", str(data), "--address", "127.0.0.1:0", *flags],
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            self.address = until(self._listening, 60)
        except AssertionError:
            self.process.kill()
            raise AssertionError(self.process.communicate()[1]) from None

    def _listening(self) -> str | None:
        assert self.process.poll() is None
        try:
            found = json.loads((self.data / "run" / "address").read_text())
        except FileNotFoundError:
            return None
        return str(found["address"]) if found["pid"] == self.process.pid else None

    def end(self, number: int = signal.SIGTERM) -> str:
        """Signals the process, waits for its end and returns what it logged."""
        self.process.send_signal(number)
        try:
            return self.process.communicate(timeout=60)[1]
        finally:
            self.process.kill()

    @property
    def operator(self) -> Client:
        """The first operator."""
        return Client(self.address, (self.data / "operator.token").read_text())


def token_for(store: Store, actor: str, *roles: Role, valid_s: int = 3600) -> str:
    """A new token's text."""
    with store.unit("test") as unit:
        return create(unit, actor, frozenset(roles), valid_s)[1]


def client_for(plane: ControlPlane, actor: str, *roles: Role) -> Client:
    """A caller with these roles."""
    return Client(plane.address, token_for(plane.store, actor, *roles))


def view_named(name: str) -> FeatureView:
    """A view of one number."""
    return FeatureView.model_validate(
        {"name": name, "entity": "subscriber", "features": [{"name": "minutes", "type": "float32"}]}
    )


def document_of(model: str, views: Iterable[FeatureView] = (), tier: str = "standard") -> ModelDocument:
    """A document of a model that takes these views, and one number of the request."""
    pinned = list(views)
    stored = [{"view": view.name, "feature": "minutes", "feeds": "x"} for view in pinned]
    return ModelDocument.model_validate(
        {
            "name": model,
            "task": "binary",
            "purpose": "Shows what tests need.",
            "owner": {"person": "ana"},
            "tier": tier,
            "entities": ["subscriber"] if pinned else [],
            "views": {view.name: view.digest() for view in pinned},
            "inputs": [*stored, {"request": "amount", "type": "float32", "feeds": "x"}],
            "output": {"score": "probability"},
        }
    )


def add_view(store: Store, view: FeatureView, batches: int = 1) -> int:
    """Puts a view and batches of it into the store, and returns the newest batch's number."""
    with store.unit("ana") as unit:
        sequence = unit.record("view.apply", f"view/{view.name}", {"hash": view.digest()})
        unit.connection.execute(
            upsert(feature_views)
            .values(
                hash=view.digest(),
                name=view.name,
                definition_json=view.canonical(),
                applied_at_ns=unit.now_ns,
                applied_by=unit.actor,
                sequence=sequence,
            )
            .on_conflict_do_nothing()
        )
        newest = unit.connection.exec_driver_sql("SELECT coalesce(max(sequence), 0) FROM feature_batches").scalar_one()
        for number in range(newest + 1, newest + 1 + batches):
            unit.connection.execute(
                insert(feature_batches).values(
                    sequence=number,
                    view_hash=view.digest(),
                    row_count=0,
                    additions_json="[]",
                    keys_json="[]",
                    rows=b"",
                    appended_at_ns=unit.now_ns,
                )
            )
    return int(newest + batches)


def add_version(
    store: Store, model: str, submitter: str = "ana", views: Iterable[FeatureView] = (), tier: str = "standard"
) -> int:
    """Puts a registered version into the store, as an upload would, and returns its number."""
    document = document_of(model, views, tier)
    with store.unit(submitter) as unit:
        run = unit.connection.execute
        run(
            upsert(models)
            .values(
                name=model,
                task=document.task,
                purpose=document.purpose,
                owner="ana",
                tier=tier,
                created_at_ns=unit.now_ns,
                created_by=submitter,
            )
            .on_conflict_do_nothing()
        )
        counted = unit.connection.exec_driver_sql("SELECT count(*) FROM versions WHERE model = ?", (model,))
        version = int(counted.scalar_one()) + 1
        digests = [uuid.uuid4().hex * 2 for _ in range(3)]
        for digest in digests[:2]:
            run(insert(artifacts).values(sha256=digest, size_bytes=1, created_at_ns=unit.now_ns, created_by=submitter))
        sequence = unit.record("version.register", f"{model}/{version}", {"digest": digests[2]})
        run(
            insert(versions).values(
                model=model,
                version=version,
                stage=Stage.REGISTERED,
                stage_sequence=sequence,
                digest=digests[2],
                task=document.task,
                document_json=document.canonical(),
                manifest_json=json.dumps({}),
                admission_json=json.dumps({}),
                model_sha256=digests[0],
                golden_sha256=digests[1],
                submitted_by=submitter,
                submitted_at_ns=unit.now_ns,
            )
        )
    return version


QUICK: Final = "shadow: null\nholdback: null\n"
"""A policy that leaves a rollout with nothing to do before or after its canary."""


def make_champion(mover: Client, approver: Client, model: str, version: int, wait_ms: int = 0) -> int:
    """Makes an approved version the champion, and returns the revision.

    A first version is promoted; any other one by a rollout that the approver ends against its evidence.
    """
    status = mover.call(mover.rollout.GetStatus, rollout_pb2.GetStatusRequest(model=model)).models[0]
    if not status.champion_version:
        first = rollout_pb2.PromoteVersionRequest(idempotency_key=key(), model=model, version=version, wait_ms=wait_ms)
        return int(mover.call(mover.rollout.PromoteVersion, first).revision)
    start = rollout_pb2.StartRolloutRequest(idempotency_key=key(), model=model, version=version, policy_yaml=QUICK)
    mover.call(mover.rollout.StartRollout, start)
    end = rollout_pb2.PromoteRolloutRequest(idempotency_key=key(), model=model, reason="a test", wait_ms=wait_ms)
    return int(approver.call(approver.rollout.PromoteRollout, end).revision)
