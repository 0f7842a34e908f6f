"""Metrics and spans by OTLP: callers' traces go on here, and a collector that does not answer changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from gateway.contract.otlp import Kind, Point, read_endpoint, read_headers
from gateway.contract.tracing import NOBODY, chosen, digest, parse, sent
from gateway.journal import ROW, STAGES, Block
from gateway.samples import metrics_of
from gateway.spans import prediction_id, spans_of
from gateway.totals import RESULTS
from gateway.v1 import scoring_pb2 as pb
from gateway.v1.scoring_pb2_grpc import ScoringServiceStub
from tests.gateway import zoo
from tests.gateway.collector import Collector, attributes, black_hole, closed_port, collector
from tests.gateway.gateways import Gateway, gateway
from tests.gateway.test_pipeline import churn
from tests.support import until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{PARENT}-01"
FLAGS = ["--otlp-interval-ms=100", "--recorder=false"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        SAMPLED[:-1],
        SAMPLED + "-more",
        SAMPLED.upper(),
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"01-{TRACE}-{PARENT}-01more",
        "x" * 10_000,
    ],
)
def test_a_malformed_trace_context_is_as_good_as_none(text: str) -> None:
    """The call is answered, and belongs to no trace."""
    assert parse(text) is None
    assert sent([("user-agent", "x"), ("traceparent", text)]) == ""


def test_a_trace_context_is_read_as_the_standard_has_it() -> None:
    """Of a newer version as far as we know it; one that comes twice does not count."""
    context = parse(SAMPLED)
    assert context == (bytes.fromhex(TRACE), bytes.fromhex(PARENT), True)
    assert parse(f"cc-{TRACE}-{PARENT}-09-what-comes") == context
    not_sampled = parse(f"00-{TRACE}-{PARENT}-02")
    assert not_sampled is not None
    assert not not_sampled.sampled
    assert sent([("traceparent", SAMPLED)]) == SAMPLED
    assert sent([("traceparent", f'cc-{TRACE}-{PARENT}-09-"]}}')]) == f"cc-{TRACE}-{PARENT}-09"
    assert sent([("traceparent", SAMPLED), ("traceparent", SAMPLED)]) == ""


@given(st.integers(0, 1 << 60), st.integers(0, 10_000), st.integers(0, 10_000))
def test_a_larger_share_only_adds(number: int, one: int, two: int) -> None:
    """Whoever is sampled at a share is sampled at every larger one; at none nobody is, at the whole everybody."""
    name = f"{number:028x}"
    assert not chosen(name, min(one, two)) or chosen(name, max(one, two))
    assert chosen(name, 10_000)
    assert not chosen(name, 0)


def test_a_share_is_what_it_says() -> None:
    """Of many prediction ids, nearly as many are chosen as asked for."""
    assert 900 < sum(chosen(f"abc{number:012x}", 1_000) for number in range(10_000)) < 1_100


def block(n: int = 1, notes: object = None, **fields: object) -> Block:
    """A block of n rows whose stages took 1 to 6 µs."""
    rows = np.zeros(n, ROW)
    rows["arm"] = 1
    for name, value in fields.items():
        rows[name] = value
    stages_ns = tuple(1_000 * (index + 1) for index in range(len(STAGES)))
    said = json.dumps(notes).encode() if notes else b""
    return Block("churn", 3, 9, 4, 10**18, stages_ns, rows, (), notes=said, prefix="ab" * 8, first_row=16)


def test_a_sampled_call_becomes_a_span_with_a_child_for_each_stage() -> None:
    """Below the caller's span, one stage after the other, and without a gap."""
    (call, *stages) = spans_of(block(3, {"traces": [[1, 3, SAMPLED]]}, reason=[0, 0, RESULTS.index("MODEL_FAILED")]), 0)
    assert (call.trace_id.hex(), call.parent_id.hex(), call.name, call.serves) == (TRACE, PARENT, "score churn", True)
    assert call.attributes["interlock.prediction_id"] == "ab" * 8 + f"{17:012x}"
    assert (call.attributes["interlock.rows"], call.attributes["interlock.version"]) == (2, 3)
    assert call.error == call.attributes["error.type"] == "MODEL_FAILED"
    assert [stage.name for stage in stages] == list(STAGES)
    assert {stage.parent_id for stage in stages} == {call.span_id}
    assert len({stage.span_id for stage in (call, *stages)}) == 7
    assert [stage.end_ns - stage.start_ns for stage in stages] == [1_000, 2_000, 3_000, 4_000, 5_000, 6_000]
    assert [stage.start_ns for stage in stages[1:]] == [stage.end_ns for stage in stages[:-1]]
    assert stages[3].end_ns == 10**18
    assert (call.start_ns, call.end_ns) == (stages[0].start_ns, stages[-1].end_ns)
    assert [bool(stage.attributes.get("interlock.of_previous_batch")) for stage in stages] == [False] * 4 + [True] * 2


def test_rows_without_a_trace_context_are_sampled_by_prediction_id_and_others_never() -> None:
    """A caller that says "not sampled" is heard; the ids can be found from a prediction id."""
    other = f"00-{TRACE}-{PARENT}-00"
    assert list(spans_of(block(2, {"traces": [[0, 2, other]]}), 10_000)) == []
    assert list(spans_of(block(2), 0)) == []
    calls = [span for span in spans_of(block(2, {"traces": [[0, 1, other]]}), 10_000) if span.serves]
    name = prediction_id(block(2), 1)
    assert [(span.trace_id, span.parent_id) for span in calls] == [(digest(name, 16), NOBODY)]


def test_spans_made_again_are_the_same_spans() -> None:
    """So that what is sent twice is one."""
    assert list(spans_of(block(5), 10_000)) == list(spans_of(block(5), 10_000))


def test_the_page_of_metrics_becomes_otlp_figure_by_figure() -> None:
    """Histograms in counts for each bucket instead of sums of them."""
    rows = CounterMetricFamily("interlock_rows", "Rows.", labels=["model"])
    rows.add_metric(["churn"], 7)
    up = GaugeMetricFamily("interlock_up", "Up.", 1)
    stages = HistogramMetricFamily("interlock_stage_seconds", "Times.", labels=["stage"])
    stages.add_metric(["infer"], [("0.1", 1.0), ("0.2", 4.0), ("+Inf", 9.0)], 2.5)
    found = {metric.name: metric for metric in metrics_of([rows, up, stages])}
    assert found["interlock_rows"].points == [Point({"model": "churn"}, 7)]
    assert (found["interlock_up"].kind, found["interlock_rows"].kind) == (Kind.GAUGE, Kind.COUNTER)
    assert found["interlock_stage_seconds"].unit == "s"
    assert found["interlock_stage_seconds"].points == [Point({"stage": "infer"}, 2.5, [0.1, 0.2], [1, 3, 5])]


def test_endpoints_and_headers_are_read_as_opentelemetry_has_them() -> None:
    """Values are percent-encoded."""
    assert read_endpoint("https://collector:4317") == ("collector:4317", True)
    assert read_endpoint("http://[::1]:4317") == ("[::1]:4317", False)
    assert read_headers("Authorization=Basic%20abc%3D, x-team = fraud,,nonsense") == (
        ("authorization", "Basic abc="),
        ("x-team", "fraud"),
    )


@contextmanager
def served(data: Path, endpoint: str, *flags: str) -> Iterator[Gateway]:
    """A gateway that serves the zoo and exports."""
    data.mkdir(parents=True)
    zoo.place(data)
    with gateway(data, f"--otlp-endpoint={endpoint}", *FLAGS, *flags) as running:
        until(running.ready)
        yield running


@pytest.fixture(scope="module")
def listening() -> Iterator[Collector]:
    with collector() as running:
        yield running


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory, listening: Collector) -> Iterator[Gateway]:
    """A gateway whose collector listens."""
    with served(tmp_path_factory.mktemp("traced") / "gateway", f"http://{listening.address}") as running:
        yield running


def score(running: Gateway, traceparent: str = "", key: str = "S1") -> pb.ScoreResponse:
    """Scores a subscriber, in a trace or without one."""
    metadata = (("traceparent", traceparent),) if traceparent else ()
    with running.channel() as channel:
        return ScoringServiceStub(channel).Score(churn(key), metadata=metadata, timeout=10)


def fresh(number: int, flags: str = "01") -> tuple[str, str]:
    """A trace id of its own, and the traceparent."""
    trace_id = f"{number:032x}"
    return trace_id, f"00-{trace_id}-{PARENT}-{flags}"


def test_a_callers_trace_goes_on_in_the_gateway(traced: Gateway, listening: Collector) -> None:
    """With the reply's own figures."""
    answer = score(traced, SAMPLED)
    spans = until(lambda: listening.of_trace(TRACE))
    until(lambda: len(listening.of_trace(TRACE)) == 1 + len(STAGES))
    (call,) = [span for span in spans if span.kind == WireSpan.SPAN_KIND_SERVER]
    assert call.parent_span_id.hex() == PARENT
    said = attributes(call)
    assert said["interlock.prediction_id"] == answer.prediction_id
    assert (said["interlock.model"], said["interlock.version"]) == (answer.model, answer.version)
    assert (said["interlock.revision"], said["interlock.arm"]) == (answer.revision, "champion")
    assert call.status.code == Status.STATUS_CODE_UNSET
    stages = [span for span in listening.of_trace(TRACE) if span is not call and span.span_id != call.span_id]
    assert {span.name for span in stages} == set(STAGES)
    assert {span.parent_span_id for span in stages} == {call.span_id}
    assert all(call.start_time_unix_nano <= span.start_time_unix_nano for span in stages)
    assert abs(call.end_time_unix_nano - time.time_ns()) < 60_000_000_000
    assert {"service.name": "interlock-gateway"}.items() <= listening.resources[-1].items()


def test_a_refused_call_is_a_span_with_its_reason(traced: Gateway, listening: Collector) -> None:
    """The caller sees in his trace why he got nothing."""
    trace_id, traceparent = fresh(1)
    request = pb.ScoreRequest(model="nope")
    with traced.channel() as channel, pytest.raises(grpc.RpcError):
        ScoringServiceStub(channel).Score(request, metadata=(("traceparent", traceparent),), timeout=10)
    spans = until(lambda: listening.of_trace(trace_id))
    (call,) = [span for span in spans if span.kind == WireSpan.SPAN_KIND_SERVER]
    assert (call.status.code, call.status.message) == (Status.STATUS_CODE_ERROR, "MODEL_UNKNOWN")


def test_every_message_of_a_stream_belongs_to_the_streams_trace(traced: Gateway, listening: Collector) -> None:
    """A stream has one trace context, in its first metadata."""
    trace_id, traceparent = fresh(2)
    requests = [pb.ScoreStreamRequest(id=str(number), row=churn(f"S{number}")) for number in range(3)]
    with traced.channel() as channel:
        stream = ScoringServiceStub(channel).ScoreStream(
            iter(requests), metadata=(("traceparent", traceparent),), timeout=10
        )
        answers = {answer.score.prediction_id for answer in stream}

    def calls() -> set[str]:
        spans = [span for span in listening.of_trace(trace_id) if span.kind == WireSpan.SPAN_KIND_SERVER]
        return {str(attributes(span)["interlock.prediction_id"]) for span in spans}

    assert until(lambda: calls() == answers)


def test_who_is_not_sampled_makes_no_span(traced: Gateway, listening: Collector) -> None:
    """Neither by his own word nor, at a share of none, without one."""
    unsampled, traceparent = fresh(3, "00")
    last, after = fresh(4)
    score(traced, traceparent)
    score(traced)
    score(traced, after)
    until(lambda: listening.of_trace(last))
    assert listening.of_trace(unsampled) == []
    known = {TRACE, *(f"{number:032x}" for number in range(5))}
    assert {span.trace_id.hex() for span in listening.spans} <= known


def test_the_collector_gets_what_the_metrics_port_shows(traced: Gateway, listening: Collector) -> None:
    """Counters with the time since which they count, and histograms."""
    score(traced)

    def scored() -> float:
        points = listening.metrics["interlock_rows"].sum.data_points if "interlock_rows" in listening.metrics else ()
        found = [point for point in points if attributes(point).get("model") == "churn"]
        return sum(point.as_double for point in found if attributes(point)["result"] == "ok")

    until(lambda: scored() >= 1)
    rows = listening.metrics["interlock_rows"].sum
    assert rows.is_monotonic
    assert all(0 < point.start_time_unix_nano < point.time_unix_nano for point in rows.data_points)
    stages = listening.metrics["interlock_stage_seconds"].histogram.data_points
    assert {"infer", "record"} <= {attributes(point)["stage"] for point in stages}
    assert all(sum(point.bucket_counts) == point.count > 0 for point in stages)
    assert listening.metrics["interlock_worker_up"].gauge.data_points[0].as_double == 1


def test_a_share_of_the_calls_without_a_trace_context_is_sampled(tmp_path: Path, listening: Collector) -> None:
    """Here the whole; what is scored last is sent when the gateway ends."""
    with served(tmp_path / "gateway", f"http://{listening.address}", "--otlp-sample-bps=10000") as running:
        answers = [score(running, key=f"S{number}") for number in range(5)]
    for answer in answers:
        spans = listening.of_trace(digest(answer.prediction_id, 16).hex())
        assert len({span.span_id for span in spans}) == 1 + len(STAGES)


@pytest.mark.parametrize("service", ["gateway", "control"])
def test_a_service_without_the_extra_says_which_one_it_lacks(tmp_path: Path, service: str) -> None:
    """Before it opens a port."""
    script = f"import sys; sys.modules['opentelemetry'] = None; from {service}.__main__ import main; sys.exit(main())"
    flags = [f"--data={tmp_path}", "--address=127.0.0.1:0", "--otlp-endpoint=http://127.0.0.1:4317"]
    done = subprocess.run([sys.executable, "-c", script, *flags], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'interlock[otel]'" in done.stderr.splitlines()[-1]


def page(running: Gateway) -> list[str]:
    """The lines of the metrics port."""
    with urllib.request.urlopen(f"http://{running.supervisor()['metrics_address']}/metrics", timeout=10) as response:
        return str(response.read().decode()).splitlines()


def assert_nothing_changes(running: Gateway) -> None:
    """Calls are answered and counted, and the observer stirs, while nothing is exported."""
    until(lambda: running.board("exporter").get("failed", 0) > 0)
    before = until(lambda: running.board("observer").get("heartbeat_ns", 0))
    for number in range(20):
        assert score(running, SAMPLED, key=f"S{number}").score > 0
    until(lambda: any(line.startswith("interlock_rows_total") and line.endswith(" 20.0") for line in page(running)))
    until(lambda: running.board("observer").get("heartbeat_ns", 0) > before)
    assert 'interlock_otlp_messages_total{result="sent"} 0.0' in page(running)
    said = until(lambda: running.board("exporter"))
    assert said["spans_sent"] == 0
    until(lambda: running.board("exporter").get("failed", 0) > said["failed"])
    assert "otlp_not_sent" in running.log.read_text()
    assert all(child["restarts"] == 0 for child in running.supervisor()["children"])
    assert running.stop() == 0


def test_a_collector_that_never_answers_changes_nothing(tmp_path: Path) -> None:
    """It accepts connections, and that is all."""
    with black_hole() as address, served(tmp_path / "gateway", f"http://{address}") as running:
        assert_nothing_changes(running)


def test_a_collector_that_is_not_there_changes_nothing(tmp_path: Path) -> None:
    """Its port is closed."""
    with served(tmp_path / "gateway", f"http://{closed_port()}") as running:
        assert_nothing_changes(running)


def test_a_collector_that_comes_back_gets_what_waited(tmp_path: Path, listening: Collector) -> None:
    """The exporter killed meanwhile is started again, and nobody notices."""
    with served(tmp_path / "gateway", f"http://{listening.address}") as running:
        psutil.Process(running.pid("exporter")).kill()
        until(lambda: next(c for c in running.supervisor()["children"] if c["role"] == "exporter")["restarts"])
        trace_id, traceparent = fresh(100)
        until(lambda: running.board("exporter").get("heartbeat_ns", 0))
        score(running, traceparent)
        assert until(lambda: listening.of_trace(trace_id))
