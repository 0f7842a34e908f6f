"""What a worker's board says of challengers, while the loader follows other tables."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path

import pytest

from gateway.artifacts import replace_durably
from gateway.features.store import OnlineStore
from gateway.features.writer import OnlineWriter
from gateway.journal import JournalWriter
from gateway.loader import Loader
from gateway.pipeline import Pipeline
from tests.gateway import tiny

TABLES = 300


def test_a_worker_can_say_at_any_moment_what_it_has_given_up(tmp_path: Path) -> None:
    """The board's thread asks while rollouts come and go: where that raised, the worker was killed as hung."""
    writer = OnlineWriter(tmp_path / "features", 1 << 26)
    writer.apply(tiny.batch(1, ["S1"]), tiny.HISTORY)
    writer.close()
    pipeline = Pipeline(OnlineStore(tmp_path / "features"), JournalWriter(tmp_path / "journal", 1 << 20), 1 << 20)
    routes = tmp_path / "routes.pb"
    loader = Loader(routes, tmp_path / "artifacts", pipeline, tmp_path / "turn.lock", lambda: True)
    over = threading.Event()

    def change() -> None:
        for rollout_id in range(1, TABLES):
            table = tiny.canary(tiny.version(2), tiny.version(1), 500, rollout_id=rollout_id)
            replace_durably(routes, table.SerializeToString())
            loader.read_table()
        over.set()

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        changing = threading.Thread(target=change)
        changing.start()
        while not over.is_set():
            assert loader.given_up() == []
            assert loader.problems() == []
        changing.join()
    finally:
        sys.setswitchinterval(interval_s)


@pytest.mark.parametrize(("damage", "given_up"), [("artifact is gone", False), ("golden rows differ", True)])
def test_only_the_version_is_blamed_for_what_the_version_does(tmp_path: Path, damage: str, given_up: bool) -> None:
    """A challenger that is not on this host's disk is a problem of the host; one that fails its golden rows is not."""
    sound, other = tiny.version(1), tiny.version(2)
    challenger = other._replace(golden=sound.golden) if given_up else other
    artifacts = tmp_path / "artifacts"
    artifacts.mkdir()
    for version in (sound, challenger):
        for digest, content in version.artifacts().items():
            if given_up or content != challenger.model:
                (artifacts / digest).write_bytes(content)
    pipeline = Pipeline(OnlineStore(tmp_path / "features"), JournalWriter(tmp_path / "journal", 1 << 20), 1 << 20)
    routes = tmp_path / "routes.pb"
    replace_durably(routes, tiny.canary(challenger, sound, 500).SerializeToString())
    loader = Loader(routes, artifacts, pipeline, tmp_path / "turn.lock", lambda: True)

    async def follow() -> list[str]:
        following = asyncio.create_task(loader.follow())
        while not (problems := loader.problems()):
            await asyncio.sleep(0.01)
        following.cancel()
        return [str(problem) for problem in problems]

    problems = asyncio.run(asyncio.wait_for(follow(), 60))
    assert f"{tiny.MODEL}/2" in problems[0]
    assert bool(loader.given_up()) is given_up, damage
