"""The observer: every journalled row is counted once, whoever is killed in between."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.contract.errors import Reason
from gateway.journal import FLAG_STALE, FLAG_UNKNOWN, ROW, STAGES, Block, JournalWriter
from gateway.journal_reader import JournalReader
from gateway.totals import MOST_VERSIONS, RESULTS, Totals
from tests.gateway.roles import board, prepared, role
from tests.support import STRESS, until

KILLS = 50 if STRESS else 5


def block(n: int = 1, model: str = "churn", version: int = 1, **fields: Any) -> Block:
    """A block of n rows that are alike."""
    rows = np.zeros(n, ROW)
    rows["arm"] = 1
    rows["feature_age_ms"] = -1
    for name, value in fields.items():
        rows[name] = value
    return Block(model, version, 7, 3, time.time_ns(), (1_500,) * len(STAGES), rows, [b"features" * n])


def counted(facts: dict[str, Any]) -> dict[tuple[str, int, str, str], int]:
    """Rows by model, version, arm and result."""
    return {(model, version, arm, result): count for model, version, arm, result, count in facts.get("rows", ())}


def test_rows_are_counted_by_model_version_arm_and_result() -> None:
    """Failed rows under their reason."""
    failed = RESULTS.index(Reason.MODEL_FAILED)
    totals = Totals()
    totals.add([block(3), block(2, reason=failed), block(4, version=2, arm=2), block(1, model="offer", arm=3)])
    totals.add([block(5)])
    assert counted(totals.facts()) == {
        ("churn", 1, "champion", "ok"): 8,
        ("churn", 1, "champion", "MODEL_FAILED"): 2,
        ("churn", 2, "challenger", "ok"): 4,
        ("offer", 1, "pinned", "ok"): 1,
    }


def test_what_a_newer_worker_writes_is_counted_as_other() -> None:
    """An arm or a reason that this release does not know breaks nothing."""
    totals = Totals()
    totals.add([block(2, arm=200, reason=60_000)])
    assert counted(totals.facts()) == {("churn", 1, "pinned", "OTHER"): 2}


def test_times_and_ages_fall_into_their_buckets() -> None:
    """A bound belongs to its bucket; the last one is for what is above all."""
    totals = Totals()
    totals.add([block(1, feature_age_ms=1_000), block(1, feature_age_ms=1_001), block(2, feature_age_ms=1 << 50)])
    totals.add([block(7)])
    facts = totals.facts()["models"]["churn"]
    assert facts["ages"][:2] == [1, 1]
    assert facts["ages"][-1] == 2
    assert sum(facts["ages"]) == 4
    assert facts["age_sum_ms"] == 2_001 + (2 << 50)
    assert [stage[1] for stage in facts["stages"]] == [4] * len(STAGES)
    assert facts["stage_sums_ns"] == [6_000] * len(STAGES)


def test_defaults_stale_values_and_unknown_entities_are_counted() -> None:
    """Values that took a default, and rows with the flags."""
    totals = Totals()
    totals.add([block(3, defaulted=2, flags=FLAG_STALE | FLAG_UNKNOWN), block(1, flags=FLAG_STALE)])
    facts = totals.facts()["models"]["churn"]
    assert (facts["defaulted"], facts["stale"], facts["unknown"]) == (6, 4, 3)


@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.sampled_from("ab"), st.integers(1, 3), st.integers(0, 3), st.integers(0, 9))
    )
)
def test_saved_totals_go_on_as_if_nothing_had_happened(parts: list[tuple[int, str, int, int, int]]) -> None:
    """However the blocks are split between two lives."""
    blocks = [block(n, model, version, arm=arm, reason=reason) for n, model, version, arm, reason in parts]
    whole = Totals()
    whole.add(blocks)
    first = Totals()
    first.add(blocks[::2])
    second = Totals(first.facts())
    second.add(blocks[1::2])
    assert counted(second.facts()) == counted(whole.facts())
    assert second.facts()["models"] == whole.facts()["models"]


def test_versions_that_were_silent_for_longest_are_forgotten_first() -> None:
    """Nobody can fill the observer's memory."""
    totals = Totals()
    totals.add([block(version=1), block(version=2)])
    totals.add([block(version=1)])
    totals.add([block(version=version) for version in range(3, MOST_VERSIONS + 2)])
    versions = {version for _, version, *_ in totals.facts()["rows"]}
    assert len(versions) == MOST_VERSIONS
    assert 2 not in versions
    assert 1 in versions


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_readers_that_take_over_from_each_other_read_every_row_once_or_count_it_lost(
    tmp_path_factory: Any, appends: list[int], chance: random.Random
) -> None:
    """Whatever the writer overwrites meanwhile, and whenever it is started anew."""
    directory = tmp_path_factory.mktemp("journal")
    writer = JournalWriter(directory / "worker-0", 64 << 10)
    reader = JournalReader(directory)
    read = lost = written = 0
    for blocks in appends:
        for _ in range(blocks):
            writer.append(block(chance.randrange(1, 20)))
        if chance.random() < 0.7:
            read += sum(len(found.rows) for found in reader.poll(chance.randrange(1, 60)))
        if chance.random() < 0.5:
            lost += reader.lost
            reader = JournalReader(directory, reader.positions)
    written = writer.next_row
    read += sum(len(found.rows) for found in reader.poll())
    lost += reader.lost
    # A reader that has read nothing yet does not know what was overwritten before its first block.
    assert read + lost <= written
    if reader.positions and read + lost < written:
        first = JournalReader(directory)
        assert next(iter(first.poll())).first_row > 0


def test_a_reader_finds_segments_that_were_made_anew(tmp_path: Path) -> None:
    """Another size of the journal starts its serial numbers again."""
    reader = JournalReader(tmp_path)
    writer = JournalWriter(tmp_path / "worker-0", 64 << 10)
    for _ in range(2_000):
        writer.append(block())
    assert list(reader.poll())
    other = JournalWriter(tmp_path / "worker-0", 256 << 10)
    other.append(block(5))
    assert until(lambda: [len(found.rows) for found in reader.poll()]) == [5]
    resumed = JournalReader(tmp_path, reader.positions)
    assert list(resumed.poll()) == []


@pytest.mark.stress
@pytest.mark.timeout(1200)
def test_a_reader_finds_segments_that_were_made_anew_and_have_its_number(tmp_path: Path) -> None:
    """It had read nothing of the former ones, so it was at the same number of uses."""
    directory = tmp_path / "worker-0"
    JournalWriter(directory, 1 << 20)
    reader = JournalReader(tmp_path)
    reader.skip()
    JournalWriter(directory, 1 << 21).append(block(3))
    assert len(until(lambda: list(reader.poll()))) == 1
    assert reader.lost == 0


def test_an_observer_killed_at_any_moment_counts_every_row_once(tmp_path: Path) -> None:
    """Its totals are saved together with its place in the journals."""
    config = prepared(tmp_path / "gateway")
    writer = JournalWriter(config.journal_path / "worker-0", 4 << 20)
    chance = random.Random(5)

    def champion_rows() -> int:
        return counted(board(config, "observer")).get(("churn", 1, "champion", "ok"), 0)

    for _ in range(KILLS):
        with role("observer", config) as process:
            for _ in range(chance.randrange(1, 10)):
                for _ in range(50):
                    writer.append(block(chance.randrange(1, 5)))
                # Never so far ahead that the ring could be overwritten before it is read.
                until(lambda: champion_rows() > writer.next_row - 500)
            process.kill()
            process.wait()
        for _ in range(100):
            writer.append(block(2))
    with role("observer", config):
        until(lambda: champion_rows() == writer.next_row)
        assert board(config, "observer")["lost"] == 0
    assert champion_rows() == writer.next_row


def test_an_observer_that_is_told_to_leave_counts_what_is_there_first(tmp_path: Path) -> None:
    """Workers end before it, and their last rows are not forgotten."""
    config = prepared(tmp_path / "gateway")
    with role("observer", config) as process:
        until(lambda: board(config, "observer"))
        writer = JournalWriter(config.journal_path / "worker-0", 4 << 20)
        for _ in range(500):
            writer.append(block())
        process.terminate()
        process.wait(20)
        assert process.returncode == 0
    assert sum(counted(board(config, "observer")).values()) == 500
    assert (config.data / "observer.state").exists()


def test_rows_overwritten_while_the_observer_was_away_are_counted_as_lost(tmp_path: Path) -> None:
    """Read and lost rows together are all rows."""
    config = prepared(tmp_path / "gateway")
    writer = JournalWriter(config.journal_path / "worker-0", 256 << 10)
    with role("observer", config):
        writer.append(block(10))
        until(lambda: sum(counted(board(config, "observer")).values()) == 10)
    while writer.next_row < 20_000:
        writer.append(block(10))
    with role("observer", config):
        until(lambda: board(config, "observer").get("lost", 0) > 0)
        said = board(config, "observer")
        assert sum(counted(said).values()) + said["lost"] == 20_000


def test_a_damaged_state_starts_the_totals_again(tmp_path: Path) -> None:
    """From what the journals still hold."""
    config = prepared(tmp_path / "gateway")
    (config.data / "observer.state").write_text("{not json")
    JournalWriter(config.journal_path / "worker-0", 256 << 10).append(block(3))
    with role("observer", config) as process:
        until(lambda: sum(counted(board(config, "observer")).values()) == 3)
        assert board(config, "observer")["pid"] == process.pid != os.getpid()
