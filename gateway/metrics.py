"""The metrics port: what the boards say, as Prometheus reads it. Nothing is counted here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gateway.board import Boards
from gateway.config import Config
from gateway.contract.alerts import Alert, identifier
from gateway.journal import STAGES
from gateway.ports import split, taken
from gateway.totals import AGE_BOUNDS_MS, STAGE_BOUNDS_NS


class Server(Protocol):
    """What is kept of an HTTP server."""

    def shutdown(self) -> None:
        """Stops serving."""

    def server_close(self) -> None:
        """Closes the port."""


class MetricsServer:
    """Serves the metrics port, from threads of its own."""

    def __init__(self, config: Config) -> None:
        registry = CollectorRegistry()
        registry.register(BoardCollector(config))
        host, port = split(config.metrics_address)
        try:
            server, _ = start_http_server(port, host, registry)
        except OSError as error:
            raise taken("metrics_address", config.metrics_address, error.strerror or "refused") from error
        self._server: Server = server
        self.address = f"{config.metrics_address.rpartition(':')[0]}:{server.server_port}"

    def stop(self) -> None:
        """Closes the port."""
        self._server.shutdown()
        self._server.server_close()


class BoardCollector(Collector):
    """Reads the boards at each scrape."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not read boards that are not there yet."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All metrics, at one time."""
        boards = Boards(self._config.run_path, self._config.worker_count)
        workers = boards.workers()
        yield from _processes(boards, workers, self._config.worker_count)
        yield from _versions(workers)
        yield from _routes(boards)
        yield from _rows(boards.observer())
        yield from _exports(boards.exporter())
        yield from _lake(boards.recorder())
        yield from _models(boards.observer().get("models", {}))


def _processes(boards: Boards, workers: dict[int, dict[str, Any]], count: int) -> Iterator[Metric]:
    up = GaugeMetricFamily("interlock_worker_up", "Whether the worker takes calls.", labels=["worker"])
    in_flight = GaugeMetricFamily("interlock_in_flight", "Calls accepted and not yet answered.", labels=["worker"])
    overloaded = CounterMetricFamily(
        "interlock_overloaded", "Calls refused for overload since the worker started.", labels=["worker"]
    )
    unjournalled = CounterMetricFamily(
        "interlock_unjournalled_rows", "Rows not journalled since the worker started.", labels=["worker"]
    )
    for index in range(count):
        said = workers.get(index, {})
        up.add_metric([str(index)], bool(said.get("ready")))
        in_flight.add_metric([str(index)], said.get("in_flight", 0))
        overloaded.add_metric([str(index)], said.get("overloaded", 0))
        unjournalled.add_metric([str(index)], said.get("unjournalled", 0))
    restarts = CounterMetricFamily("interlock_restarts", "Times the process was started again.", labels=["process"])
    for child in boards.supervisor().get("children", ()):
        restarts.add_metric([child["role"]], child["restarts"])
    yield from (up, in_flight, overloaded, unjournalled, restarts)


def _versions(workers: dict[int, dict[str, Any]]) -> Iterator[Metric]:
    loaded = GaugeMetricFamily(
        "interlock_version_loaded", "Workers that hold the version loaded.", labels=["model", "version", "digest"]
    )
    in_flight = GaugeMetricFamily(
        "interlock_version_in_flight", "Rows assigned and not yet answered.", labels=["model", "version"]
    )
    held: dict[tuple[str, str, str], list[int]] = {}
    for said in workers.values():
        for version in said["versions"]:
            key = version["model"], str(version["version"]), version["digest"]
            held.setdefault(key, []).append(version["in_flight"])
    for (model, number, digest), rows in held.items():
        loaded.add_metric([model, number, digest], len(rows))
        in_flight.add_metric([model, number], sum(rows))
    yield from (loaded, in_flight)


def _lake(said: dict[str, Any]) -> Iterator[Metric]:
    """Nothing without a recorder: zeros would say that all is written."""
    if not said:
        return
    yield CounterMetricFamily(
        "interlock_lake_lost_rows", "Rows overwritten before they were recorded.", said["lost_rows"]
    )
    yield GaugeMetricFamily("interlock_lake_waiting_rows", "Rows collected, not yet in the lake.", said["waiting_rows"])
    through_s = said["through_ns"] / 1e9
    yield GaugeMetricFamily("interlock_lake_through_seconds", "Everything up to then (UTC) is in the lake.", through_s)


def _routes(boards: Boards) -> Iterator[Metric]:
    observer, materializer = boards.observer(), boards.materializer()
    sequence = materializer.get("sequence", observer.get("feature_sequence", 0))
    yield GaugeMetricFamily("interlock_revision", "Newest revision in force in every worker.", boards.revision())
    yield GaugeMetricFamily("interlock_table_revision", "Revision of the table on disk.", observer.get("revision", 0))
    yield GaugeMetricFamily("interlock_feature_sequence", "Last feature batch in the online store.", sequence)
    yield GaugeMetricFamily(
        "interlock_connected", "Whether the control plane is connected.", bool(observer.get("connected"))
    )
    yield _alerts(observer.get("problems", ()))


def _alerts(problems: Sequence[str]) -> Metric:
    """One series for each alert, so that a rule can name one and see that it is over."""
    raised = Counter(identifier(problem) for problem in problems)
    family = GaugeMetricFamily(
        "interlock_alerts", "Alerts reported now; `interlock explain` says more.", labels=["alert"]
    )
    for which in Alert:
        family.add_metric([which], raised[which])
    family.add_metric(["OTHER"], raised[None])
    return family


def _rows(observer: dict[str, Any]) -> Iterator[Metric]:
    rows = CounterMetricFamily(
        "interlock_rows", "Rows by what became of them.", labels=["model", "version", "arm", "result"]
    )
    for model, version, arm, result, count in observer.get("rows", ()):
        rows.add_metric([model, str(version), arm, result.lower()], count)
    yield rows
    yield CounterMetricFamily(
        "interlock_journal_lost_rows", "Rows overwritten in the journal before they were read.", observer.get("lost", 0)
    )


def _exports(exporter: dict[str, Any]) -> Iterator[Metric]:
    """Of the exporter's own work, where there is one."""
    spans = CounterMetricFamily("interlock_otlp_spans", "Spans by what came of them.", labels=["result"])
    messages = CounterMetricFamily("interlock_otlp_messages", "OTLP messages by what came of them.", labels=["result"])
    for result in ("sent", "dropped") if exporter else ():
        spans.add_metric([result], exporter[f"spans_{result}"])
    for result in ("sent", "failed") if exporter else ():
        messages.add_metric([result], exporter[result])
    yield from (spans, messages)


def _models(models: dict[str, dict[str, Any]]) -> Iterator[Metric]:
    stages = HistogramMetricFamily(
        "interlock_stage_seconds", "Time of each stage of a run, for the whole batch.", labels=["model", "stage"]
    )
    ages = HistogramMetricFamily(
        "interlock_feature_age_seconds", "Age of the oldest stored row that a score used.", labels=["model"]
    )
    defaulted = CounterMetricFamily(
        "interlock_features_defaulted", "Feature values that took their default.", labels=["model"]
    )
    stale = CounterMetricFamily("interlock_rows_stale", "Rows with a stale feature value.", labels=["model"])
    unknown = CounterMetricFamily("interlock_rows_entity_unknown", "Rows of an unknown entity.", labels=["model"])
    for model, facts in models.items():
        for stage, counts, sum_ns in zip(STAGES, facts["stages"], facts["stage_sums_ns"], strict=True):
            stages.add_metric([model, stage], _cumulative(STAGE_BOUNDS_NS / 1e9, counts), sum_ns / 1e9)
        ages.add_metric([model], _cumulative(AGE_BOUNDS_MS / 1e3, facts["ages"]), facts["age_sum_ms"] / 1e3)
        defaulted.add_metric([model], facts["defaulted"])
        stale.add_metric([model], facts["stale"])
        unknown.add_metric([model], facts["unknown"])
    yield from (stages, ages, defaulted, stale, unknown)


def _cumulative(bounds: Any, counts: Sequence[int]) -> list[tuple[str, float]]:
    names = [*(f"{bound:g}" for bound in np.asarray(bounds)), "+Inf"]
    return list(zip(names, map(float, accumulate(counts)), strict=True))
