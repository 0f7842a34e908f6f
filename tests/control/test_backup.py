"""Backups: one cut of a control plane at work, verified, and brought back where nothing is left."""

from __future__ import annotations

import hashlib
import io
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from control.cli.__main__ import main
from control.security import Role
from control.server import ControlPlane
from control.store.backup import back_up, check, restore
from control.v1 import governance_pb2
from gateway.contract.errors import Fault
from tests.control.planes import Client, add_view, client_for, make_champion, running, view_named
from tests.control.test_rollout import approved, gateway, promotion, status


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Where an installation is."""
    return tmp_path / "data"


@pytest.fixture
def plane(data: Path) -> Iterator[ControlPlane]:
    """A control plane with a champion whose artifacts are on its disk, and a batch of features."""
    with running(data / "control") as plane:
        mia, ben = client_for(plane, "mia", Role.ML_ENGINEER), client_for(plane, "ben", Role.APPROVER)
        add_view(plane.store, view_named("usage"))
        mia.call(mia.rollout.PromoteVersion, promotion("churn", approved(plane, ben, "churn")))
        put_artifacts(data / "control")
        yield plane


def put_artifacts(control: Path) -> None:
    """Gives the versions' artifacts the bytes that their digests name, as an upload would have."""
    with closing(sqlite3.connect(control / "store.sqlite")) as raw:
        raw.execute("DROP TRIGGER versions_keep_content")
        for kind in ("model", "golden"):
            content = f"the {kind}".encode()
            digest = hashlib.sha256(content).hexdigest()
            (control / "artifacts" / digest).write_bytes(content)
            raw.execute("INSERT INTO artifacts VALUES (?, 9, 1, 'ana')", (digest,))
            raw.execute(f"UPDATE versions SET {kind}_sha256 = ?", (digest,))
        raw.commit()


def test_a_control_plane_whose_directory_is_deleted_comes_back_from_its_backup(
    plane: ControlPlane, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Champion, trail, features, artifacts and tokens are there again, under a history of its own."""
    operator = (data / "control" / "operator.token").read_text()
    kept = tmp_path / "kept"
    assert main(["backup", str(kept), "--data", str(data)]) == 0
    plane.stop()
    shutil.rmtree(data)
    assert main(["restore", str(kept), "--data", str(data), "--yes"]) == 0
    assert "history" in capsys.readouterr().out
    assert (data / "control").stat().st_mode & 0o777 == 0o700
    with running(data / "control") as again:
        assert again.store.history_id != plane.store.history_id
        client = Client(again.address, operator)
        assert status(client, "churn").champion_version == 1
        verified = client.call(client.governance.VerifyAudit, governance_pb2.VerifyAuditRequest())
        assert (verified.ok, verified.problem) == (True, "")
        newest = client.call(client.governance.ListAudit, governance_pb2.ListAuditRequest(subject="store")).entries[0]
        assert newest.action == "store.restore"
        assert plane.store.history_id in newest.details_json
        with gateway(again, "g1") as watching:
            assert watching.tables[-1].history_id == again.store.history_id
            served = watching.tables[-1].models[0].champion
            assert (data / "control" / "artifacts" / served.model_sha256).read_bytes() == b"the model"
        mia, ben = client_for(again, "mia", Role.ML_ENGINEER), client_for(again, "ben", Role.APPROVER)
        assert make_champion(mia, ben, "churn", approved(again, ben, "churn"))


def test_a_backup_made_while_others_write_is_whole(plane: ControlPlane, data: Path, tmp_path: Path) -> None:
    """The cut is one snapshot: what is written after it is not in it."""
    made = back_up(data / "control", tmp_path / "kept")
    with plane.store.unit("ana") as unit:
        unit.record("test.later", "churn", {})
    assert check(tmp_path / "kept") == made
    assert (tmp_path / "kept" / "keys").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("damage", ["entry", "artifact", "lost", "manifest"])
def test_a_damaged_backup_is_refused_and_leaves_nothing(
    plane: ControlPlane, data: Path, tmp_path: Path, damage: str
) -> None:
    """An altered entry, an altered or lost artifact, or a backup that was interrupted."""
    kept, new = tmp_path / "kept", tmp_path / "new"
    back_up(data / "control", kept)
    artifact = next((kept / "artifacts").iterdir())
    match damage:
        case "entry":
            with closing(sqlite3.connect(kept / "store.sqlite")) as raw:
                raw.execute("DROP TRIGGER audit_keeps_content")
                raw.execute("UPDATE audit SET actor = 'eve' WHERE sequence = 3")
                raw.commit()
        case "artifact":
            artifact.write_bytes(b"other")
        case "lost":
            artifact.unlink()
        case "manifest":
            (kept / "backup.json").unlink()
    with pytest.raises(Fault):
        restore(kept, new, "ana")
    assert not new.exists()


def test_neither_writes_where_something_is(plane: ControlPlane, data: Path, tmp_path: Path) -> None:
    """A backup is never mixed with another, nor a restore with what is there."""
    back_up(data / "control", tmp_path / "kept")
    with pytest.raises(Fault, match="not empty"):
        back_up(data / "control", tmp_path / "kept")
    with pytest.raises(Fault, match="not empty"):
        restore(tmp_path / "kept", data / "control", "ana")


def test_a_restore_that_nobody_confirms_does_nothing(
    plane: ControlPlane,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither where somebody says no, nor where nobody can, as in a job without a terminal."""
    back_up(data / "control", tmp_path / "kept")
    for typed, said in (("", "NOT_CONFIRMED: nobody answered"), ("n\n", "Nothing was done.")):
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        assert main(["restore", str(tmp_path / "kept"), "--data", str(tmp_path / "new")]) == 1
        assert said in capsys.readouterr().err
        assert not (tmp_path / "new").exists()
