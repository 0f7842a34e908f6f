"""Boards: what processes say of themselves, read whole or not at all."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from gateway.board import FRAME, PATIENCE_NS, Board, BoardReader, Boards, read_board


def test_a_board_says_what_was_written_last(tmp_path: Path) -> None:
    """A reader that keeps its place sees each new text, the shorter one after the longer too."""
    board, reader = Board(tmp_path / "a.board"), BoardReader(tmp_path / "a.board")
    board.write({"text": "long" * 100})
    assert reader.read() == {"text": "long" * 100}
    board.write({"text": "short"})
    assert reader.read() == {"text": "short"}


def test_a_board_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    """Missing is None, also after there was one."""
    reader = BoardReader(tmp_path / "a.board")
    assert reader.read() is None
    Board(tmp_path / "a.board").write({"pid": 1})
    assert reader.read() == {"pid": 1}
    (tmp_path / "a.board").unlink()
    assert reader.read() is None


def test_a_new_process_replaces_the_board_of_its_predecessor(tmp_path: Path) -> None:
    """A reader follows the name, not the file."""
    Board(tmp_path / "a.board").write({"pid": 1})
    reader = BoardReader(tmp_path / "a.board")
    assert reader.read() == {"pid": 1}
    Board(tmp_path / "a.board").write({"pid": 2})
    assert reader.read() == {"pid": 2}


def test_a_half_written_board_is_not_read(tmp_path: Path) -> None:
    """Text that does not match its checksum is no text."""
    path = tmp_path / "a.board"
    Board(path).write({"pid": 12345})
    raw = bytearray(path.read_bytes())
    raw[FRAME.size + 8] ^= 1
    path.write_bytes(raw)
    assert read_board(path) is None


def test_what_does_not_fit_is_refused_and_the_former_text_stays(tmp_path: Path) -> None:
    """A board never grows."""
    board = Board(tmp_path / "a.board", 4096)
    board.write({"pid": 1})
    with pytest.raises(ValueError, match="do not fit"):
        board.write({"text": "x" * 4096})
    assert read_board(tmp_path / "a.board") == {"pid": 1}


def test_the_revision_in_force_is_the_oldest_among_workers_that_take_calls(tmp_path: Path) -> None:
    """A worker that is starting answers nobody, and one without a heartbeat is not there."""
    now_ns = time.monotonic_ns()
    said = [(9, True, now_ns), (7, True, now_ns), (0, False, now_ns), (3, True, now_ns - 2 * PATIENCE_NS)]
    for index, (revision, ready, heartbeat_ns) in enumerate(said):
        facts = {"revision": revision, "ready": ready, "heartbeat_ns": heartbeat_ns}
        Board(tmp_path / f"worker-{index}.board").write(facts)
    boards = Boards(tmp_path, 5)
    assert boards.revision() == 7
    assert sorted(boards.workers()) == [0, 1, 2]
    assert Boards(tmp_path / "elsewhere", 2).revision() == 0
