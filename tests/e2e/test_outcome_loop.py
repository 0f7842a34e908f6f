"""From a score to its label: scored and reported at a gateway, recorded in the lake, joined in the control plane."""

from __future__ import annotations

import time
from pathlib import Path

from control.outcomes import lake as lakes
from control.outcomes.evidence import labelled_rows
from control.outcomes.join import Fate, Joined
from control.outcomes.mistakes import rule_of
from control.v1 import data_plane_pb2
from gateway.contract.document import ModelDocument, document_from_json
from gateway.v1 import scoring_pb2 as pb
from gateway.v1 import scoring_pb2_grpc as rpc
from tests.gateway import zoo
from tests.gateway.gateways import gateway
from tests.support import until


def with_outcome_rule(data: Path) -> ModelDocument:
    """Gives the churn model of a gateway's routes an outcome rule."""
    path = data / "routes.pb"
    table = data_plane_pb2.RouteTable.FromString(path.read_bytes())
    (route,) = (route for route in table.models if route.model == "churn")
    fields = document_from_json(route.champion.document_json).model_dump(mode="json")
    fields["outcome"] = {"label": "churned", "window_days": 30}
    document = ModelDocument.model_validate(fields)
    route.champion.document_json = document.canonical()
    path.write_bytes(table.SerializeToString())
    return document


def test_what_a_caller_reports_labels_what_it_was_told(tmp_path: Path) -> None:
    """By the prediction's id, and by the entity; sent twice over two connections it counts once."""
    data = tmp_path / "gateway"
    data.mkdir()
    zoo.place(data)
    document = with_outcome_rule(data)
    rule = rule_of(document)
    assert rule is not None

    def join() -> Joined:
        return lakes.joined(tmp_path / "lake", {"churn": rule}, time.time_ns())

    with gateway(data, "--recorder=true", "--lake-flush-ms=200", "--workers=2") as running:
        until(running.ready)
        with running.channel() as channel:
            stub = rpc.ScoringServiceStub(channel)
            replies = {
                key: stub.Score(pb.ScoreRequest(model="churn", entities={"subscriber": key}), timeout=10)
                for key in ("S1", "S2", "S3")
            }
            now_ns = time.time_ns()
            rows = [
                pb.Outcome(id="a", prediction_id=replies["S1"].prediction_id, event_time_ns=now_ns, number=1.0),
                pb.Outcome(id="b", model="churn", entities={"subscriber": "S2"}, event_time_ns=now_ns, number=0.0),
                pb.Outcome(id="c", prediction_id="f" * 28, event_time_ns=now_ns, number=1.0),
            ]
            request = pb.RecordOutcomesRequest(outcomes=rows)
            assert stub.RecordOutcomes(request, timeout=10).recorded == 3
        with running.channel() as another:
            assert rpc.ScoringServiceStub(another).RecordOutcomes(request, timeout=10).recorded == 3
        found = until(lambda: joined if sum((joined := join()).counts.fates.values()) == 6 else None)
    assert found.counts.fates == {Fate.MATCHED: 2, Fate.WAITING: 1, Fate.DUPLICATE: 3}
    labels = {one.prediction.prediction_id: one.label_number for one in found.labelled}
    assert labels == {replies["S1"].prediction_id: 1.0, replies["S2"].prediction_id: 0.0}
    wrong = {one.prediction_id: one.bad for one in labelled_rows(found.labelled, {3: document})}
    assert wrong == {
        replies["S1"].prediction_id: replies["S1"].decision != "call",
        replies["S2"].prediction_id: replies["S2"].decision != "leave",
    }
    (mark,) = lakes.marks(tmp_path / "lake").values()
    assert mark.lost_rows == 0
