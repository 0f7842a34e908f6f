"""Uploads and registrations over a real server: what is refused says why and leaves nothing but its audit entry."""

from __future__ import annotations

import hashlib
import json
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from control.registry.artifacts import CHUNK_BYTES, ArtifactStore
from control.security import Role
from control.server import ControlPlane
from control.v1 import features_pb2
from control.v1 import registry_pb2 as pb
from gateway.contract.errors import Fault, Reason
from tests.control.hostile import CORPUS
from tests.control.hostile_models import DOCUMENT, GOLDEN, good
from tests.control.planes import Client, Process, Refusal, client_for, key, refusal, running, token_for
from tests.support import STRESS, until

MAX_BYTES: Final = 4 << 20


class Plane(NamedTuple):
    """A running control plane, its directory, and a data scientist."""

    plane: ControlPlane
    data: Path
    client: Client

    def kept(self) -> tuple[list[str], int, int]:
        """The artifacts in the directory, how many rows tell of them, and how many versions there are."""
        with self.plane.store.read() as connection:
            counts = [
                int(connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one())
                for table in ("artifacts", "versions")
            ]
        directory = self.data / "artifacts"
        assert not list((directory / "incoming").iterdir())
        return sorted(path.name for path in directory.iterdir()), counts[0], counts[1]

    def audit(self) -> list[Any]:
        """The audit trail, newest first."""
        with self.plane.store.read() as connection:
            return list(connection.exec_driver_sql("SELECT * FROM audit ORDER BY sequence DESC").mappings())


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """One control plane for the module."""
    data = tmp_path_factory.mktemp("registry")
    with running(data, max_artifact_bytes=MAX_BYTES) as plane:
        yield Plane(plane, data, client_for(plane, "ana", Role.DATA_SCIENTIST, Role.ML_ENGINEER))


def sha256(data: bytes) -> str:
    """Its digest."""
    return hashlib.sha256(data).hexdigest()


def messages(data: bytes, **header: Any) -> list[pb.UploadArtifactRequest]:
    """An upload; the header says what is true but for what is given."""
    said = {"size_bytes": len(data), "sha256": sha256(data), **header}
    chunks = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
    return [
        pb.UploadArtifactRequest(header=pb.ArtifactHeader(**said)),
        *(pb.UploadArtifactRequest(chunk=chunk) for chunk in chunks),
    ]


def upload(client: Client, data: bytes) -> str:
    """Uploads and returns the digest."""
    call = client.registry.UploadArtifact
    return str(call(iter(messages(data)), metadata=client.metadata, timeout=30).sha256)


def refused_upload(client: Client, sent: list[pb.UploadArtifactRequest]) -> Refusal:
    """How an upload is refused."""
    with pytest.raises(grpc.RpcError) as caught:
        client.registry.UploadArtifact(iter(sent), metadata=client.metadata, timeout=30)
    return refusal(caught.value)


def registration(client: Client, model: bytes = b"", golden: bytes = GOLDEN, **changes: Any) -> Any:
    """A request to register, its files uploaded; `document` changes keys of the document."""
    document = {**DOCUMENT.model_dump(mode="json", exclude_defaults=True), **changes.pop("document", {})}
    fields = {
        "idempotency_key": key(),
        "document_yaml": yaml.safe_dump(document),
        "model_sha256": upload(client, model or good()),
        "golden_sha256": upload(client, golden),
        **changes,
    }
    return pb.RegisterVersionRequest(**fields)


def register(client: Client, request: Any) -> pb.RegisterVersionResponse:
    """Registers."""
    answer: pb.RegisterVersionResponse = client.call(client.registry.RegisterVersion, request)
    return answer


def test_what_is_uploaded_is_kept_under_its_digest(served: Plane) -> None:
    """Byte for byte; sending it again is no error and changes nothing."""
    data = bytes(range(256)) * 10_000
    assert upload(served.client, data) == sha256(data)
    assert (served.data / "artifacts" / sha256(data)).read_bytes() == data
    before = served.kept()
    assert upload(served.client, data) == sha256(data)
    assert served.kept() == before


def test_an_empty_file_is_an_artifact_too(served: Plane) -> None:
    """Nothing has a digest as well."""
    assert upload(served.client, b"") == sha256(b"")


@pytest.mark.parametrize(
    ("sent", "code", "reason"),
    [
        (messages(b"abc", sha256=sha256(b"abd")), "INVALID_ARGUMENT", "DIGEST_MISMATCH"),
        (messages(b"abc", size_bytes=2), "INVALID_ARGUMENT", "DIGEST_MISMATCH"),
        (messages(b"abc", size_bytes=4), "INVALID_ARGUMENT", "DIGEST_MISMATCH"),
        (messages(b"abc")[:1], "INVALID_ARGUMENT", "DIGEST_MISMATCH"),
        (messages(b"a" * (3 << 20))[:-1], "INVALID_ARGUMENT", "DIGEST_MISMATCH"),
        (messages(b"abc", size_bytes=MAX_BYTES + 1), "RESOURCE_EXHAUSTED", "ARTIFACT_TOO_LARGE"),
        (messages(b"abc", size_bytes=-1), "INVALID_ARGUMENT", "ARGUMENT_INVALID"),
        (messages(b"abc", sha256=""), "INVALID_ARGUMENT", "ARGUMENT_INVALID"),
        (messages(b"abc", sha256=sha256(b"abc").upper()), "INVALID_ARGUMENT", "ARGUMENT_INVALID"),
        (messages(b"abc", sha256="../../../../etc/passwd"), "INVALID_ARGUMENT", "ARGUMENT_INVALID"),
        (messages(b"abc", sha256=f"{'a' * 63}\n"), "INVALID_ARGUMENT", "ARGUMENT_INVALID"),
        (messages(b"abc") + messages(b"abc")[:1], "INVALID_ARGUMENT", "ARGUMENT_INVALID"),
        (messages(b"abc")[1:], "INVALID_ARGUMENT", "ARGUMENT_INVALID"),
        ([], "INVALID_ARGUMENT", "ARGUMENT_INVALID"),
        ([pb.UploadArtifactRequest()], "INVALID_ARGUMENT", "ARGUMENT_INVALID"),
        (
            [messages(b"a" * (2 << 20))[0], pb.UploadArtifactRequest(chunk=b"a" * (2 << 20))],
            "INVALID_ARGUMENT",
            "ARGUMENT_INVALID",
        ),
    ],
)
def test_a_bad_upload_keeps_nothing(
    served: Plane, sent: list[pb.UploadArtifactRequest], code: str, reason: str
) -> None:
    """No file, no record."""
    before = served.kept()
    answer = refused_upload(served.client, sent)
    assert (answer.code, answer.reason) == (code, reason)
    assert str(served.data) not in answer.message
    assert served.kept() == before


def test_an_upload_that_is_broken_off_keeps_nothing(served: Plane) -> None:
    """The caller goes away in the middle."""
    before = served.kept()
    begun, go_on = threading.Event(), threading.Event()

    def sending() -> Iterator[pb.UploadArtifactRequest]:
        yield from messages(b"a" * (3 << 20))[:2]
        begun.set()
        go_on.wait(20)

    call = served.client.registry.UploadArtifact.future(sending(), metadata=served.client.metadata, timeout=30)
    assert begun.wait(20)
    until(lambda: list((served.data / "artifacts" / "incoming").iterdir()))
    call.cancel()
    go_on.set()
    until(lambda: not list((served.data / "artifacts" / "incoming").iterdir()))
    assert served.kept() == before


def test_an_upload_killed_in_the_middle_leaves_nothing_after_a_restart(tmp_path: Path) -> None:
    """A server that dies by SIGKILL while it receives starts anew with a clean directory."""
    with running(tmp_path) as plane:
        token = token_for(plane.store, "ana", Role.DATA_SCIENTIST)
    incoming = tmp_path / "artifacts" / "incoming"
    hold = threading.Event()

    def sending() -> Iterator[pb.UploadArtifactRequest]:
        yield from messages(b"a" * (3 << 20))[:2]
        hold.wait(20)

    process = Process(tmp_path)
    try:
        client = Client(process.address, token)
        call = client.registry.UploadArtifact.future(sending(), metadata=client.metadata, timeout=30)
        until(lambda: list(incoming.iterdir()))
    finally:
        process.end(signal.SIGKILL)
        hold.set()
    with pytest.raises(grpc.RpcError):
        call.result()
    client.channel.close()
    assert list(incoming.iterdir())
    with running(tmp_path) as plane:
        assert not list(incoming.iterdir())
        assert [path.name for path in (tmp_path / "artifacts").iterdir()] == ["incoming"]
        client = Client(plane.address, token)
        assert upload(client, b"abc") == sha256(b"abc")


def test_a_version_is_registered_with_everything_that_it_names(served: Plane) -> None:
    """The manifest's digest is the version's, and names files, views, lineage and signature."""
    lineage = [pb.LineageEntry(name="training_data", sha256="1" * 64, size_bytes=5, uri="s3://bucket/rows")]
    request = registration(
        served.client,
        document={"name": "named"},
        lineage=lineage,
        code_commit="abc123",
        hyperparameters_json='{"trees": 1}',
        metrics_json='{"auc": 0.9}',
    )
    version = register(served.client, request).version
    assert (version.model, version.version, version.stage, version.status) == ("named", 1, "registered", "development")
    assert version.submitted_by == "ana"
    found = served.client.call(served.client.registry.GetVersion, pb.GetVersionRequest(model="named", version=1))
    assert found.version == version
    manifest = json.loads(found.manifest_json)
    assert sha256(found.manifest_json.encode()) == version.digest
    assert manifest["artifacts"]["model"] == {"sha256": sha256(good()), "size_bytes": len(good())}
    assert manifest["artifacts"]["golden"]["sha256"] == sha256(GOLDEN)
    assert manifest["lineage"][0]["sha256"] == "1" * 64
    assert manifest["code_commit"] == "abc123"
    assert manifest["hyperparameters"] == {"trees": 1}
    assert manifest["metrics"] == {"auc": 0.9}
    assert [tensor["name"] for tensor in manifest["signature"]["inputs"]] == ["X"]
    assert json.loads(found.admission_json)["golden_rows"] == 3
    entry = served.audit()[0]
    assert (entry["action"], entry["subject"], entry["sequence"]) == (
        "version.register",
        "named/1",
        version.stage_sequence,
    )


def test_a_repeated_registration_gets_the_first_answer(served: Plane) -> None:
    """And registers nothing; the key with other content is refused."""
    request = registration(served.client, document={"name": "repeated"})
    first = register(served.client, request)
    before = served.kept(), len(served.audit())
    assert register(served.client, request) == first
    assert (served.kept(), len(served.audit())) == before
    request.code_commit = "other"
    answer = served.client.refused(served.client.registry.RegisterVersion, request)
    assert (answer.code, answer.reason) == ("ALREADY_EXISTS", "IDEMPOTENCY_KEY_REUSED")


def test_the_same_content_is_registered_once(served: Plane) -> None:
    """Under a new key it is refused, and the version that it is already is named; what differs is the next version."""
    register(served.client, registration(served.client, document={"name": "once"}))
    before = served.kept()
    answer = served.client.refused(
        served.client.registry.RegisterVersion, registration(served.client, document={"name": "once"})
    )
    assert (answer.code, answer.reason, answer.facts) == (
        "ALREADY_EXISTS",
        "VERSION_EXISTS",
        {"model": "once", "version": "1"},
    )
    assert served.kept() == before
    changed = registration(served.client, document={"name": "once"}, code_commit="other")
    assert register(served.client, changed).version.version == 2
    listed = served.client.call(served.client.registry.ListVersions, pb.ListVersionsRequest(model="once")).versions
    assert [version.version for version in listed] == [2, 1]


def test_models_are_listed_as_their_newest_version_describes_them(served: Plane) -> None:
    """With the newest version's number, and no champion yet."""
    register(served.client, registration(served.client, document={"name": "listed"}))
    newer = {"name": "listed", "purpose": "Another.", "tier": "low"}
    register(served.client, registration(served.client, document=newer))
    models = served.client.call(served.client.registry.ListModels, pb.ListModelsRequest()).models
    assert [model.name for model in models] == sorted(model.name for model in models)
    found = next(model for model in models if model.name == "listed")
    assert (found.purpose, found.tier, found.latest_version, found.champion_version) == ("Another.", "low", 2, 0)


Change = Callable[[Any], None]


def setting(**fields: Any) -> Change:
    """A change to the request."""

    def change(request: Any) -> None:
        for name, value in fields.items():
            setattr(request, name, value)

    return change


def lineage_of(*names: str, digest: str = "1" * 64) -> Change:
    """Lineage with these names."""
    return lambda request: request.lineage.extend(pb.LineageEntry(name=name, sha256=digest) for name in names)


def document_of(**changes: Any) -> Change:
    """A change to the document."""

    def change(request: Any) -> None:
        document = yaml.safe_load(request.document_yaml)
        request.document_yaml = yaml.safe_dump(document | changes)

    return change


STORED: Final = [{"view": "nowhere", "feature": name, "feeds": "X"} for name in "abc"]


@pytest.mark.parametrize(
    ("change", "code", "reason", "says"),
    [
        (setting(document_yaml="name: [1"), "INVALID_ARGUMENT", "DOCUMENT_INVALID", "line 1"),
        (document_of(task="guess"), "INVALID_ARGUMENT", "DOCUMENT_INVALID", "task"),
        (document_of(purpose=""), "INVALID_ARGUMENT", "DOCUMENT_INVALID", "purpose"),
        (setting(idempotency_key=""), "INVALID_ARGUMENT", "IDEMPOTENCY_KEY_MISSING", "idempotency_key"),
        (setting(model_sha256="0" * 64), "NOT_FOUND", "ARTIFACT_UNKNOWN", "upload it first"),
        (setting(golden_sha256="0" * 64), "NOT_FOUND", "ARTIFACT_UNKNOWN", "upload it first"),
        (setting(model_sha256="../x"), "INVALID_ARGUMENT", "ARGUMENT_INVALID", "model_sha256"),
        (setting(golden_sha256=""), "INVALID_ARGUMENT", "ARGUMENT_INVALID", "golden_sha256"),
        (setting(metrics_json="[]"), "INVALID_ARGUMENT", "ARGUMENT_INVALID", "metrics_json"),
        (setting(metrics_json='{"auc": NaN}'), "INVALID_ARGUMENT", "ARGUMENT_INVALID", "NaN"),
        (setting(metrics_json='{"auc": "high"}'), "INVALID_ARGUMENT", "ARGUMENT_INVALID", "auc"),
        (setting(metrics_json='{"auc": 1, "auc": 2}'), "INVALID_ARGUMENT", "ARGUMENT_INVALID", "twice"),
        (setting(hyperparameters_json="{"), "INVALID_ARGUMENT", "ARGUMENT_INVALID", "hyperparameters_json"),
        (setting(hyperparameters_json="[" * 60_000), "INVALID_ARGUMENT", "ARGUMENT_INVALID", "hyperparameters_json"),
        (setting(code_commit="a\nb"), "INVALID_ARGUMENT", "ARGUMENT_INVALID", "code_commit"),
        (lineage_of("a", "a"), "INVALID_ARGUMENT", "ARGUMENT_INVALID", "lineage[1].name"),
        (lineage_of("../a"), "INVALID_ARGUMENT", "ARGUMENT_INVALID", "lineage[0].name"),
        (lineage_of("a", digest="x"), "INVALID_ARGUMENT", "ARGUMENT_INVALID", "lineage[0].sha256"),
        (lineage_of(*(f"a{i}" for i in range(257))), "INVALID_ARGUMENT", "ARGUMENT_INVALID", "257"),
        (
            document_of(entities=["subscriber"], views={"nowhere": "0" * 64}, inputs=STORED),
            "NOT_FOUND",
            "VIEW_UNKNOWN",
            "interlock features apply",
        ),
    ],
)
def test_a_bad_registration_keeps_nothing(served: Plane, change: Change, code: str, reason: str, says: str) -> None:
    """It is refused before the model is looked at, and leaves no version."""
    request = registration(served.client, document={"name": "bad"})
    change(request)
    before = served.kept()
    answer = served.client.refused(served.client.registry.RegisterVersion, request)
    assert (answer.code, answer.reason) == (code, reason), answer
    assert says in answer.message
    assert served.kept() == before


@pytest.mark.parametrize(
    "name",
    ["format-pickle-4", "wire-no-graph", "ext-abs", "tree-cycle", "golden-off-by-a-thousandth", "answer-nan"],
)
def test_a_model_that_admission_refuses_leaves_only_its_audit_entry(served: Plane, name: str) -> None:
    """With the check that refused it, in the answer and in the trail; not even the uploaded files stay."""
    case = CORPUS[name]
    before = served.kept()
    request = registration(served.client, case.model, case.golden, document={"name": "hostile"})
    answer = served.client.refused(served.client.registry.RegisterVersion, request)
    assert (answer.code, answer.reason) == ("INVALID_ARGUMENT", "ADMISSION_REFUSED")
    assert answer.facts == {"check": case.check}
    assert served.kept() == before
    entry = served.audit()[0]
    assert (entry["action"], entry["subject"]) == ("version.refuse", "hostile")
    details = json.loads(entry["details_json"])
    assert details["check"] == case.check
    assert details["model_sha256"] == request.model_sha256


def test_a_file_damaged_on_disk_is_not_registered(served: Plane) -> None:
    """Bit rot is seen before anything is approved."""
    model = good() + b"\x52\x00"  # an empty producer's field: other bytes, so another digest
    request = registration(served.client, model, document={"name": "rotten"})
    path = served.data / "artifacts" / request.model_sha256
    path.write_bytes(model[:-1] + b"\x01")
    answer = served.client.refused(served.client.registry.RegisterVersion, request)
    assert answer.facts == {"check": "digest"}
    assert not path.exists()


def test_files_of_a_version_outlive_a_refusal_that_names_them(served: Plane) -> None:
    """The model is in use, so only the golden rows that nobody uses go."""
    register(served.client, registration(served.client, document={"name": "in_use"}))
    wrong = GOLDEN.replace(b"0.75", b"0.5")
    request = registration(served.client, golden=wrong, document={"name": "in_use"})
    answer = served.client.refused(served.client.registry.RegisterVersion, request)
    assert answer.facts == {"check": "golden_rows"}
    assert (served.data / "artifacts" / request.model_sha256).exists()
    assert not (served.data / "artifacts" / request.golden_sha256).exists()
    assert served.client.refused(served.client.registry.RegisterVersion, request).reason == "ARTIFACT_UNKNOWN"


def test_a_version_pins_views_that_are_stored(served: Plane) -> None:
    """By exactly that hash, and keyed by an entity that the request gives."""
    definition = "name: usage\nentity: subscriber\nfeatures:\n" + "".join(
        f"  - {{name: {name}, type: float32}}\n" for name in "abc"
    )
    apply = features_pb2.ApplyViewRequest(idempotency_key=key(), definition_yaml=definition)
    view = served.client.call(served.client.features.ApplyView, apply).view
    inputs = [{"view": "usage", "feature": name, "feeds": "X"} for name in "abc"]
    golden = GOLDEN.replace(b"a,b,c", b"usage.a,usage.b,usage.c")
    document = {"name": "pinning", "entities": ["subscriber"], "inputs": inputs, "views": {"usage": view.hash}}
    answer = register(served.client, registration(served.client, golden=golden, document=document))
    assert answer.version.version == 1
    for changes, reason in (
        ({"entities": ["offer"]}, "DOCUMENT_INVALID"),
        ({"views": {"usage": view.hash[:-1] + ("0" if view.hash[-1] != "0" else "1")}}, "VIEW_UNKNOWN"),
    ):
        request = registration(served.client, golden=golden, document=document | changes)
        assert served.client.refused(served.client.registry.RegisterVersion, request).reason == reason


def test_a_models_task_stays_what_it_is(served: Plane) -> None:
    """Callers rely on what its score means."""
    register(served.client, registration(served.client, document={"name": "steady"}))
    request = registration(served.client, document={"name": "steady", "task": "regression"})
    answer = served.client.refused(served.client.registry.RegisterVersion, request)
    assert (answer.reason, answer.facts) == ("DOCUMENT_INVALID", {"key": "task"})


def test_what_is_not_registered_is_not_found(served: Plane) -> None:
    """Neither a model nor a version of one."""
    client = served.client
    for method, request in (
        (client.registry.ListVersions, pb.ListVersionsRequest(model="nobody")),
        (client.registry.GetVersion, pb.GetVersionRequest(model="nobody", version=1)),
        (client.registry.GetVersion, pb.GetVersionRequest(model="nobody", version=-(2**63))),
    ):
        answer = client.refused(method, request)
        assert (answer.code, answer.reason) == ("NOT_FOUND", "VERSION_UNKNOWN")


def test_registrations_at_once_get_numbers_without_gaps(served: Plane) -> None:
    """Each of them another one."""
    requests = [registration(served.client, document={"name": "many"}, code_commit=str(i)) for i in range(4)]
    numbers: list[int] = []

    def ask(request: Any) -> None:
        numbers.append(register(served.client, request).version.version)

    threads = [threading.Thread(target=ask, args=(request,)) for request in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == [1, 2, 3, 4]


def keep(store: ArtifactStore, digest: str, size: int, chunks: Iterable[bytes]) -> None:
    """Receives and publishes."""
    with store.receive(digest, size, chunks) as publish:
        publish()


@pytest.mark.stress
@pytest.mark.timeout(600)
@given(
    data=st.binary(max_size=5000),
    cuts=st.lists(st.integers(0, 5000), max_size=5),
    size_off=st.sampled_from([0, 0, 0, 1, -1]),
    flip=st.none() | st.integers(0, 4999),
)
@settings(max_examples=500 if STRESS else 50, deadline=None)
def test_an_artifact_is_kept_exactly_when_its_header_is_true(
    data: bytes, cuts: list[int], size_off: int, flip: int | None
) -> None:
    """However it is cut into chunks; otherwise there is a fault and no file."""
    digest, size = sha256(data), len(data) + size_off
    sent = bytearray(data)
    if flip is not None and data:
        sent[flip % len(data)] ^= 1
    edges = [0, *sorted(min(cut, len(sent)) for cut in cuts), len(sent)]
    chunks = [bytes(sent[start:end]) for start, end in pairwise(edges)]
    with tempfile.TemporaryDirectory() as directory:
        store = ArtifactStore(Path(directory), 5000)
        honest = bytes(sent) == data and size == len(data)
        if honest:
            keep(store, digest, size, chunks)
            with store.open(digest) as file:
                assert file.read() == data
            assert store.size_bytes(digest) == len(data)
        else:
            with pytest.raises(Fault):
                keep(store, digest, size, chunks)
            with pytest.raises(Fault) as caught:
                store.open(digest)
            assert caught.value.reason is Reason.ARTIFACT_UNKNOWN
        kept = {path.name for path in Path(directory).iterdir()}
        assert kept == ({digest, "incoming"} if honest else {"incoming"})
        assert not list((Path(directory) / "incoming").iterdir())


def test_the_same_artifact_received_many_times_at_once_is_there_once(tmp_path: Path) -> None:
    """Every receiver succeeds."""
    store, data = ArtifactStore(tmp_path, 1 << 20), b"a" * 100_000
    barrier, done = threading.Barrier(8), []

    def chunks() -> Iterator[bytes]:
        barrier.wait(20)
        yield data

    threads = [
        threading.Thread(target=lambda: done.append(keep(store, sha256(data), len(data), chunks()))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 8
    assert {path.name for path in tmp_path.iterdir()} == {sha256(data), "incoming"}
    assert not list((tmp_path / "incoming").iterdir())


def test_no_name_but_a_digest_opens_anything(tmp_path: Path) -> None:
    """Whatever is asked for."""
    store = ArtifactStore(tmp_path / "artifacts", 1000)
    (tmp_path / "secret").write_text("secret")
    for name in ("../secret", "/etc/passwd", "", ".", "incoming", "a" * 63, "A" * 64, "a" * 64 + "\n", "\0"):
        with pytest.raises(Fault) as caught:
            store.open(name)
        assert caught.value.reason is Reason.ARTIFACT_UNKNOWN
