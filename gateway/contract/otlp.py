"""OTLP's messages, from what we know: bytes that any OpenTelemetry collector takes. Needs the extra `otel`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2

from gateway.contract.tracing import Span

Value = str | int | float | bool
Attributes = Mapping[str, Value]

TRACES: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
METRICS: Final = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
SCOPE: Final = InstrumentationScope(name="interlock")
MOST_SPANS: Final = 512
"""Spans in one message: far below the 4 MiB that a gRPC server takes."""


class Kind(StrEnum):
    """How a metric's points add up over time."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Point(NamedTuple):
    """A value of one series."""

    attributes: Attributes
    value: float
    """Of a histogram, the sum."""
    bounds: Sequence[float] = ()
    counts: Sequence[int] = ()
    """Of a histogram: how many fell to each bound, and last above all."""


class Metric(NamedTuple):
    """A metric with all of its series."""

    name: str
    description: str
    unit: str
    kind: Kind
    points: Sequence[Point]


class Endpoint(NamedTuple):
    """Where a collector listens."""

    target: str
    """HOST:PORT."""
    secure: bool


def read_endpoint(text: str) -> Endpoint:
    """Reads `http://HOST:PORT`, or https for TLS."""
    parts = urlsplit(text)
    return Endpoint(parts.netloc, parts.scheme == "https")


def read_headers(text: str) -> tuple[tuple[str, str], ...]:
    """Reads OTEL_EXPORTER_OTLP_HEADERS: `key=value,key=value`, percent-encoded; what collectors want for a password."""
    pairs = (item.partition("=") for item in text.split(",") if "=" in item)
    return tuple((key.strip().lower(), unquote(value.strip())) for key, _, value in pairs)


def encode_spans(resource: Attributes, spans: Iterable[Span]) -> bytes:
    """The message of TraceService.Export."""
    scoped = trace_pb2.ScopeSpans(scope=SCOPE, spans=[_span(span) for span in spans])
    found = trace_pb2.ResourceSpans(resource=_resource(resource), scope_spans=[scoped])
    return ExportTraceServiceRequest(resource_spans=[found]).SerializeToString()


def encode_metrics(resource: Attributes, metrics: Iterable[Metric], since_ns: int, now_ns: int) -> bytes:
    """The message of MetricsService.Export; counters have counted since `since_ns`, UTC."""
    scoped = metrics_pb2.ScopeMetrics(scope=SCOPE, metrics=[_metric(one, since_ns, now_ns) for one in metrics])
    found = metrics_pb2.ResourceMetrics(resource=_resource(resource), scope_metrics=[scoped])
    return ExportMetricsServiceRequest(resource_metrics=[found]).SerializeToString()


def rejected(path: str, response: bytes) -> int:
    """How many spans or data points a collector took the message of and refused."""
    if path == TRACES:
        return ExportTraceServiceResponse.FromString(response).partial_success.rejected_spans
    return ExportMetricsServiceResponse.FromString(response).partial_success.rejected_data_points


def _span(span: Span) -> trace_pb2.Span:
    kind = trace_pb2.Span.SPAN_KIND_SERVER if span.serves else trace_pb2.Span.SPAN_KIND_INTERNAL
    status = trace_pb2.Status(code=trace_pb2.Status.STATUS_CODE_ERROR, message=span.error) if span.error else None
    return trace_pb2.Span(
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_span_id=span.parent_id,
        name=span.name,
        kind=kind,
        start_time_unix_nano=span.start_ns,
        end_time_unix_nano=span.end_ns,
        attributes=_attributes(span.attributes),
        status=status,
    )


def _metric(metric: Metric, since_ns: int, now_ns: int) -> metrics_pb2.Metric:
    found = metrics_pb2.Metric(name=metric.name, description=metric.description, unit=metric.unit)
    cumulative = metrics_pb2.AGGREGATION_TEMPORALITY_CUMULATIVE
    match metric.kind:
        case Kind.GAUGE:
            found.gauge.data_points.extend(_number(point, 0, now_ns) for point in metric.points)
        case Kind.COUNTER:
            found.sum.data_points.extend(_number(point, since_ns, now_ns) for point in metric.points)
            found.sum.aggregation_temporality, found.sum.is_monotonic = cumulative, True
        case Kind.HISTOGRAM:
            found.histogram.data_points.extend(_histogram(point, since_ns, now_ns) for point in metric.points)
            found.histogram.aggregation_temporality = cumulative
    return found


def _number(point: Point, since_ns: int, now_ns: int) -> metrics_pb2.NumberDataPoint:
    return metrics_pb2.NumberDataPoint(
        attributes=_attributes(point.attributes),
        start_time_unix_nano=since_ns,
        time_unix_nano=now_ns,
        as_double=point.value,
    )


def _histogram(point: Point, since_ns: int, now_ns: int) -> metrics_pb2.HistogramDataPoint:
    return metrics_pb2.HistogramDataPoint(
        attributes=_attributes(point.attributes),
        start_time_unix_nano=since_ns,
        time_unix_nano=now_ns,
        count=sum(point.counts),
        sum=point.value,
        bucket_counts=point.counts,
        explicit_bounds=point.bounds,
    )


def _resource(attributes: Attributes) -> Resource:
    return Resource(attributes=_attributes(attributes))


def _attributes(attributes: Attributes) -> list[KeyValue]:
    return [KeyValue(key=key, value=_value(value)) for key, value in attributes.items()]


def _value(value: Value) -> AnyValue:
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case _:
            return AnyValue(string_value=value)
