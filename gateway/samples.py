"""The metrics port's page as OTLP's metrics: one list of figures, whoever reads it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.samples import Sample

from gateway.contract.otlp import Kind, Metric, Point

UNITS = {"_seconds": "s", "_bytes": "By"}


def metrics_of(families: Iterable[Family]) -> Iterator[Metric]:
    """Each family with its series, under the name that Prometheus gives it without the suffix of counters."""
    for family in families:
        unit = next((unit for suffix, unit in UNITS.items() if family.name.endswith(suffix)), "1")
        kind = Kind(family.type)
        points = list(_histograms(family)) if kind is Kind.HISTOGRAM else _numbers(family)
        yield Metric(family.name, family.documentation, unit, kind, points)


def _numbers(family: Family) -> list[Point]:
    return [Point(sample.labels, sample.value) for sample in family.samples if not sample.name.endswith("_created")]


def _histograms(family: Family) -> Iterator[Point]:
    series: dict[tuple[tuple[str, str], ...], list[Sample]] = {}
    for sample in family.samples:
        labels = tuple((key, value) for key, value in sample.labels.items() if key != "le")
        series.setdefault(labels, []).append(sample)
    for labels, samples in series.items():
        buckets = [(sample.labels["le"], int(sample.value)) for sample in samples if "le" in sample.labels]
        totals = [0, *(count for _, count in buckets)]
        whole = next((sample.value for sample in samples if sample.name.endswith("_sum")), 0.0)
        bounds = [float(bound) for bound, _ in buckets if bound != "+Inf"]
        yield Point(dict(labels), whole, bounds, [after - before for before, after in pairwise(totals)])
