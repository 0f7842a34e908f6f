"""`interlock features` and `model register` against a real control plane, with files that people get wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from control.cli.__main__ import main
from control.security import Role
from control.server import ControlPlane
from tests.control.planes import document_of, running, token_for

VIEW = """\
name: {name}
entity: subscriber
features:
  - {{name: minutes, type: float32}}
  - {{name: plan, type: string, default: none}}
"""


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane without anything in it."""
    with running(tmp_path_factory.mktemp("features") / "control") as plane:
        yield plane


@pytest.fixture
def here(plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and the environment of a data scientist who writes features."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INTERLOCK_CONTROL", plane.address)
    token = token_for(plane.store, "ann", Role.DATA_SCIENTIST, Role.FEATURE_WRITER)
    monkeypatch.setenv("INTERLOCK_TOKEN", token)
    return tmp_path


def apply(here: Path, name: str) -> None:
    (here / "view.yaml").write_text(VIEW.format(name=name))
    assert main(["features", "apply", "view.yaml"]) == 0


def test_a_view_is_stored_once_and_found_by_name_or_hash(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Applying it again changes nothing and says so; a changed one gets its own hash."""
    apply(here, "found")
    assert "view found stored" in capsys.readouterr().err
    apply(here, "found")
    assert "view found was stored before" in capsys.readouterr().err
    (here / "view.yaml").write_text(VIEW.format(name="found") + "ttl_s: 60\n")
    assert main(["features", "apply", "view.yaml", "--json"]) == 0
    newest = json.loads(capsys.readouterr().out)["applied"][0]["view"]["hash"]
    assert main(["features", "list", "found", "--json"]) == 0
    listed = [view["hash"] for view in json.loads(capsys.readouterr().out)["views"]]
    assert (len(listed), listed[0]) == (2, newest)
    (here / "rows.csv").write_text("subscriber,minutes,plan\nS1,1,gold\nS2,,\n")
    assert main(["features", "materialize", listed[1][:10], "rows.csv", "--at", "now", "--json"]) == 0
    sent = json.loads(capsys.readouterr().out)
    assert (sent["view_hash"], sent["rows"], sent["batches"]) == (listed[1], 2, 1)


def test_a_bad_cell_at_the_end_leaves_nothing_behind(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file is read whole before any of it is sent."""
    apply(here, "careful")
    rows = "".join(f"S{index},2026-01-31,1,gold\n" for index in range(10_500))
    (here / "rows.csv").write_text(f"subscriber,event_time,minutes,plan\n{rows}S,2026-01-31,many,gold\n")
    capsys.readouterr()
    assert main(["features", "materialize", "careful", "rows.csv", "--json"]) == 2
    failed = json.loads(capsys.readouterr().err)
    assert failed["message"].startswith("rows.csv, line 10502: column minutes: 'many' is not a number")
    assert failed["facts"] == {"line": "10502"}
    assert main(["features", "list", "careful", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["views"][0]["rows"] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["features", "apply", "broken.yaml"], 1, "features.0.type"),
        (["features", "apply", "absent.yaml"], 2, "file 'absent.yaml' does not exist"),
        (["features", "materialize", "nope", "latin.csv"], 2, "VIEW_UNKNOWN: no view is called nope"),
        (["features", "materialize", "wrong", "latin.csv"], 2, "latin.csv is not UTF-8 text"),
        (["features", "materialize", "wrong", "empty.csv"], 2, "empty.csv is empty"),
        (["features", "materialize", "wrong", "empty.csv", "--at", "soon"], 2, "--at 'soon' is neither"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    """One line, whoever found it: the command line or the control plane."""
    apply(here, "wrong")
    (here / "broken.yaml").write_text("name: x\nentity: y\nfeatures:\n  - {name: a, type: float}\n")
    (here / "latin.csv").write_bytes("subscriber,event_time,minutes,plan\nS1,2026-01-31,1,Müller\n".encode("latin-1"))
    (here / "empty.csv").write_text("")
    capsys.readouterr()
    assert main(arguments) == code
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--lineage", "training_data=absent.csv"], "--lineage training_data=absent.csv: there is no such file"),
        (["--lineage", "golden.csv"], "--lineage golden.csv: must be NAME=VALUE"),
        (["--metrics", "broken.json"], "broken.json, line 1: not JSON"),
        (["--metrics", "list.json"], "list.json: must hold a JSON object"),
    ],
)
def test_a_registration_is_checked_before_anything_is_uploaded(
    here: Path, plane: ControlPlane, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    """What can be known on this host is known before a minute of upload."""
    (here / "model.yaml").write_text(document_of("churn").canonical())
    for name, content in {"m.onnx": "x", "golden.csv": "x", "broken.json": "{", "list.json": "[]"}.items():
        (here / name).write_text(content)
    assert main(["model", "register", "model.yaml", "--onnx", "m.onnx", "--golden", "golden.csv", *options]) == 2
    assert said in capsys.readouterr().err
    with plane.store.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM artifacts").scalar_one() == 0


def test_a_broken_document_is_refused_before_the_upload(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the key and its line."""
    (here / "model.yaml").write_text("name: churn\ntask: guess\n")
    (here / "m.onnx").write_text("x")
    assert main(["model", "register", "model.yaml", "--onnx", "m.onnx", "--golden", "m.onnx"]) == 2
    assert "line 2: task: input should be 'binary'" in capsys.readouterr().err
