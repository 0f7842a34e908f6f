"""RegistryService on the wire."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from typing import Final, NamedTuple

import grpc

from control.features.views import pinned_views
from control.registry.admission.gate import Admission, Candidate
from control.registry.admission.report import Report
from control.registry.artifacts import CHUNK_BYTES, ArtifactStore
from control.registry.document import read_model
from control.registry.manifest import Artifact, Files, Lineage, Origin, check_origin, check_sha256, make_manifest
from control.registry.records import (
    Admitted,
    ModelRow,
    VersionRow,
    check_task,
    discard_artifacts,
    find_artifact,
    find_version,
    list_models,
    list_versions,
    store_artifact,
    store_version,
)
from control.rollout.lifecycle import STATUS
from control.security import caller
from control.store.idempotency import once, replay
from control.store.store import Store, Unit
from control.v1 import registry_pb2 as pb
from control.v1.registry_pb2_grpc import RegistryServiceServicer
from gateway.contract.document import ModelDocument
from gateway.contract.errors import Fault, Reason
from gateway.contract.schema import FeatureView

REGISTER: Final = "/control.v1.RegistryService/RegisterVersion"


class Submission(NamedTuple):
    """What a trainer asks to register, read and found to be complete."""

    document: ModelDocument
    views: dict[str, FeatureView]
    model: Artifact
    golden: Artifact
    origin: Origin


class RegistryService(RegistryServiceServicer):
    """Stores artifacts, and registers versions that pass admission."""

    def __init__(self, store: Store, artifacts: ArtifactStore, admission: Admission) -> None:
        self._store = store
        self._artifacts = artifacts
        self._admission = admission

    def UploadArtifact(  # noqa: N802 - named by the protocol
        self, request_iterator: Iterator[pb.UploadArtifactRequest], context: grpc.ServicerContext
    ) -> pb.UploadArtifactResponse:
        """Stores bytes under their digest, and answers once they are durable."""
        first = next(request_iterator, None)
        if first is None or first.WhichOneof("part") != "header":
            raise Fault(Reason.ARGUMENT_INVALID, "the first message of the stream must be the header", field="header")
        header = first.header
        chunks = _chunks(request_iterator)
        with (
            self._artifacts.receive(header.sha256, header.size_bytes, chunks) as publish,
            self._store.unit(caller(context).actor) as unit,
        ):
            publish()  # within the unit, so that no refusal discards the file between its arrival and its record
            store_artifact(unit, Artifact(header.sha256, header.size_bytes))
        return pb.UploadArtifactResponse(sha256=header.sha256)

    def DownloadArtifact(  # noqa: N802 - named by the protocol
        self,
        request: pb.DownloadArtifactRequest,
        context: grpc.ServicerContext,  # noqa: ARG002 - the protocol's signature
    ) -> Iterator[pb.DownloadArtifactResponse]:
        """Sends an artifact, a chunk at a time."""
        with self._artifacts.open(request.sha256) as file:
            while chunk := file.read(CHUNK_BYTES):
                yield pb.DownloadArtifactResponse(chunk=chunk)

    def RegisterVersion(  # noqa: N802 - named by the protocol
        self, request: pb.RegisterVersionRequest, context: grpc.ServicerContext
    ) -> pb.RegisterVersionResponse:
        """Registers a version. Admission takes seconds, so it comes before the unit of work, which holds up others."""
        actor, key = caller(context).actor, request.idempotency_key
        content = request.SerializeToString(deterministic=True)
        answer = replay(self._store, actor, key, REGISTER, content)
        if answer is None:
            submission = self._read(request)
            files, report = self._admit(actor, submission)
            admitted = _admitted(submission, files, report)

            def change(unit: Unit) -> bytes:
                version = store_version(unit, admitted)
                row = find_version(unit.connection, submission.document.name, version)
                return pb.RegisterVersionResponse(version=_version(row), warnings=report.warnings).SerializeToString()

            answer = once(self._store, actor, key, REGISTER, content, change)
        return pb.RegisterVersionResponse.FromString(answer)

    def ListModels(  # noqa: N802 - named by the protocol
        self,
        request: pb.ListModelsRequest,  # noqa: ARG002 - the protocol's signature
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> pb.ListModelsResponse:
        """Lists models, by name."""
        with self._store.read() as connection:
            return pb.ListModelsResponse(models=[_model(row) for row in list_models(connection)])

    def ListVersions(  # noqa: N802 - named by the protocol
        self,
        request: pb.ListVersionsRequest,
        context: grpc.ServicerContext,  # noqa: ARG002 - the protocol's signature
    ) -> pb.ListVersionsResponse:
        """Lists the versions of a model, newest first."""
        with self._store.read() as connection:
            return pb.ListVersionsResponse(versions=[_version(row) for row in list_versions(connection, request.model)])

    def GetVersion(  # noqa: N802 - named by the protocol
        self,
        request: pb.GetVersionRequest,
        context: grpc.ServicerContext,  # noqa: ARG002 - the protocol's signature
    ) -> pb.GetVersionResponse:
        """Returns one version with everything that is known of it."""
        with self._store.read() as connection:
            row = find_version(connection, request.model, request.version)
        return pb.GetVersionResponse(
            version=_version(row), manifest_json=row.manifest_json, admission_json=row.admission_json
        )

    def _read(self, request: pb.RegisterVersionRequest) -> Submission:
        """Reads the request, and refuses what can be refused without looking at the model."""
        document = read_model(request.document_yaml)
        lineage = [Lineage(item.name, item.sha256, item.size_bytes, item.uri) for item in request.lineage]
        origin = check_origin(lineage, request.code_commit, request.hyperparameters_json, request.metrics_json)
        model, golden = (check_sha256(field, getattr(request, field)) for field in ("model_sha256", "golden_sha256"))
        with self._store.read() as connection:
            check_task(connection, document)
            views = pinned_views(connection, document.views.items())
            _check_entities(document, views)
            return Submission(
                document, views, find_artifact(connection, model), find_artifact(connection, golden), origin
            )

    def _admit(self, actor: str, submission: Submission) -> tuple[Files, Report]:
        """Has the model examined. A refusal is recorded before it is answered, and its files are kept no longer."""
        model, golden = submission.model, submission.golden
        with (
            self._artifacts.open(model.sha256) as model_file,
            self._artifacts.open(golden.sha256) as golden_file,
            tempfile.TemporaryFile() as rewritten,
        ):
            candidate = Candidate(
                model_file,
                golden_file,
                submission.document,
                submission.views,
                model.sha256,
                golden.sha256,
                rewritten,
            )
            try:
                report = self._admission.admit(candidate)
            except Fault as fault:
                if fault.reason is Reason.ADMISSION_REFUSED:
                    self._record_refusal(actor, submission, fault.facts["check"])
                raise
            rewritten.seek(0)
            if data := rewritten.read():
                return Files(self._keep(actor, data), golden, uploaded=model), report
            return Files(model, golden), report

    def _keep(self, actor: str, data: bytes) -> Artifact:
        """Stores the model that a rewriting gave, as an upload is stored."""
        artifact = Artifact(hashlib.sha256(data).hexdigest(), len(data))
        with self._artifacts.receive(*artifact, [data]) as publish, self._store.unit(actor) as unit:
            publish()
            store_artifact(unit, artifact)
        return artifact

    def _record_refusal(self, actor: str, submission: Submission, check: str) -> None:
        model, golden = submission.model.sha256, submission.golden.sha256
        facts = {"check": check, "model_sha256": model, "golden_sha256": golden}
        with self._store.unit(actor) as unit:
            unit.record("version.refuse", submission.document.name, facts)
            for sha256 in discard_artifacts(unit, (model, golden)):
                self._artifacts.discard(sha256)


def _chunks(messages: Iterator[pb.UploadArtifactRequest]) -> Iterator[bytes]:
    for message in messages:
        if message.WhichOneof("part") != "chunk":
            raise Fault(Reason.ARGUMENT_INVALID, "after the header come chunks only", field="chunk")
        if len(message.chunk) > CHUNK_BYTES:
            raise Fault(
                Reason.ARGUMENT_INVALID,
                f"chunk: has {len(message.chunk)} bytes; {CHUNK_BYTES} are taken",
                field="chunk",
            )
        yield message.chunk


def _check_entities(document: ModelDocument, views: dict[str, FeatureView]) -> None:
    for name, view in views.items():
        if view.entity not in document.entities:
            raise Fault(
                Reason.DOCUMENT_INVALID,
                f"the model document: entities: view {name} is keyed by {view.entity}, which is not among them",
                key="entities",
            )


def _admitted(submission: Submission, files: Files, report: Report) -> Admitted:
    manifest = make_manifest(submission.document, files, submission.origin, report)
    return Admitted(submission.document, manifest, files.model, files.golden, report.to_json())


def _version(row: VersionRow) -> pb.Version:
    return pb.Version(
        model=row.model,
        version=row.version,
        stage=row.stage,
        status=STATUS[row.stage],
        digest=row.digest,
        task=row.task,
        submitted_by=row.submitted_by,
        submitted_at_ns=row.submitted_at_ns,
        approved_by=row.approved_by,
        stage_sequence=row.stage_sequence,
    )


def _model(row: ModelRow) -> pb.Model:
    return pb.Model(**row._asdict())
