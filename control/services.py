"""The services as typed calls: the control plane and its gateways, for the command line, the demo and jobs.

    with ControlPlane("127.0.0.1:7400", token) as control:
        onnx = control.upload(Path("churn.onnx"))

Every change takes an idempotency key. It makes one of its own unless you give one; the calls' retries keep it, and
a job that may be run twice for one change gives the same key both times.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Final

from control.connection import CHANGE_S, CallFailed, Connection, new_key
from control.files import digest_file, read_chunks
from control.rollout_client import RolloutClient
from control.v1 import features_pb2, governance_pb2, registry_pb2
from control.v1.features_pb2_grpc import FeaturesServiceStub
from control.v1.governance_pb2_grpc import GovernanceServiceStub
from control.v1.registry_pb2_grpc import RegistryServiceStub
from gateway.v1 import admin_pb2, scoring_pb2
from gateway.v1.admin_pb2_grpc import AdminServiceStub
from gateway.v1.scoring_pb2_grpc import ScoringServiceStub

ADMISSION_S: Final = 180.0
"""Seconds that a registration gets: the model is loaded and run on its golden rows meanwhile."""
BYTES_PER_S: Final = 1 << 20
ROWS_PER_S: Final = 1_000
"""The slowest transfers that are waited for."""
TRIES: Final = 4
"""How often an interrupted materialization is taken up again."""


class ControlPlane(RolloutClient):
    """The control plane, as one actor may use it."""

    def __init__(self, address: str, token: str | None) -> None:
        super().__init__(address, token)
        self._registry = RegistryServiceStub(self.channel)
        self._governance = GovernanceServiceStub(self.channel)
        self._features = FeaturesServiceStub(self.channel)

    # The registry

    def upload(self, path: Path, progress: Callable[[int], None] = lambda _: None) -> str:
        """Stores a file's bytes and returns their SHA-256; `progress` is told how many were sent."""
        digest = digest_file(path)
        header = registry_pb2.ArtifactHeader(size_bytes=digest.size_bytes, sha256=digest.sha256)

        def messages() -> Iterator[registry_pb2.UploadArtifactRequest]:
            yield registry_pb2.UploadArtifactRequest(header=header)
            for chunk in read_chunks(path):
                yield registry_pb2.UploadArtifactRequest(chunk=chunk)
                progress(len(chunk))

        deadline_s = CHANGE_S + digest.size_bytes / BYTES_PER_S
        return self.send(self._registry.UploadArtifact, messages(), deadline_s).sha256

    def download(self, sha256: str, size_bytes: int, path: Path) -> None:
        """Writes an artifact to a file; raises ValueError where what came is not what its digest names."""
        request = registry_pb2.DownloadArtifactRequest(sha256=sha256)
        with path.open("wb") as file:
            for answer in self.receive(self._registry.DownloadArtifact, request, CHANGE_S + size_bytes / BYTES_PER_S):
                file.write(answer.chunk)
        if digest_file(path).sha256 != sha256:
            raise ValueError(f"what came is not the artifact {sha256}; repeat the download")

    def register(self, request: registry_pb2.RegisterVersionRequest) -> registry_pb2.RegisterVersionResponse:
        """Registers a version from uploaded artifacts; a missing idempotency key is made."""
        request.idempotency_key = request.idempotency_key or new_key()
        return self.call(self._registry.RegisterVersion, request, ADMISSION_S)

    def models(self) -> Sequence[registry_pb2.Model]:
        """The models, by name."""
        return self.call(self._registry.ListModels, registry_pb2.ListModelsRequest()).models

    def versions(self, model: str) -> Sequence[registry_pb2.Version]:
        """The versions of a model, newest first."""
        return self.call(self._registry.ListVersions, registry_pb2.ListVersionsRequest(model=model)).versions

    def version(self, model: str, version: int) -> registry_pb2.GetVersionResponse:
        """Everything that is known of a version."""
        request = registry_pb2.GetVersionRequest(model=model, version=version)
        return self.call(self._registry.GetVersion, request)

    # Governance

    def approvals(self, model: str = "") -> Sequence[governance_pb2.Approval]:
        """Versions that wait for a decision, then decisions given, newest first."""
        return self.call(self._governance.ListApprovals, governance_pb2.ListApprovalsRequest(model=model)).approvals

    def approve(
        self, model: str, version: int, comment: str = "", digest: str = "", key: str = ""
    ) -> governance_pb2.Approval:
        """Approves a version's digest; with `digest`, only if it is still that one."""
        request = governance_pb2.ApproveVersionRequest(
            idempotency_key=key or new_key(),
            model=model,
            version=version,
            digest=digest,
            comment=comment,
        )
        return self.call(self._governance.ApproveVersion, request, CHANGE_S).approval

    def reject(self, model: str, version: int, comment: str, key: str = "") -> governance_pb2.Approval:
        """Rejects a version."""
        request = governance_pb2.RejectVersionRequest(
            idempotency_key=key or new_key(), model=model, version=version, comment=comment
        )
        return self.call(self._governance.RejectVersion, request, CHANGE_S).approval

    def create_token(
        self, actor: str, roles: Sequence[str], valid_s: int = 0, key: str = ""
    ) -> governance_pb2.CreateTokenResponse:
        """Creates a token; the secret in the answer is shown this once."""
        request = governance_pb2.CreateTokenRequest(
            idempotency_key=key or new_key(), actor=actor, roles=roles, valid_s=valid_s
        )
        return self.call(self._governance.CreateToken, request, CHANGE_S)

    def tokens(self) -> Sequence[governance_pb2.Token]:
        """The tokens, newest first, without their secrets."""
        return self.call(self._governance.ListTokens, governance_pb2.ListTokensRequest()).tokens

    def revoke_token(self, token_id: str, key: str = "") -> governance_pb2.Token:
        """Ends a token's validity."""
        request = governance_pb2.RevokeTokenRequest(idempotency_key=key or new_key(), token_id=token_id)
        return self.call(self._governance.RevokeToken, request, CHANGE_S).token

    def audit(self, subject: str = "", limit: int = 0, before: int = 0) -> Sequence[governance_pb2.AuditEntry]:
        """Entries of the audit trail, newest first."""
        request = governance_pb2.ListAuditRequest(subject=subject, limit=limit, before=before)
        return self.call(self._governance.ListAudit, request).entries

    def verify_audit(self) -> governance_pb2.VerifyAuditResponse:
        """Has the whole trail recomputed."""
        return self.call(self._governance.VerifyAudit, governance_pb2.VerifyAuditRequest(), ADMISSION_S)

    # Features

    def apply_view(self, definition_yaml: str, key: str = "") -> features_pb2.ApplyViewResponse:
        """Stores a view's definition."""
        request = features_pb2.ApplyViewRequest(idempotency_key=key or new_key(), definition_yaml=definition_yaml)
        return self.call(self._features.ApplyView, request, CHANGE_S)

    def views(self, name: str = "") -> Sequence[features_pb2.FeatureView]:
        """View definitions, newest first."""
        return self.call(self._features.ListViews, features_pb2.ListViewsRequest(name=name)).views

    def materialize(
        self,
        view_hash: str,
        chunks: Callable[[], Iterator[features_pb2.FeatureRows]],
        expected_rows: int,
        key: str = "",
    ) -> Iterator[features_pb2.MaterializeResponse]:
        """Appends rows to the feature log, yielding once per chunk when it is durable.

        `chunks` must give the same chunks each time that it is called: an interrupted stream is sent again from the
        start, and the control plane recognises by the key what it has already.
        """
        header = features_pb2.MaterializeHeader(idempotency_key=key or new_key(), view_hash=view_hash)

        def messages() -> Iterator[features_pb2.MaterializeRequest]:
            yield features_pb2.MaterializeRequest(header=header)
            for rows in chunks():
                yield features_pb2.MaterializeRequest(rows=rows)

        deadline_s, durable = CHANGE_S + expected_rows / ROWS_PER_S, 0
        for attempt in count(1):
            answers = self.exchange(self._features.Materialize, messages(), deadline_s)
            try:
                for answer in islice(answers, durable, None):
                    durable += 1
                    yield answer
            except CallFailed as failed:
                if failed.code != "UNAVAILABLE" or attempt == TRIES:
                    raise
                time.sleep(0.5 * 2**attempt)
            else:
                return


class Gateway(Connection):
    """A gateway, as its callers use it."""

    def __init__(self, address: str, token: str | None = None) -> None:
        super().__init__(address, token, "the gateway")
        self._scoring = ScoringServiceStub(self.channel)

    def score(self, request: scoring_pb2.ScoreRequest, deadline_s: float) -> scoring_pb2.ScoreResponse:
        """Scores one row."""
        return self.call(self._scoring.Score, request, deadline_s)

    def score_batch(self, request: scoring_pb2.ScoreBatchRequest, deadline_s: float) -> scoring_pb2.ScoreBatchResponse:
        """Scores many rows of one model."""
        return self.call(self._scoring.ScoreBatch, request, deadline_s)


class GatewayAdmin(Connection):
    """A gateway, as the operator of its host sees it; the token is the gateway's own."""

    def __init__(self, address: str, token: str | None) -> None:
        super().__init__(address, token, "the gateway's admin port")
        self._admin = AdminServiceStub(self.channel)

    def status(self) -> admin_pb2.GetStatusResponse:
        """What it serves and how its processes are."""
        return self.call(self._admin.GetStatus, admin_pb2.GetStatusRequest())

    def features(self, entity: str, key: str) -> admin_pb2.GetFeaturesResponse:
        """What its online store holds for one entity."""
        return self.call(self._admin.GetFeatures, admin_pb2.GetFeaturesRequest(entity=entity, key=key))

    def step_back(
        self, model: str, to_version: int, reason: str, actor: str, wait_s: float = 0
    ) -> admin_pb2.StepBackResponse:
        """Has a former champion answer on this gateway (0: the last one), and waits up to `wait_s` for its workers."""
        request = admin_pb2.StepBackRequest(
            model=model, to_version=to_version, reason=reason, actor=actor, wait_ms=int(wait_s * 1000)
        )
        return self.call(self._admin.StepBack, request, CHANGE_S + wait_s)

    def accept_history(self, history_id: str) -> None:
        """Has the gateway follow the history that its control plane offers; it begins anew."""
        self.call(self._admin.AcceptHistory, admin_pb2.AcceptHistoryRequest(history_id=history_id))
