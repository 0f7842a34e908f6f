"""Who may call what, over a real server: every method, every role, every state of a token."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor, ServiceDescriptor

from control.governance.records import revoke_token
from control.guard import Guard
from control.security import POLICY, Role, authenticate, bearer, require_loopback
from control.server import ControlPlane
from control.v1 import data_plane_pb2, features_pb2, governance_pb2, registry_pb2, rollout_pb2
from gateway.contract.errors import Fault
from tests.control.planes import Client, refusal, token_for

FILES: list[FileDescriptor] = [
    module.DESCRIPTOR for module in (data_plane_pb2, features_pb2, governance_pb2, registry_pb2, rollout_pb2)
]
SERVICES: list[ServiceDescriptor] = [service for file in FILES for service in file.services_by_name.values()]
METHODS: dict[str, MethodDescriptor] = {
    f"/{service.full_name}/{method.name}": method for service in SERVICES for method in service.methods
}
MALFORMED = b"\xff"
"""No message: who may make the call is told so, and nothing is changed."""


@pytest.fixture(scope="module")
def channel(plane: ControlPlane) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(plane.address) as channel:
        yield channel


def outcome(channel: grpc.Channel, path: str, token: str | None) -> str:
    """The reason with which a call of malformed bytes is refused."""
    method, metadata = METHODS[path], (("authorization", f"Bearer {token}"),) if token is not None else ()
    sent: Any = iter([MALFORMED]) if method.client_streaming else MALFORMED
    try:
        match method.client_streaming, method.server_streaming:
            case False, False:
                channel.unary_unary(path)(sent, metadata=metadata, timeout=10)
            case False, True:
                list(channel.unary_stream(path)(sent, metadata=metadata, timeout=10))
            case True, False:
                channel.stream_unary(path)(sent, metadata=metadata, timeout=10)
            case _:
                list(channel.stream_stream(path)(sent, metadata=metadata, timeout=10))
    except grpc.RpcError as error:
        return refusal(error).reason
    raise AssertionError(f"{path} took malformed bytes")


def test_the_policy_table_has_exactly_the_methods_of_the_wire_contract() -> None:
    """No method without a row, and no row without a method."""
    assert set(POLICY) == set(METHODS)


def test_the_server_serves_every_method_of_the_wire_contract(plane: ControlPlane, channel: grpc.Channel) -> None:
    """None answers METHOD_UNKNOWN."""
    token = token_for(plane.store, "all", *Role)
    assert {outcome(channel, path, token) for path in METHODS} == {"MALFORMED_REQUEST"}


@pytest.mark.parametrize("role", Role)
def test_each_role_may_make_the_calls_of_its_rows_and_no_other(
    plane: ControlPlane, channel: grpc.Channel, role: Role
) -> None:
    """Every method, with a good token of one role."""
    token = token_for(plane.store, f"one.{role}", role)
    found = {path: outcome(channel, path, token) for path in METHODS}
    assert found == {
        path: "MALFORMED_REQUEST" if role in allowed else "ROLE_MISSING" for path, allowed in POLICY.items()
    }


@pytest.mark.parametrize("role", Role)
def test_a_token_that_is_no_longer_good_opens_nothing(plane: ControlPlane, channel: grpc.Channel, role: Role) -> None:
    """Every method, with no token, one of another control plane, a damaged, an expired and a revoked one."""
    good = token_for(plane.store, "ana", role)
    expired = token_for(plane.store, "ana", role, valid_s=0)
    revoked = token_for(plane.store, "ana", role)
    with plane.store.unit("test") as unit:
        unit.record("token.revoke", "test", {})
        revoke_token(unit, revoked.split("_")[1])
    for path, token in product(METHODS, (None, "ilk_0123456789abcdef_x", good[:-1], expired, revoked)):
        assert outcome(channel, path, token) == "UNAUTHENTICATED"


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic abc", "ilk_a_b", "Bearer ilk__", "Bearer \u00e4"])
def test_a_header_that_bears_no_token_of_ours_is_refused(header: str) -> None:
    """Whatever is in it."""
    with pytest.raises(Fault):
        authenticate(bearer([("authorization", header)]), lambda _: None, 0)


def test_health_needs_no_token(plane: ControlPlane) -> None:
    """A load balancer has none."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(plane.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", *(service.full_name for service in SERVICES)):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_method_that_nobody_serves_is_named_unknown(plane: ControlPlane) -> None:
    """With a reason of the catalogue, as everything else."""
    client = Client(plane.address)
    refused = client.refused(client.channel.unary_unary("/control.v1.RegistryService/DropEverything"), b"")
    assert (refused.code, refused.reason) == ("UNIMPLEMENTED", "METHOD_UNKNOWN")


def test_a_service_with_a_method_that_has_no_row_is_not_served() -> None:
    """The health service stands in for one that somebody forgot."""
    from grpc_health.v1 import health, health_pb2

    guard = Guard(lambda _: None, lambda: 0, ThreadPoolExecutor(1), 1 << 20)
    with pytest.raises(LookupError, match=r"grpc.health.v1.Health/\w+ has no row"):
        guard.serve(health_pb2.DESCRIPTOR.services_by_name["Health"], health.HealthServicer())


@pytest.mark.parametrize("address", ["0.0.0.0:7400", "[::]:7400", "10.0.0.1:7400", "example.com:7400"])
def test_plaintext_off_loopback_is_refused(address: str) -> None:
    """Tokens would travel in the open."""
    with pytest.raises(ValueError, match="plaintext listening is refused"):
        require_loopback(address)


@pytest.mark.parametrize("address", ["127.0.0.1:7400", "[::1]:7400", "localhost:0"])
def test_loopback_is_where_plaintext_may_be_spoken(address: str) -> None:
    """In each of its spellings."""
    require_loopback(address)
