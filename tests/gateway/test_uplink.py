"""The uplink: tables come down when they are whole, reports go up, and a missing control plane changes nothing."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from gateway.board import Board
from gateway.config import Config
from gateway.tables import read_table, refusal
from gateway.uplink import LONGEST_PAUSE_S, RouteFollower, pause_s
from tests.gateway.fake_control import TOKEN, FakeControl
from tests.gateway.tiny import Version, table, version
from tests.support import until


@pytest.fixture
def control() -> Iterator[FakeControl]:
    """A control plane that runs."""
    with FakeControl() as running:
        yield running


def settings(tmp_path: Path, control: FakeControl) -> Config:
    """A gateway's settings, and the directories that its supervisor makes."""
    (tmp_path / "token").write_text(TOKEN)
    config = Config(data=tmp_path / "gateway", control=control.address, token_file=tmp_path / "token", workers=2)
    config.artifacts_path.mkdir(parents=True, exist_ok=True)
    config.run_path.mkdir(exist_ok=True)
    return config


@contextmanager
def following(config: Config) -> Iterator[RouteFollower]:
    """A follower that works, on a loop of its own."""
    started: list[tuple[RouteFollower, asyncio.AbstractEventLoop, asyncio.Task[None]]] = []

    async def work() -> None:
        follower = RouteFollower(config, "gateway-under-test")
        task = asyncio.create_task(follower.follow())
        started.append((follower, asyncio.get_running_loop(), task))
        with suppress(asyncio.CancelledError):
            await task

    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    follower, loop, task = until(lambda: started)[0]
    try:
        yield follower
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(20)


def offer(control: FakeControl, revision: int, served: Version) -> None:
    """Publishes a table that routes to the version."""
    control.artifacts.update(served.artifacts())
    control.publish(table(revision, served))


def worker_says(config: Config, index: int, revision: int, *problems: str) -> None:
    """Writes a worker's board."""
    facts = {"revision": revision, "ready": True, "problems": problems, "heartbeat_ns": time.monotonic_ns()}
    Board(config.run_path / f"worker-{index}.board").write(facts | {"pid": os.getpid(), "versions": []})


def test_a_table_reaches_the_disk_after_every_artifact_that_it_names(tmp_path: Path, control: FakeControl) -> None:
    """Workers that see the table find what they need."""
    config = settings(tmp_path, control)
    control.publish(table(7, version(1)))
    with following(config) as follower:
        until(lambda: any("revision 7 waits" in problem for problem in follower.problems()))
        assert not config.routes_path.exists()
        control.artifacts.update(version(1).artifacts())
        until(config.routes_path.exists)
        assert read_table(config.routes_path.read_bytes()).revision == 7
        assert sorted(path.name for path in config.artifacts_path.iterdir()) == sorted(version(1).artifacts())
        until(lambda: not follower.problems())


def test_bytes_with_another_digest_are_never_kept(tmp_path: Path, control: FakeControl) -> None:
    """It is a problem, and the fetch is tried again."""
    config = settings(tmp_path, control)
    control.artifacts = dict.fromkeys(version(1).artifacts(), b"something else")
    control.publish(table(7, version(1)))
    with following(config) as follower:
        until(lambda: any("have the digest" in problem for problem in follower.problems()))
        assert list(config.artifacts_path.iterdir()) == []
        offer(control, 7, version(1))
        until(config.routes_path.exists)


def test_reports_say_what_is_in_force_in_all_workers(tmp_path: Path, control: FakeControl) -> None:
    """The least revision, the feature sequence, and whatever is wrong."""
    config = settings(tmp_path, control)
    offer(control, 9, version(1))
    worker_says(config, 0, 9)
    worker_says(config, 1, 8, "minutes/1 does not load")
    facts = {"pid": 1, "sequence": 41, "problems": ["the store is full"], "heartbeat_ns": 0}
    Board(config.run_path / "materializer.board").write(facts)
    with following(config):
        until(lambda: control.confirmed(8))
        until(lambda: control.reports[-1].problems == ["the store is full", "worker 1: minutes/1 does not load"])
        assert control.reports[-1].feature_sequence == 41
        assert control.reports[-1].gateway_id == "gateway-under-test"
        worker_says(config, 1, 9)
        until(lambda: control.confirmed(9))


def test_reports_go_up_when_nothing_changes(tmp_path: Path, control: FakeControl) -> None:
    """Silence would look like a gateway that is gone."""
    with following(settings(tmp_path, control)):
        until(lambda: len(control.reports) >= 3)


def test_a_control_plane_that_comes_back_is_found(tmp_path: Path, control: FakeControl) -> None:
    """What was published meanwhile is taken, and what was in force stayed so."""
    config = settings(tmp_path, control)
    offer(control, 7, version(1))
    with following(config) as follower:
        until(lambda: follower.connected and config.routes_path.exists())
        control.__exit__()
        until(lambda: not follower.connected)
        assert any("the control plane" in problem for problem in follower.problems())
        assert read_table(config.routes_path.read_bytes()).revision == 7
        offer(control, 8, version(2))
        control.__enter__()
        until(lambda: read_table(config.routes_path.read_bytes()).revision == 8)
        assert follower.connected


def test_a_token_that_comes_late_is_found(tmp_path: Path, control: FakeControl) -> None:
    """The control plane makes it on its first start, which may be after ours."""
    config = settings(tmp_path, control)
    (tmp_path / "token").unlink()
    offer(control, 7, version(1))
    with following(config) as follower:
        until(lambda: any("token" in problem for problem in follower.problems()))
        (tmp_path / "token").write_text("wrong")
        until(lambda: any("UNAUTHENTICATED" in problem for problem in follower.problems()))
        (tmp_path / "token").write_text(TOKEN)
        until(config.routes_path.exists)


def test_a_table_of_another_history_is_refused(tmp_path: Path, control: FakeControl) -> None:
    """An operator decides which history is right; the problem names both."""
    config = settings(tmp_path, control)
    offer(control, 7, version(1))
    with following(config) as follower:
        until(config.routes_path.exists)
        control.publish(table(99, version(1), history_id="history-two"))
        until(lambda: any("history-one" in p and "history-two" in p for p in follower.problems()))
        assert read_table(config.routes_path.read_bytes()).revision == 7


def test_an_older_table_is_refused(tmp_path: Path, control: FakeControl) -> None:
    """Also by a gateway that was restarted meanwhile."""
    config = settings(tmp_path, control)
    offer(control, 7, version(1))
    with following(config):
        until(config.routes_path.exists)
    offer(control, 6, version(2))
    with following(config) as follower:
        until(lambda: any("older than 7" in problem for problem in follower.problems()))
    assert read_table(config.routes_path.read_bytes()).revision == 7


def test_a_table_that_workers_could_not_read_is_refused(tmp_path: Path, control: FakeControl) -> None:
    """The last known good table stays good."""
    config = settings(tmp_path, control)
    broken = table(7, version(1))
    broken.models[0].champion.document_json = "{}"
    control.publish(broken)
    with following(config) as follower:
        until(lambda: any("cannot read" in problem for problem in follower.problems()))
        newer = table(8)
        newer.format = 2
        control.publish(newer)
        until(lambda: any("format 2" in problem for problem in follower.problems()))
    assert not config.routes_path.exists()


def test_artifacts_of_the_last_three_tables_are_kept(tmp_path: Path, control: FakeControl) -> None:
    """Stepping back needs no download; older ones make room."""
    config = settings(tmp_path, control)
    with following(config) as follower:
        for number in range(1, 6):
            offer(control, number, version(number))
            until(lambda: follower.table.revision == number)  # noqa: B023 - called before the next turn
        kept = {digest for number in (3, 4, 5) for digest in version(number).artifacts()}
        until(lambda: {path.name for path in config.artifacts_path.iterdir()} == kept)


def test_a_damaged_artifact_is_fetched_again(tmp_path: Path, control: FakeControl) -> None:
    """At a start, files are checked against their names."""
    config = settings(tmp_path, control)
    offer(control, 7, version(1))
    with following(config):
        until(config.routes_path.exists)
    damaged = config.artifacts_path / next(iter(version(1).artifacts()))
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + b"x")
    with following(config):
        until(lambda: damaged.exists() and damaged.read_bytes() == content)


def test_the_first_table_is_taken_whatever_its_history() -> None:
    """A new gateway belongs to no history yet; the same revision may come again."""
    current, none = read_table(table(7).SerializeToString()), read_table(table(0, history_id="").SerializeToString())
    assert refusal(none, current) == ""
    assert refusal(current, current) == ""


def test_pauses_double_are_spread_and_end_at_a_bound() -> None:
    """A hundred gateways do not come back at once, and each comes back soon."""
    assert all(0.1 <= pause_s(1) <= 0.2 for _ in range(100))
    assert all(LONGEST_PAUSE_S / 2 <= pause_s(attempt) <= LONGEST_PAUSE_S for attempt in range(7, 200))
    assert len({pause_s(5) for _ in range(100)}) > 50
