"""The notebook's page, run block by block, and what a notebook is told when something is wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from control.client import Fault, Installation, Origin, Refused, connect
from control.connection import Unreachable
from tests.e2e.test_up import Interlock, expected, write_model

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PAGE = (ROOT / "docs" / "notebook.md").read_text()
BLOCKS = re.findall(r"^```(\w[\w ]*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)

DRIVER = """
import ast, json, subprocess, sys
space = {"__name__": "__main__"}
for language, block in json.load(sys.stdin):
    if language == "sh":
        subprocess.run(["bash", "-euo", "pipefail", "-c", block], check=True, stdout=subprocess.DEVNULL)
        continue
    tree = ast.parse(block)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "block", "exec"), space)
    shown = eval(compile(ast.Expression(last.value), "block", "eval"), space) if last else None
    print(json.dumps(repr(shown) if last else ""))
"""
"""Runs blocks as a notebook does: one space, and the last expression of each shown."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Interlock, dict[str, Any]]]:
    """An installation, in a directory beside the data."""
    interlock = Interlock([str(BIN / "interlock")], tmp_path_factory.mktemp("notebook"))
    (interlock.cwd / "data").symlink_to(ROOT / "data")
    with interlock.up() as (_, said):
        yield interlock, said


@pytest.fixture(scope="module")
def installation(running: tuple[Interlock, dict[str, Any]]) -> Iterator[Installation]:
    """As its submitter."""
    with connect(running[0].cwd / ".interlock") as found:
        yield found


def described(**more: Any) -> dict[str, Any]:
    """What only a person knows."""
    return {"purpose": "Says who may leave.", "owner": {"person": "ann"}, **more}


def run_page(cwd: Path) -> list[str]:
    """What each block of Python shows."""
    kinds = ("python", "sh") + (("python lightgbm",) if find_spec("onnxmltools") and find_spec("lightgbm") else ())
    environment = {name: value for name, value in os.environ.items() if not name.startswith("INTERLOCK_")}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input=json.dumps([block for block in BLOCKS if block[0] in kinds]),
        cwd=cwd,
        env=environment | {"PATH": f"{BIN}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_page_works_as_it_is_printed(running: tuple[Interlock, dict[str, Any]]) -> None:
    """Trained, checked, registered, approved by the other person, scored and compared."""
    _, checked, registered, scores, one, compared, listed = run_page(running[0].cwd)
    assert checked.startswith("✓ credit.onnx would be admitted")
    assert "gives the golden rows' results" in checked
    assert registered.startswith("credit/1 is registered, submitted by submitter")
    assert scores.startswith("1000 of 1000 rows scored by credit\nscore")
    assert one.startswith("1 of 1 rows scored by credit")
    assert re.search(r"artifact model +[0-9a-f]{12} +[0-9a-f]{12}", compared)
    assert "rows: correlation 0.9" in compared
    assert "decided differently" in compared
    assert re.search(r"credit/1 +champion", listed)


def test_the_page_says_that_the_name_is_taken_elsewhere() -> None:
    """Who installs both learns why."""
    assert "Another library on PyPI imports as `control`" in PAGE


def test_a_profile_is_stored_by_its_digest_and_named_by_the_lineage(installation: Installation, tmp_path: Path) -> None:
    """Deciles of inputs and scores, and no row."""
    write_model(tmp_path / "churn.onnx")
    minutes = np.linspace(0, 200, 101, dtype=np.float32)
    answers = [expected(float(value)) for value in minutes]
    found = installation.register(
        tmp_path / "churn.onnx",
        {"minutes": minutes},
        answers,
        document=described(),
        origin=Origin(metrics={"auc": 0.9}, hyperparameters={"depth": 3}, commit="abc"),
    )
    manifest = json.loads(installation.control.version("churn", found.version).manifest_json)
    (entry,) = [item for item in manifest["lineage"] if item["name"] == "reference_profile"]
    assert entry["uri"] == f"artifact:{entry['sha256']}"
    installation.control.download(entry["sha256"], entry["size_bytes"], tmp_path / "profile.json")
    profile = json.loads((tmp_path / "profile.json").read_text())
    assert profile["features"]["minutes"]["deciles"] == pytest.approx([20 * place for place in range(11)])
    assert (profile["features"]["minutes"]["missing_bps"], profile["rows"]) == (0, 101)
    assert profile["scores"]["score"]["deciles"][5] == pytest.approx(expected(100), abs=1e-9)
    assert (manifest["metrics"], manifest["hyperparameters"], manifest["code_commit"]) == (
        {"auc": 0.9},
        {"depth": 3},
        "abc",
    )


def test_without_results_the_golden_rows_are_the_files_own(installation: Installation, tmp_path: Path) -> None:
    """And the answer says what that is worth."""
    write_model(tmp_path / "own.onnx")
    found = installation.register(tmp_path / "own.onnx", np.array([[1.0], [2.0]]), document=described())
    assert "nothing shows that it was exported rightly" in repr(found)
    assert "minutes" in found.document


def test_wrong_results_name_the_row(installation: Installation, tmp_path: Path) -> None:
    """As registration from a shell does."""
    write_model(tmp_path / "wrong.onnx")
    with pytest.raises(Refused, match="golden row 1"):
        installation.register(tmp_path / "wrong.onnx", {"minutes": [1.0, 2.0]}, [0.5, 0.6], document=described())
    found = installation.check(tmp_path / "wrong.onnx", {"minutes": [1.0, 2.0]}, [0.5, 0.6])
    assert not found
    assert "golden_rows" in repr(found)
    assert "<li>" in found._repr_html_()


def test_what_is_missing_is_named(installation: Installation, tmp_path: Path) -> None:
    """Columns, owners, versions and installations."""
    write_model(tmp_path / "named.onnx")
    onnx = tmp_path / "named.onnx"
    with pytest.raises(ValueError, match="only a person knows purpose and owner"):
        installation.register(onnx, {"minutes": [1.0]})
    with pytest.raises(ValueError, match="no column for minutes"):
        installation.register(onnx, {"hours": [1.0], "days": [2.0]}, document=described())
    with pytest.raises(ValueError, match="2 results for the sample's 1 rows"):
        installation.register(onnx, {"minutes": [1.0]}, [1, 2], document=described())
    with pytest.raises(Fault, match="tier"):
        installation.register(onnx, {"minutes": [1.0]}, document=described(tier="highest"))
    with pytest.raises(ValueError, match="not MODEL/VERSION"):
        installation.compare("named", "named/2")
    with pytest.raises(Refused, match="no model nobody is registered"):
        installation.score("nobody", {"a": 1})
    with pytest.raises(Unreachable, match="interlock up"):
        connect(tmp_path)
