"""The control plane is killed at random while people work: nothing acknowledged is lost, and nothing is done twice."""

from __future__ import annotations

import hashlib
import itertools
import random
import signal
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
import yaml
from onnx import TensorProto, helper

from control.security import Role
from control.store.store import Store
from control.v1 import data_plane_pb2, governance_pb2, registry_pb2, rollout_pb2
from tests.control.planes import QUICK, Client, Process, add_version, document_of, key, refusal, token_for
from tests.support import STRESS, until

CYCLES: Final = 100 if STRESS else 10
WAITING: Final = 20 * CYCLES
"""Models with two versions that wait for approval when the work begins."""
MOVES: Final = frozenset({"version.promote", "rollout.start", "rollout.roll_back", "rollout.give_slot"})
"""What changes the route table here."""
ROLES: Final = {
    "ana": Role.DATA_SCIENTIST,
    "ben": Role.APPROVER,
    "mia": Role.ML_ENGINEER,
    "olga": Role.OPERATOR,
    "ida": Role.AUDITOR,
}
GONE: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def tiny_model() -> bytes:
    """A graph that is as small as admission takes."""
    graph = helper.make_graph(
        [helper.make_node("Sigmoid", ["x"], ["probability"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, [None, 1])],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    return bytes(model.SerializeToString())


class Work:
    """What people do, what of it was acknowledged, and what was asked but not answered."""

    def __init__(self, tokens: dict[str, str]) -> None:
        self.tokens = tokens
        self.acknowledged: list[tuple[str, Any, Any]] = []
        self.unanswered: dict[str, tuple[str, str, Any]] = {}
        self.failures: list[str] = []
        self.waiting = iter(range(1, WAITING + 1))
        self.numbers = itertools.count()
        self.model = tiny_model()

    def connect(self, address: str) -> dict[str, Client]:
        """A client per person."""
        return {actor: Client(address, token) for actor, token in self.tokens.items()}

    def ask(self, clients: dict[str, Client], actor: str, method: str, request: Any) -> bool:
        """Makes a change; False when the control plane went away meanwhile."""
        self.unanswered[request.idempotency_key] = actor, method, request
        try:
            self._settle(clients, actor, method, request)
        except grpc.RpcError as error:
            if error.code() not in GONE:
                self.failures.append(f"{method}: {error.code()} {error.details()}")
            return False
        return True

    def repeat_unanswered(self, clients: dict[str, Client]) -> None:
        """Asks again, under the same keys, for what was never answered."""
        for actor, method, request in list(self.unanswered.values()):
            if isinstance(request, registry_pb2.RegisterVersionRequest):
                self.upload(clients["ana"], golden_of(request.code_commit))
            self._settle(clients, actor, method, request)

    def upload(self, ana: Client, golden: bytes) -> None:
        """Uploads the model and golden rows; uploads can be repeated as they are."""
        for content in (self.model, golden):
            header = registry_pb2.ArtifactHeader(size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
            parts = [
                registry_pb2.UploadArtifactRequest(header=header),
                registry_pb2.UploadArtifactRequest(chunk=content),
            ]
            ana.registry.UploadArtifact(iter(parts), metadata=ana.metadata, timeout=60)

    def registration(self) -> registry_pb2.RegisterVersionRequest:
        """A version unlike every other."""
        number = f"{next(self.numbers):040x}"
        return registry_pb2.RegisterVersionRequest(
            idempotency_key=key(),
            document_yaml=yaml.safe_dump(document_of("real").model_dump(mode="json")),
            model_sha256=hashlib.sha256(self.model).hexdigest(),
            golden_sha256=hashlib.sha256(golden_of(number)).hexdigest(),
            code_commit=number,
        )

    def _settle(self, clients: dict[str, Client], actor: str, method: str, request: Any) -> None:
        client = clients[actor]
        service = client.registry if method == "RegisterVersion" else client.governance
        service = client.rollout if hasattr(client.rollout, method) else service
        try:
            answer = client.call(getattr(service, method), request)
        except grpc.RpcError as error:
            if error.code() in GONE or refusal(error).reason != "TOKEN_SHOWN":
                raise
            answer = None  # it was made before the kill, and its secret is lost with the answer
        self.acknowledged.append((method, request, answer))
        del self.unanswered[request.idempotency_key]


def golden_of(number: str) -> bytes:
    """Golden rows of which no two are the same."""
    return f"amount,expected\n0,0.5\n{-100 - int(number, 16)},0\n".encode()


def makes_tokens(work: Work, clients: dict[str, Client]) -> bool:
    """One more token, for an actor of its own."""
    actor = f"actor{next(work.numbers)}"
    request = governance_pb2.CreateTokenRequest(idempotency_key=key(), actor=actor, roles=["auditor"])
    return work.ask(clients, "olga", "CreateToken", request)


def decides(work: Work, clients: dict[str, Client]) -> bool:
    """Brings in the next model that waits: its first version is promoted, its second one tried and rolled back."""
    number = next(work.waiting, None)
    if number is None:
        return False
    model = f"seeded{number}"
    first, second = {"model": model, "version": 1}, {"model": model, "version": 2}
    steps: list[tuple[str, Any]] = [
        ("ben", governance_pb2.ApproveVersionRequest(idempotency_key=key(), **first)),
        ("mia", rollout_pb2.PromoteVersionRequest(idempotency_key=key(), **first)),
        ("ben", governance_pb2.ApproveVersionRequest(idempotency_key=key(), **second)),
        ("mia", rollout_pb2.StartRolloutRequest(idempotency_key=key(), policy_yaml=QUICK, **second)),
        ("mia", rollout_pb2.RollBackRolloutRequest(idempotency_key=key(), model=model)),
    ]
    return all(
        work.ask(clients, actor, type(request).__name__.removesuffix("Request"), request) for actor, request in steps
    )


def registers(work: Work, clients: dict[str, Client]) -> bool:
    """Uploads and registers one more version, through admission."""
    request = work.registration()
    try:
        work.upload(clients["ana"], golden_of(request.code_commit))
    except grpc.RpcError as error:
        if error.code() not in GONE:
            work.failures.append(f"UploadArtifact: {error.code()} {error.details()}")
        return False
    return work.ask(clients, "ana", "RegisterVersion", request)


def check(work: Work, clients: dict[str, Client], gateway: Client) -> None:
    """Nothing acknowledged is lost, nothing was done twice, and the trail verifies."""
    ida = clients["ida"]
    found = ida.call(ida.governance.VerifyAudit, governance_pb2.VerifyAuditRequest())
    assert found.ok, found.problem
    trail = {entry.sequence: entry for entry in entries(ida)}
    assert sorted(trail) == list(range(1, found.entries + 1))
    done = Counter((entry.action, entry.subject) for entry in trail.values())
    made = Counter(
        token.actor for token in ida.call(ida.governance.ListTokens, governance_pb2.ListTokensRequest()).tokens
    )
    approved = {
        (item.model, item.version): item
        for item in ida.call(ida.governance.ListApprovals, governance_pb2.ListApprovalsRequest()).approvals
    }
    for method, request, answer in work.acknowledged:
        match method:
            case "CreateToken":
                assert made[request.actor] == 1
            case "ApproveVersion":
                kept = approved[request.model, request.version]
                kept.state = answer.approval.state  # that of a version that was rolled back since counts no more
                assert kept == answer.approval
            case "PromoteVersion":
                entry = trail[answer.revision]
                assert (entry.action, entry.subject) == ("version.promote", f"{request.model}/{request.version}")
            case "StartRollout":
                entry = trail[answer.rollout.rollout_id]
                assert (entry.action, entry.subject) == ("rollout.start", f"{request.model}/{request.version}")
            case "RollBackRollout":
                assert trail[answer.revision].action == "rollout.roll_back"
            case "RegisterVersion":
                asked = registry_pb2.GetVersionRequest(model="real", version=answer.version.version)
                assert ida.call(ida.registry.GetVersion, asked).version == answer.version
                fetched = fetch(gateway, request.golden_sha256)
                assert hashlib.sha256(fetched).hexdigest() == request.golden_sha256
    often = {"artifact.upload", "rollout.hold", "rollout.give_slot"}
    once_only = {action: count for (action, _), count in done.items() if action not in often and count > 1}
    assert not once_only
    check_routes(gateway, trail)


def check_routes(gateway: Client, trail: dict[int, governance_pb2.AuditEntry]) -> None:
    """The table that a gateway gets is that of the newest move in the trail."""
    moves = [entry for entry in trail.values() if entry.action in MOVES]
    reports = iter([data_plane_pb2.WatchRoutesRequest(gateway_id="g1")])
    table = next(gateway.data_plane.WatchRoutes(reports, metadata=gateway.metadata)).table
    if moves:
        assert table.revision >= max(entry.sequence for entry in moves)
        champions = {f"{route.model}/{route.champion.version}" for route in table.models}
        assert champions == {entry.subject for entry in moves if entry.action == "version.promote"}


def entries(ida: Client) -> Iterator[governance_pb2.AuditEntry]:
    """The whole trail, a page at a time."""
    before = 0
    while page := ida.call(
        ida.governance.ListAudit, governance_pb2.ListAuditRequest(limit=1000, before=before)
    ).entries:
        yield from page
        before = page[-1].sequence
        if before == 1:
            return


def fetch(gateway: Client, sha256: str) -> bytes:
    """An artifact, as a gateway gets it."""
    request = data_plane_pb2.FetchArtifactRequest(sha256=sha256)
    return b"".join(part.chunk for part in gateway.data_plane.FetchArtifact(request, metadata=gateway.metadata))


def keep_at(
    task: Callable[[Work, dict[str, Client]], bool], work: Work, clients: dict[str, Client]
) -> threading.Thread:
    """A person who does one thing after another until the control plane is gone."""

    def run() -> None:
        while task(work, clients):
            pass

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.stress
@pytest.mark.timeout(1800 if STRESS else 300)
def test_nothing_acknowledged_is_lost_when_the_control_plane_is_killed(tmp_path: Path) -> None:
    """Ten kills, or a hundred: at any moment of registrations, approvals, promotions and token creations."""
    store = Store(tmp_path / "store.sqlite")
    work = Work({actor: token_for(store, actor, role) for actor, role in ROLES.items()})
    for number in range(1, WAITING + 1):
        for _ in range(2):
            add_version(store, f"seeded{number}")
    store.close()
    chance = random.Random(20260101)
    for cycle in range(CYCLES):
        process = Process(tmp_path)
        try:
            a_day_of(work, process, chance, with_registration=cycle % 3 == 0)
        finally:
            process.end(signal.SIGKILL)
        assert not work.failures
    assert {method for method, _, _ in work.acknowledged} == {
        "CreateToken",
        "ApproveVersion",
        "PromoteVersion",
        "StartRollout",
        "RollBackRollout",
        "RegisterVersion",
    }
    with sqlite3.connect(tmp_path / "store.sqlite") as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    raw.close()


def a_day_of(work: Work, process: Process, chance: random.Random, with_registration: bool) -> None:
    """Checks what was there before, then everybody works until the control plane is killed."""
    clients, gateway = work.connect(process.address), Client(process.address, read_token(process.data))
    work.repeat_unanswered(clients)
    check(work, clients, gateway)
    people = [keep_at(task, work, clients) for task in (makes_tokens, decides, registers)]
    try:
        wait_for_progress(work, chance, with_registration)
    finally:
        process.end(signal.SIGKILL)
        for person in people:
            person.join()
        for client in (*clients.values(), gateway):
            client.channel.close()


def read_token(data: Path) -> str:
    """The gateways' token."""
    return (data / "gateway.token").read_text()


def wait_for_progress(work: Work, chance: random.Random, with_registration: bool) -> None:
    """Waits for a random number of acknowledgements, and for a registration among them now and then."""
    before, wanted = len(work.acknowledged), chance.randint(1, 40)

    def enough() -> bool:
        fresh = work.acknowledged[before:]
        registered = not with_registration or any(method == "RegisterVersion" for method, _, _ in fresh)
        return bool(work.failures) or (registered and len(fresh) >= wanted)

    until(enough, 120)
    threading.Event().wait(chance.uniform(0, 0.02))  # somewhere within the next change
