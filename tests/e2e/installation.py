"""A control plane in this process and real gateways beside it, with the model that adds its version to minutes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import grpc

from control.security import Role
from control.server import ControlPlane
from control.v1 import features_pb2, governance_pb2, registry_pb2, rollout_pb2
from gateway.v1 import scoring_pb2, scoring_pb2_grpc
from tests.control.planes import client_for, key, running
from tests.control.test_registry import upload
from tests.gateway import tiny
from tests.gateway.gateways import Gateway, gateway
from tests.support import until

GOOD: Final = [f"S{index}" for index in range(300)]
"""Subscribers with 10 minutes."""
TRAPS: Final = [f"T{index}" for index in range(300)]
"""Subscribers with 20, on whom versions break that do."""


class Installation:
    """One control plane, and what people do with it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.plane: ControlPlane
        self.versions = 0
        self.document = tiny.DOCUMENT

    @contextmanager
    def control(self, **settings: Any) -> Iterator[ControlPlane]:
        """The control plane, while the block lasts; a second time it goes on where it was, at the same address."""
        with running(self.place / "control", **settings) as plane:
            self.plane = plane
            self.ana = client_for(plane, "ana", Role.DATA_SCIENTIST, Role.FEATURE_WRITER)
            self.mia = client_for(plane, "mia", Role.ML_ENGINEER)
            self.bob = client_for(plane, "bob", Role.APPROVER)
            yield plane

    def materialize(self) -> None:
        """Gives every subscriber its minutes."""
        view = features_pb2.ApplyViewRequest(idempotency_key=key(), definition_yaml=tiny.VIEW.canonical())
        self.ana.call(self.ana.features.ApplyView, view)
        keys = [*GOOD, *TRAPS]
        rows = features_pb2.FeatureRows(
            keys=keys,
            event_times_ns=[time.time_ns()] * len(keys),
            columns=[
                features_pb2.FeatureColumn(name="minutes", numbers=[10.0] * len(GOOD) + [20.0] * len(TRAPS)),
                features_pb2.FeatureColumn(name="batch", integers=[1] * len(keys)),
            ],
        )
        header = features_pb2.MaterializeHeader(idempotency_key=key(), view=tiny.VIEW.name)
        parts = [features_pb2.MaterializeRequest(header=header), features_pb2.MaterializeRequest(rows=rows)]
        list(self.ana.features.Materialize(iter(parts), metadata=self.ana.metadata, timeout=30))

    def register(self, breaks: str = "") -> int:
        """Registers and approves the next version, and returns its number."""
        self.versions += 1
        version = tiny.version(self.versions, breaks)
        request = registry_pb2.RegisterVersionRequest(
            idempotency_key=key(),
            document_yaml=self.document.canonical(),
            model_sha256=upload(self.ana, version.model),
            golden_sha256=upload(self.ana, version.golden),
        )
        found = self.ana.call(self.ana.registry.RegisterVersion, request).version
        approval = governance_pb2.ApproveVersionRequest(
            idempotency_key=key(), model=found.model, version=found.version, digest=found.digest
        )
        self.bob.call(self.bob.governance.ApproveVersion, approval)
        return int(found.version)

    def promote_first(self) -> None:
        """Registers the first version and makes it the champion."""
        first = rollout_pb2.PromoteVersionRequest(idempotency_key=key(), model=tiny.MODEL, version=self.register())
        self.mia.call(self.mia.rollout.PromoteVersion, first)

    def start(self, version: int, policy: str, wait_ms: int = 20_000) -> rollout_pb2.Rollout:
        """Starts a rollout, and waits until every gateway tries it."""
        request = rollout_pb2.StartRolloutRequest(
            idempotency_key=key(), model=tiny.MODEL, version=version, policy_yaml=policy, wait_ms=wait_ms
        )
        answer = self.mia.call(self.mia.rollout.StartRollout, request)
        assert not answer.pending, answer.pending
        return answer.rollout  # type: ignore[no-any-return]  # what generated clients return

    def rollout(self, rollout_id: int) -> rollout_pb2.Rollout:
        """Where a rollout stands."""
        request = rollout_pb2.GetRolloutRequest(rollout_id=rollout_id)
        return self.mia.call(self.mia.rollout.GetRollout, request).rollout  # type: ignore[no-any-return]  # likewise

    def trail(self, version: int) -> Sequence[Any]:
        """The audit trail of a version, the newest first."""
        request = governance_pb2.ListAuditRequest(subject=f"{tiny.MODEL}/{version}")
        return self.mia.call(self.mia.governance.ListAudit, request).entries  # type: ignore[no-any-return]  # likewise

    @contextmanager
    def gateway(self, name: str = "gateway", *flags: str) -> Iterator[Caller]:
        """A gateway that serves the champion."""
        token = f"--token-file={self.place / 'control' / 'gateway.token'}"
        with gateway(self.place / name / "data", token, *flags, control=self.plane.address) as running_gateway:
            until(lambda: running_gateway.board("worker-0").get("ready"), 60)
            with Caller(running_gateway) as caller:
                until(lambda: caller.score(GOOD[0]).score, 60)
                until(lambda: caller.score(TRAPS[-1]).score > 20, 60)
                yield caller


class Caller:
    """Who asks a gateway for scores, over one connection."""

    def __init__(self, running_gateway: Gateway) -> None:
        self.gateway = running_gateway
        self._channel = running_gateway.channel()
        self._stub = scoring_pb2_grpc.ScoringServiceStub(self._channel)

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def score(self, subscriber: str) -> scoring_pb2.ScoreResponse:
        """Scores one subscriber."""
        request = scoring_pb2.ScoreRequest(model=tiny.MODEL, entities={"subscriber": subscriber})
        return self._stub.Score(request, timeout=10)

    def begin(self, subscriber: str) -> Any:
        """Begins a call, and does not wait for its answer."""
        request = scoring_pb2.ScoreRequest(model=tiny.MODEL, entities={"subscriber": subscriber})
        return self._stub.Score.future(request, timeout=60)

    def patient(self, subscriber: str) -> scoring_pb2.ScoreResponse | None:
        """Scores one subscriber, as a client that repeats what is UNAVAILABLE; None where it is so now."""
        try:
            return self.score(subscriber)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return None

    def scores(self, subscribers: Sequence[str]) -> list[scoring_pb2.ScoreResponse]:
        """Scores many, one call after the other."""
        return [self.score(one) for one in subscribers]
