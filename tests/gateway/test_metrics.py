"""The metrics port: what the boards say, as Prometheus reads it."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.board import Board
from gateway.config import Config
from gateway.journal import ROW, STAGES, Block
from gateway.metrics import MetricsServer
from gateway.totals import RESULTS, Totals

Page = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A gateway of two workers, of which one is there."""
    return Config(data=tmp_path, workers=2, metrics_address="127.0.0.1:0")


@pytest.fixture
def server(config: Config) -> Iterator[MetricsServer]:
    """The metrics port."""
    running = MetricsServer(config)
    yield running
    running.stop()


def page(server: MetricsServer) -> Page:
    """Every sample, by its name and labels."""
    with urllib.request.urlopen(f"http://{server.address}/metrics", timeout=10) as response:
        families = text_string_to_metric_families(response.read().decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(found: Page, name: str, **labels: str) -> float:
    """One sample."""
    return found[name, frozenset(labels.items())]


def test_the_page_is_there_before_anything_is_known(server: MetricsServer) -> None:
    """A scrape of a gateway that is starting does not fail."""
    found = page(server)
    assert value(found, "interlock_worker_up", worker="0") == 0
    assert value(found, "interlock_revision") == 0


def test_the_page_says_what_the_boards_say(config: Config, server: MetricsServer) -> None:
    """Workers, versions, revisions, restarts."""
    now_ns = time.monotonic_ns()
    loaded = {"model": "churn", "version": 3, "digest": "d" * 64, "revision": 9, "in_flight": 4}
    worker = {"revision": 9, "ready": True, "in_flight": 5, "overloaded": 6, "unjournalled": 7, "versions": [loaded]}
    Board(config.run_path / "worker-0.board").write(worker | {"heartbeat_ns": now_ns})
    children = [{"role": "worker-0", "restarts": 2}]
    Board(config.run_path / "supervisor.board").write({"children": children})
    Board(config.run_path / "materializer.board").write({"sequence": 41})
    observer = {
        "heartbeat_ns": now_ns,
        "connected": True,
        "revision": 10,
        "problems": ["one", "CRASH_LOOP: worker-0 ended"],
        "lost": 8,
    }
    Board(config.run_path / "observer.board").write(observer)
    Board(config.run_path / "recorder.board").write({"lost_rows": 3, "waiting_rows": 4, "through_ns": 5_000_000_000})
    found = page(server)
    assert value(found, "interlock_lake_lost_rows_total") == 3
    assert value(found, "interlock_lake_waiting_rows") == 4
    assert value(found, "interlock_lake_through_seconds") == 5
    assert value(found, "interlock_worker_up", worker="0") == 1
    assert value(found, "interlock_worker_up", worker="1") == 0
    assert value(found, "interlock_in_flight", worker="0") == 5
    assert value(found, "interlock_overloaded_total", worker="0") == 6
    assert value(found, "interlock_unjournalled_rows_total", worker="0") == 7
    assert value(found, "interlock_version_loaded", model="churn", version="3", digest="d" * 64) == 1
    assert value(found, "interlock_version_in_flight", model="churn", version="3") == 4
    assert value(found, "interlock_restarts_total", process="worker-0") == 2
    assert value(found, "interlock_revision") == 9
    assert value(found, "interlock_table_revision") == 10
    assert value(found, "interlock_feature_sequence") == 41
    assert value(found, "interlock_connected") == 1
    assert value(found, "interlock_alerts", alert="CRASH_LOOP") == 1
    assert value(found, "interlock_alerts", alert="NO_GATEWAY") == 0
    assert value(found, "interlock_alerts", alert="OTHER") == 1
    assert value(found, "interlock_journal_lost_rows_total") == 8


def test_the_page_says_what_the_observer_added_up(config: Config, server: MetricsServer) -> None:
    """Histograms are cumulative, in seconds."""
    rows = np.zeros(3, ROW)
    rows["arm"], rows["defaulted"] = 1, 2
    rows["feature_age_ms"] = [500, 5_000, -1]
    rows["reason"][2] = RESULTS.index("MODEL_FAILED")
    totals = Totals()
    totals.add([Block("churn", 3, 9, 1, 0, (1_500_000,) * len(STAGES), rows, [])])
    Board(config.run_path / "observer.board").write({"heartbeat_ns": time.monotonic_ns(), **totals.facts()})
    found = page(server)
    labels = {"model": "churn", "version": "3", "arm": "champion"}
    assert value(found, "interlock_rows_total", **labels, result="ok") == 2
    assert value(found, "interlock_rows_total", **labels, result="model_failed") == 1
    assert value(found, "interlock_features_defaulted_total", model="churn") == 6
    assert value(found, "interlock_feature_age_seconds_bucket", model="churn", le="1") == 1
    assert value(found, "interlock_feature_age_seconds_bucket", model="churn", le="10") == 2
    assert value(found, "interlock_feature_age_seconds_count", model="churn") == 2
    assert value(found, "interlock_feature_age_seconds_sum", model="churn") == 5.5
    for stage in STAGES:
        assert value(found, "interlock_stage_seconds_bucket", model="churn", stage=stage, le="0.001") == 0
        assert value(found, "interlock_stage_seconds_bucket", model="churn", stage=stage, le="0.002") == 1
        assert value(found, "interlock_stage_seconds_sum", model="churn", stage=stage) == 0.0015


def test_a_port_that_is_taken_is_refused_by_name(config: Config, server: MetricsServer) -> None:
    """The message names the key."""
    with pytest.raises(ValueError, match="metrics_address"):
        MetricsServer(config.model_copy(update={"metrics_address": server.address}))
