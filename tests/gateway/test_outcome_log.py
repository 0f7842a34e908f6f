"""The outcome log on a real disk: cut anywhere, filled, read while it is written, and removed behind its reader."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.contract.errors import Fault, Reason
from gateway.outcome_log import FRAME, HEAD_BYTES, OutcomeLog, segments, serial_of
from gateway.outcome_reader import OutcomeReader

ROOM = 1 << 20


OPENED: list[OutcomeLog] = []


@pytest.fixture(autouse=True)
def close_logs() -> Iterator[None]:
    """Closes what a test has opened."""
    yield
    while OPENED:
        OPENED.pop().close()


def log_at(directory: Path, limit_bytes: int = ROOM, segment_bytes: int = 16 << 20) -> OutcomeLog:
    """The log of worker 0."""
    OPENED.append(OutcomeLog(directory / "worker-0", limit_bytes, segment_bytes))
    return OPENED[-1]


def fill(log: OutcomeLog) -> None:
    """Appends until it cannot."""
    for number in range(100):
        log.append([b"%04d" % number * 50])


def everything(directory: Path) -> list[bytes]:
    """What a new reader finds."""
    return list(OutcomeReader(directory).poll())


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The kernel refuses to let any file of this process grow beyond the size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_was_appended_is_read_in_order_and_once(tmp_path: Path) -> None:
    """A reader goes on where it was, and so does one that takes over its place."""
    log = log_at(tmp_path)
    reader = OutcomeReader(tmp_path)
    assert list(reader.poll()) == []
    log.append([b"one", b"two"])
    assert list(reader.poll()) == [b"one", b"two"]
    log.append([b"three"])
    assert list(OutcomeReader(tmp_path, reader.places).poll()) == [b"three"]
    assert list(reader.poll()) == [b"three"]
    assert list(reader.poll()) == []


def test_a_log_cut_at_any_byte_keeps_exactly_the_records_before_the_cut(tmp_path: Path) -> None:
    """Wherever a kill or a power cut tears the tail, whole records stay, and new ones are read after them."""
    written = [b"a", b"bb" * 20, b"c" * 300]
    log = log_at(tmp_path / "whole")
    for record in written:
        log.append([record])
    log.close()
    (whole,) = segments(tmp_path / "whole" / "worker-0")
    content = whole.read_bytes()
    ends = [len(HEAD_BYTES)]
    for record in written:
        ends.append(ends[-1] + FRAME.size + len(record))
    for size in range(len(content) + 1):
        at = tmp_path / f"cut-{size}"
        torn = at / "worker-0" / whole.name
        torn.parent.mkdir(parents=True)
        torn.write_bytes(content[:size])
        kept = written[: max(0, sum(end <= size for end in ends) - 1)]
        assert everything(at) == kept
        again = log_at(at)
        again.append([b"new"])
        assert everything(at) == [*kept, b"new"]


@settings(deadline=None)
@given(st.integers(0, 3000), st.integers(1, 255))
def test_a_flipped_byte_is_never_read_as_a_record(at: int, flip: int) -> None:
    """Records from the damaged one on are not read; those before it are."""
    with TemporaryDirectory() as name:
        directory = Path(name)
        written = [bytes([number]) * 100 for number in range(1, 21)]
        log = log_at(directory)
        log.append(written)
        log.close()
        (path,) = segments(directory / "worker-0")
        content = bytearray(path.read_bytes())
        at %= len(content)
        content[at] ^= flip
        path.write_bytes(content)
        whole = 0 if at < len(HEAD_BYTES) else (at - len(HEAD_BYTES)) // (FRAME.size + 100)
        assert everything(directory) == written[:whole]


def test_a_write_that_the_disk_refuses_is_a_fault_and_leaves_nothing_half_kept(tmp_path: Path) -> None:
    """None of its records is read, and the log goes on as soon as there is room."""
    log = log_at(tmp_path)
    log.append([b"before"])
    with largest_file(4096), pytest.raises(Fault) as caught:
        log.append([b"x" * 3000, b"y" * 3000])
    assert caught.value.reason is Reason.OUTCOMES_NOT_KEPT
    assert "File too large" in log.problem
    log.append([b"after"])
    assert log.problem == ""
    assert everything(tmp_path) == [b"before", b"after"]
    assert everything(tmp_path) == [b"before", b"after"]


def test_a_disk_without_room_for_a_new_segment_leaves_none_behind(tmp_path: Path) -> None:
    """The first record waits for room, and no file without a head is there."""
    log = log_at(tmp_path)
    with largest_file(8), pytest.raises(Fault):
        log.append([b"first"])
    assert segments(tmp_path / "worker-0") == []
    log.append([b"first"])
    assert everything(tmp_path) == [b"first"]


def test_a_full_log_refuses_until_its_reader_has_removed_what_it_read(tmp_path: Path) -> None:
    """The limit holds over all segments, also after a restart, and reading makes room."""
    log = log_at(tmp_path, limit_bytes=4096, segment_bytes=1024)
    with pytest.raises(Fault, match=r"gateway\.outcomes_bytes"):
        fill(log)
    kept = everything(tmp_path)
    assert 10 < len(kept) < 25
    again = log_at(tmp_path, limit_bytes=4096, segment_bytes=1024)
    with pytest.raises(Fault):
        again.append([b"x" * 400])
    reader = OutcomeReader(tmp_path)
    assert list(reader.poll()) == kept
    reader.remove_read()
    again.append([b"x" * 400])
    assert list(reader.poll()) == [b"x" * 400]
    assert len(segments(tmp_path / "worker-0")) == 2


def test_the_newest_segment_is_never_removed(tmp_path: Path) -> None:
    """Its number must go on growing, or a reader would take new segments for read ones."""
    log = log_at(tmp_path)
    log.append([b"one"])
    reader = OutcomeReader(tmp_path)
    assert list(reader.poll()) == [b"one"]
    reader.remove_read()
    log.close()
    again = log_at(tmp_path)
    again.append([b"two"])
    assert [serial_of(path) for path in segments(tmp_path / "worker-0")] == [1, 2]
    assert list(reader.poll()) == [b"two"]


def test_a_log_that_somebody_removed_is_read_from_its_new_beginning(tmp_path: Path) -> None:
    """Its numbers begin anew, below the reader's place."""
    log = log_at(tmp_path, segment_bytes=64)
    for number in range(5):
        log.append([b"%d" % number * 60])
    reader = OutcomeReader(tmp_path)
    assert len(list(reader.poll())) == 5
    log.close()
    for path in segments(tmp_path / "worker-0"):
        path.unlink()
    log_at(tmp_path).append([b"new"])
    assert list(reader.poll()) == [b"new"]
