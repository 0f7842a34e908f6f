"""The README's commands work as they are printed."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import until

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty directory beside the data."""
    (tmp_path / "data").symlink_to(ROOT / "data")
    return tmp_path


def block(language: str, word: str) -> str:
    """The code block in that language which has the word."""
    return next(text for kind, text in BLOCKS if kind == language and word in text)


def test_a_model_of_ones_own_is_served_in_ten_lines(place: Path) -> None:
    """Trained, described, registered, approved by a second person, promoted and asked, as the README says."""
    commands = block("sh", "model register")
    assert len(commands.strip().splitlines()) <= 10
    (place / "train.py").write_text(block("python", "LogisticRegression"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("INTERLOCK_")}
    environment["PATH"] = f"{BIN}:{os.environ['PATH']}"
    started = [str(BIN / "interlock"), "up", "--ports", "auto", "--workers", "1", "--json"]
    with subprocess.Popen(started, cwd=place, env=environment, stdout=subprocess.PIPE) as up:
        try:
            assert up.stdout is not None
            until(lambda: select.select([up.stdout], [], [], 0)[0], 60)
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", commands],
                cwd=place,
                env=environment,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
        finally:
            up.send_signal(signal.SIGINT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "credit/1 (champion)" in done.stdout
    assert "accept" in done.stdout


def test_every_page_that_is_linked_is_there() -> None:
    """No link leads nowhere."""
    linked = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text())
    assert [name for name in linked if not (ROOT / name).exists()] == []
