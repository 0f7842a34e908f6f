"""The control plane's calls by OTLP: durations and spans, and no word of a collector that does not answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from control.guard import Rpc
from control.otlp import BOUNDS_S, Durations, span_of
from control.security import Role
from control.v1 import governance_pb2, registry_pb2
from gateway.contract.otlp import Point
from tests.control.planes import Client, client_for, running
from tests.gateway.collector import Collector, attributes, black_hole, closed_port, collector
from tests.support import until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{PARENT}-01"
METHOD = "control.v1.RegistryService/ListVersions"


def rpc(code: str = "OK", took_ns: int = 5_000_000, traceparent: str = "") -> Rpc:
    """A call."""
    return Rpc(f"/{METHOD}", code, 10**18, took_ns, traceparent)


def test_durations_are_counted_by_method_and_status() -> None:
    """A bound belongs to its bucket."""
    durations = Durations()
    for call in (rpc(), rpc(took_ns=5_000_001), rpc(took_ns=60_000_000_000), rpc("NOT_FOUND")):
        durations.add(call)
    good, bad = durations.metric().points
    said = {"rpc.system.name": "grpc", "rpc.method": METHOD, "rpc.response.status_code": "OK"}
    assert good == Point(said, pytest.approx(60.010000001), BOUNDS_S, [1, 1, *[0] * 12, 1])
    assert bad.attributes["rpc.response.status_code"] == "NOT_FOUND"


def test_a_callers_word_on_sampling_holds_and_a_share_is_for_those_who_give_none() -> None:
    """A failed call says so."""
    span = span_of(rpc("NOT_FOUND", traceparent=SAMPLED), 0)
    assert span is not None
    assert (span.trace_id.hex(), span.parent_id.hex(), span.error) == (TRACE, PARENT, "NOT_FOUND")
    assert (span.start_ns, span.end_ns) == (10**18, 10**18 + 5_000_000)
    assert span_of(rpc(traceparent=SAMPLED[:-1] + "0"), 10_000) is None
    assert span_of(rpc(), 0) is None
    rootless = span_of(rpc(), 10_000)
    assert rootless is not None
    assert rootless.parent_id == b""


@pytest.fixture
def listening() -> Iterator[Collector]:
    with collector() as found:
        yield found


def list_models(client: Client, traceparent: str = "") -> None:
    """A call, in a trace or without one."""
    metadata = (*client.metadata, *((("traceparent", traceparent),) if traceparent else ()))
    client.registry.ListModels(registry_pb2.ListModelsRequest(), metadata=metadata, timeout=10)


def test_a_collector_gets_durations_and_the_callers_traces(tmp_path: Path, listening: Collector) -> None:
    """A refused call's span says which status it was answered."""
    with running(tmp_path, otlp_endpoint=f"http://{listening.address}", otlp_interval_ms=100) as plane:
        client = client_for(plane, "ana", Role.AUDITOR)
        list_models(client, SAMPLED)
        list_models(client)
        client.metadata = (*client.metadata, ("traceparent", SAMPLED))
        assert (
            client.refused(client.governance.CreateToken, governance_pb2.CreateTokenRequest()).code
            == "PERMISSION_DENIED"
        )
        spans = until(lambda: found if len(found := listening.of_trace(TRACE)) == 2 else [])
    by_name = {span.name: span for span in spans}
    assert all(span.parent_span_id.hex() == PARENT for span in spans)
    assert by_name["control.v1.RegistryService/ListModels"].status.code == Status.STATUS_CODE_UNSET
    assert by_name["control.v1.GovernanceService/CreateToken"].status.message == "PERMISSION_DENIED"
    assert len(listening.spans) == 2
    points = listening.metrics["rpc.server.call.duration"].histogram.data_points
    counts = {
        (attributes(point)["rpc.method"].rpartition("/")[2], attributes(point)["rpc.response.status_code"]): point.count
        for point in points
    }
    assert counts == {("ListModels", "OK"): 2, ("CreateToken", "PERMISSION_DENIED"): 1}
    assert {"service.name": "interlock-control"}.items() <= listening.resources[-1].items()


@pytest.mark.parametrize("kind", ["never answers", "is not there"])
def test_a_collector_that_does_not_answer_changes_nothing(tmp_path: Path, kind: str) -> None:
    """Calls go on, and the control plane stops as it would."""
    with black_hole() as address:
        endpoint = f"http://{address if kind == 'never answers' else closed_port()}"
        with running(tmp_path, otlp_endpoint=endpoint, otlp_interval_ms=100, otlp_sample_bps=10_000) as plane:
            client = client_for(plane, "ana", Role.AUDITOR)
            for _ in range(50):
                list_models(client, SAMPLED)
