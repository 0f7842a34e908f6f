"""The online store and its only writer: in order, whole, and resumed where it was killed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import lmdb.verify
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.contract.errors import Fault, Reason
from gateway.features.store import OnlineStore
from gateway.features.writer import Batch, OnlineWriter
from tests.gateway.fake_control import TOKEN, FakeControl
from tests.gateway.roles import board, prepared, role
from tests.gateway.tiny import HISTORY, VIEW, batch
from tests.support import STRESS, until

KEYS = [f"S{number:03d}" for number in range(100)]
KILLS = 200 if STRESS else 20


class EndlessLog(Sequence[Batch]):
    """A feature log that never ends: batch N says N of every subscriber."""

    def __len__(self) -> int:
        return 1 << 30

    @overload
    def __getitem__(self, at: int) -> Batch: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Batch]: ...
    def __getitem__(self, at: int | slice) -> Batch | Sequence[Batch]:
        assert isinstance(at, int)
        return batch(at + 1, KEYS, event_ns=at + 1)


@pytest.fixture
def control(tmp_path: Path) -> Iterator[FakeControl]:
    """A control plane that runs."""
    (tmp_path / "token").write_text(TOKEN)
    with FakeControl() as running:
        yield running


def stored(directory: Path) -> dict[str, tuple[int, float]]:
    """By key: the batch and the minutes that the store holds; and under "" its sequence."""
    with OnlineStore(directory) as snapshot:
        found = {key: list(snapshot.entity_rows("subscriber", key)) for key in KEYS}
        values = {key: rows[0].values for key, rows in found.items() if rows}
        held = {key: (int(row["batch"]), float(row["minutes"])) for key, row in values.items()}
        return held | {"": (snapshot.sequence(), 0.0)}


def test_batches_are_applied_once_and_in_order(tmp_path: Path) -> None:
    """A repeated batch changes nothing, a gap is refused, and both leave the sequence as it was."""
    writer = OnlineWriter(tmp_path, 64 << 20)
    assert writer.apply_all([batch(1, KEYS), batch(2, KEYS)], HISTORY) == 2
    assert not writer.apply(batch(2, KEYS, event_ns=9_000, minutes=99.0), HISTORY)
    with pytest.raises(ValueError, match="3 is missing"):
        writer.apply_all([batch(2, KEYS), batch(4, KEYS)], HISTORY)
    assert writer.sequence == 2
    writer.close()  # a process opens a store once
    assert set(stored(tmp_path).values()) == {(2, 10.0), (2, 0.0)}


def test_a_bad_batch_takes_nothing_of_its_group_with_it(tmp_path: Path) -> None:
    """A group is one transaction."""
    writer = OnlineWriter(tmp_path, 64 << 20)
    cut = batch(2, KEYS)._replace(rows=b"short")
    other = batch(2, KEYS)._replace(definition_json=VIEW.canonical().replace("minutes", "seconds"))
    for bad in (cut, other, batch(2, ["S" * 600])):
        with pytest.raises((ValueError, lmdb.Error)):
            writer.apply_all([batch(1, KEYS), bad], HISTORY)
    assert writer.sequence == 0
    writer.close()
    assert stored(tmp_path) == {"": (0, 0.0)}


def test_batches_of_another_history_are_refused(tmp_path: Path) -> None:
    """The message names both."""
    writer = OnlineWriter(tmp_path, 64 << 20)
    writer.apply(batch(1, KEYS), HISTORY)
    with pytest.raises(Fault, match=r"history-one.*history-two") as raised:
        writer.apply(batch(2, KEYS), "history-two")
    assert raised.value.reason is Reason.HISTORY_MISMATCH
    assert writer.history_id == HISTORY


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5)), max_size=6), max_size=8), st.integers(1, 4)
)
def test_the_newest_row_stays_however_rows_come(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[str, int]]], together: int
) -> None:
    """By event time, the later batch where two are as old; however many batches share a commit."""
    directory = tmp_path_factory.mktemp("store")
    writer = OnlineWriter(directory, 16 << 20)
    expected: dict[str, tuple[int, int]] = {}
    log = []
    for sequence, rows in enumerate(batches, 1):
        one = [batch(sequence, [key], event_ns=event_ns) for key, event_ns in rows]
        log.append(batch(sequence, [key for key, _ in rows])._replace(rows=b"".join(part.rows for part in one)))
        for key, event_ns in rows:
            expected[key] = max(expected.get(key, (0, 0)), (event_ns, sequence))
    for start in range(0, len(log), together):
        writer.apply_all(log[start : start + together], HISTORY)
    writer.close()
    with OnlineStore(directory) as snapshot:
        for key, (event_ns, sequence) in expected.items():
            (row,) = snapshot.entity_rows("subscriber", key)
            assert (row.event_ns, row.values["batch"]) == (event_ns, sequence)


def test_a_reader_sees_one_snapshot_while_the_writer_goes_on(tmp_path: Path, control: FakeControl) -> None:
    """The store may outgrow what it was when the reader opened it."""
    config = prepared(tmp_path / "gateway", control=control.address, token_file=tmp_path / "token")
    control.append(batch(1, KEYS))
    store = OnlineStore(config.features_path)
    with role("materializer", config):
        until(lambda: board(config, "materializer").get("sequence") == 1)
        with store as snapshot:
            assert snapshot.sequence() == 1
            control.append(batch(2, [f"T{number}" for number in range(200_000)]))
            until(lambda: board(config, "materializer")["sequence"] == 2)
            assert snapshot.sequence() == 1
            assert list(snapshot.entity_rows("subscriber", "T7")) == []
        with store as snapshot:
            assert snapshot.sequence() == 2
            assert len(list(snapshot.entity_rows("subscriber", "T7"))) == 1


@pytest.mark.stress
def test_a_materializer_killed_at_any_moment_resumes_with_the_next_batch(tmp_path: Path, control: FakeControl) -> None:
    """No row is torn, none is of another batch than the store's sequence says, and the file verifies."""
    control.batches = EndlessLog()
    config = prepared(tmp_path / "gateway", control=control.address, token_file=tmp_path / "token")
    chance = random.Random(20)
    applied = 0
    for _ in range(KILLS):
        with role("materializer", config) as process:
            goal = applied + chance.randrange(1, 60)
            until(lambda: board(config, "materializer").get("sequence", 0) >= goal)  # noqa: B023 - called at once
            process.kill()
            process.wait()
        found = stored(config.features_path)
        sequence = found.pop("")[0]
        assert sequence >= goal
        assert set(found.values()) == {(sequence, 10.0)}
        assert len(found) == len(KEYS)
        applied = sequence
    assert lmdb.verify.verify(str(config.features_path)) == []
    assert control.watched_from[0] == 1
    assert all(former < later for former, later in zip(control.watched_from, control.watched_from[1:], strict=False))


def test_a_full_store_is_a_problem_and_not_a_crash(tmp_path: Path, control: FakeControl) -> None:
    """What was applied stays readable, and a larger map goes on from there."""
    config = prepared(tmp_path / "gateway", control=control.address, token_file=tmp_path / "token")
    small = config.model_copy(update={"map_bytes": 2 << 20})
    control.append(batch(1, KEYS), batch(2, [f"T{number}" for number in range(50_000)]))
    with role("materializer", small) as process:
        until(lambda: any("map_bytes" in problem for problem in board(config, "materializer").get("problems", ())))
        assert board(config, "materializer")["sequence"] == 1
        assert process.poll() is None
    assert stored(config.features_path)["S001"] == (1, 10.0)
    with role("materializer", config):
        until(lambda: board(config, "materializer").get("sequence") == 2)
        until(lambda: board(config, "materializer")["problems"] == [])


def test_a_damaged_store_is_a_problem_and_not_a_crash(tmp_path: Path, control: FakeControl) -> None:
    """It goes on once an operator has removed it."""
    config = prepared(tmp_path / "gateway", control=control.address, token_file=tmp_path / "token")
    data = config.features_path / "data.mdb"
    data.write_bytes(b"not a store at all" * 1000)
    control.append(batch(1, KEYS))
    with role("materializer", config) as process:
        until(
            lambda: any("cannot be written" in problem for problem in board(config, "materializer").get("problems", ()))
        )
        assert process.poll() is None
        data.unlink()
        until(lambda: board(config, "materializer").get("sequence") == 1)


def test_another_history_is_a_problem_that_names_both(tmp_path: Path, control: FakeControl) -> None:
    """Nothing of it is applied; when the right one comes back, it goes on."""
    config = prepared(tmp_path / "gateway", control=control.address, token_file=tmp_path / "token")
    control.append(batch(1, KEYS))
    with role("materializer", config):
        until(lambda: board(config, "materializer").get("sequence") == 1)
        control.history_id = "history-two"
        control.append(batch(2, KEYS, event_ns=2_000))
        until(lambda: any("history-two" in problem for problem in board(config, "materializer")["problems"]))
        control.history_id = HISTORY
        until(lambda: board(config, "materializer")["sequence"] == 2)
        assert board(config, "materializer")["history_id"] == HISTORY


@pytest.mark.stress
def test_a_million_rows_are_loaded(tmp_path: Path, control: FakeControl) -> None:
    """In batches as the control plane makes them; a tenth of it in an ordinary run."""
    config = prepared(tmp_path / "gateway", control=control.address, token_file=tmp_path / "token")
    count = 100 if STRESS else 10
    names = [f"S{number:07d}" for number in range(count * 10_000)]
    random.Random(1).shuffle(names)
    control.append(*(batch(at + 1, names[at * 10_000 : (at + 1) * 10_000]) for at in range(count)))
    with role("materializer", config):
        until(lambda: board(config, "materializer").get("sequence") == count, seconds=60)
    with OnlineStore(config.features_path) as snapshot:
        assert len(list(snapshot.entity_rows("subscriber", names[-1]))) == 1
