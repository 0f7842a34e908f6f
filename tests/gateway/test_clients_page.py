"""What the page for callers tells them to do works."""

from __future__ import annotations

import json
from pathlib import Path

import grpc

from gateway.v1 import scoring_pb2 as pb
from gateway.v1 import scoring_pb2_grpc as rpc
from tests.gateway import zoo
from tests.gateway.gateways import gateway
from tests.support import until

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"


def test_a_client_with_the_service_config_of_the_page_is_answered(tmp_path: Path) -> None:
    """The config is read out of the page, and gRPC takes it."""
    config = json.loads(PAGE.read_text().split("```json\n")[1].split("```")[0])
    data = tmp_path / "gateway"
    data.mkdir()
    zoo.place(data)
    options = [("grpc.service_config", json.dumps(config)), ("grpc.keepalive_time_ms", 65_000)]
    with gateway(data) as running:
        until(running.ready)
        with grpc.insecure_channel(running.supervisor()["address"], options) as channel:
            request = pb.ScoreRequest(model="churn", entities={"subscriber": "S1"})
            assert rpc.ScoringServiceStub(channel).Score(request, timeout=10).model == "churn"
