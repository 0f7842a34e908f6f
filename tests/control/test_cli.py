"""The command line against a real control plane, as its users run it."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from control.cli.__main__ import main
from control.security import Role
from control.server import ControlPlane
from tests.control.planes import Client, add_version, make_champion, running, token_for


class Run(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Its one document."""
        return json.loads(self.out)


Interlock = Callable[..., Run]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an installation."""
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def plane(data: Path) -> Iterator[ControlPlane]:
    """A control plane with churn/1, which ana submitted."""
    with running(data / "control") as plane:
        add_version(plane.store, "churn")
        yield plane


@pytest.fixture
def interlock(
    plane: ControlPlane, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Interlock:
    """Runs a command on the installation, as its operator unless a token is given."""
    for name in ("INTERLOCK_TOKEN", "INTERLOCK_CONTROL", "INTERLOCK_GATEWAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("INTERLOCK_DATA", str(data))

    def run(*arguments: str) -> Run:
        code = main(arguments)
        return Run(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def bob(plane: ControlPlane) -> str:
    """The token of an approver who also promotes."""
    return token_for(plane.store, "bob", Role.APPROVER, Role.ML_ENGINEER)


def test_a_token_is_made_shown_once_and_revoked(interlock: Interlock) -> None:
    """Standard output is the token alone, so that it can be sent to a file."""
    created = interlock("token", "create", "carl", "--role", "auditor", "--role", "approver")
    assert created.code == 0
    token = created.out.strip()
    assert token.startswith("ilk_")
    assert "carl (approver, auditor)" in created.err.replace("auditor, approver", "approver, auditor")
    assert interlock("approval", "list", "--token", token).code == 0
    (listed,) = [t for t in interlock("token", "list", "--json").json()["tokens"] if t["actor"] == "carl"]
    assert "token" not in listed
    assert interlock("token", "revoke", listed["token_id"]).code == 0
    refused = interlock("approval", "list", "--token", token)
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith("UNAUTHENTICATED: the bearer token of carl was revoked")


def test_a_token_may_come_from_a_file_or_the_environment(
    interlock: Interlock, bob: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flags are over the environment, and that over the operator's token that lies in the data directory."""
    file = tmp_path / "bob.token"
    file.write_text(f"{bob}\n")
    assert interlock("token", "list", "--token-file", str(file)).code == 1
    monkeypatch.setenv("INTERLOCK_TOKEN", bob)
    assert interlock("token", "list").code == 1
    operators = str(data / "control" / "operator.token")
    assert interlock("token", "list", "--token-file", operators).code == 0
    absent = interlock("token", "list", "--token-file", str(tmp_path / "no"), "--token", "")
    assert (absent.code, "holds no token that can be read" in absent.err) == (2, True)


def test_the_operators_token_is_used_and_said_when_asked(interlock: Interlock) -> None:
    """On the same host nobody needs to look for a token; --verbose says which one it was."""
    assert "token: the operator's, from" in interlock("approval", "list", "--verbose").err
    assert "operator" not in interlock("approval", "list").err


def test_a_directory_that_is_named_is_over_an_address_in_the_environment(
    interlock: Interlock, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who types a flag means it; the suggested commands repeat it."""
    monkeypatch.setenv("INTERLOCK_CONTROL", "127.0.0.1:9")
    assert interlock("approval", "list").code == 3
    named = interlock("approval", "list", "--data", str(data))
    assert (named.code, f"--data {data}" in named.err) == (0, True)


def test_the_operators_token_never_leaves_this_host(interlock: Interlock) -> None:
    """A remote control plane gets a token that was given, or none."""
    refused = interlock("approval", "list", "--control", "control.example:7400")
    assert (refused.code, refused.err.startswith("UNAUTHENTICATED: no token")) == (2, True)


def test_a_missing_role_says_how_to_get_it(interlock: Interlock) -> None:
    """The message names the roles; the command line adds the command."""
    refused = interlock("approval", "approve", "churn/1")
    assert refused.code == 1
    assert refused.err.startswith("ROLE_MISSING: ApproveVersion needs one of the roles approver")
    assert "interlock token create NAME --role ROLE" in refused.err


def test_a_version_is_approved_promoted_and_answers(interlock: Interlock, bob: str) -> None:
    """Each command names the next one."""
    waiting = interlock("approval", "list")
    assert "churn/1  pending" in waiting.out
    assert "interlock approval approve churn/1" in waiting.err
    approved = interlock("approval", "approve", "churn/1", "--comment", "looks right", "--token", bob)
    assert (approved.code, "interlock model promote churn/1" in approved.err) == (0, True)
    promoted = interlock("model", "promote", "churn/1", "--wait-s", "0", "--token", bob, "--json")
    assert promoted.code == 0
    assert promoted.json()["revision"] > 0
    status = interlock("status", "churn", "--json")
    (model,) = status.json()["status"]["models"]
    assert (model["champion_version"], model["promoted_by"], model["approved_by"]) == (1, "bob", ["bob"])
    assert (status.code, status.json()["healthy"]) == (1, False), "no gateway is connected"
    shown = interlock("status")
    assert "churn/1" in shown.out
    assert "NO_GATEWAY: churn: no gateway is connected" in shown.out


def test_a_rejected_version_needs_a_reason(interlock: Interlock, plane: ControlPlane, bob: str) -> None:
    """A reason is an option that cannot be left out."""
    version = f"fraud/{add_version(plane.store, 'fraud')}"
    assert interlock("approval", "reject", version, "--token", bob).code == 2
    assert interlock("approval", "reject", version, "--comment", "leaks the label", "--token", bob).code == 0
    assert "leaks the label" in interlock("approval", "list", "fraud").out


def test_the_audit_trail_is_listed_and_verified(interlock: Interlock) -> None:
    """Newest first, pages by number, and a head hash to note elsewhere."""
    entries = interlock("audit", "list", "--limit", "2", "--json").json()["entries"]
    assert [entry["sequence"] for entry in entries] == [entries[0]["sequence"], entries[0]["sequence"] - 1]
    assert isinstance(entries[0]["details"], dict)
    older = interlock("audit", "list", "--limit", "1", "--before", str(entries[1]["sequence"]), "--json").json()
    assert older["entries"][0]["sequence"] == entries[1]["sequence"] - 1
    verified = interlock("audit", "verify")
    assert (verified.code, "The trail is whole" in verified.out) == (0, True)
    assert "version.register" in interlock("audit", "list", "churn/1").out


def test_an_altered_trail_is_told_by_the_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A nightly job needs to look at nothing else."""
    with running(tmp_path / "control"):
        with closing(sqlite3.connect(tmp_path / "control" / "store.sqlite")) as store, store:
            for (trigger,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                store.execute(f"DROP TRIGGER {trigger}")
            store.execute("UPDATE audit SET actor = 'nobody' WHERE sequence = 1")
        assert main(["audit", "verify", "--data", str(tmp_path)]) == 1
    assert "The trail is broken at entry 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("model", "show", "churn"), "'churn' is not MODEL/VERSION, such as churn/2"),
        (("model", "show", "churn/0"), "'churn/0' is not MODEL/VERSION"),
        (("model", "shwo"), "No such command"),
        (("status", "--jsn"), "No such option: --jsn"),
        (("model", "list", "--nonsense"), "`interlock model list --help` says what it takes"),
        (("token", "create", "ann"), "Missing option '--role'"),
        (("score", "churn", "-e", "S1"), "--entity S1: must be NAME=VALUE"),
        (("score", "churn", "-e", "a=1", "-e", "a=2"), "a is given twice"),
        (("gateway", "rolback", "churn", "--reason", "bad"), "No such command 'rolback'"),
        (("score", "churn", "-i", "a=x", "--type", "a=int64"), "input a: 'x' is not a whole number (int64 wanted)"),
        (("score", "churn", "-i", "a=x", "--type", "a=int"), "--type a=int: float32, int64, string or bool is wanted"),
    ],
)
def test_a_misused_command_says_what_it_takes(interlock: Interlock, arguments: tuple[str, ...], said: str) -> None:
    """Exit code 2, one line, no traceback; as JSON where that was asked for."""
    plain = interlock(*arguments)
    assert (plain.code, plain.out) == (2, "")
    assert said in plain.err
    assert len(plain.err.splitlines()) == 1
    structured = interlock(*arguments, "--json")
    assert (structured.code, structured.out) == (2, "")
    assert said in json.loads(structured.err)["message"]


def test_nobody_there_is_exit_code_three(interlock: Interlock, tmp_path: Path) -> None:
    """A data directory without services, and an address without a server, each with what to do."""
    nothing = interlock("status", "--data", str(tmp_path))
    assert nothing.code == 3
    assert nothing.err.startswith("NOT_RUNNING: no control plane runs in")
    assert f"interlock up --data {tmp_path}" in nothing.err
    silent = interlock("status", "--control", "127.0.0.1:9", "--json")
    assert (silent.code, json.loads(silent.err)["reason"]) == (3, "CANNOT_CONNECT")
    assert interlock("score", "churn", "-e", "subscriber=S1").err.startswith("NOT_RUNNING: no gateway runs in")


def test_a_gateways_directory_must_be_there_to_be_commanded(interlock: Interlock, tmp_path: Path) -> None:
    """A mistyped --data is said before anything is asked."""
    none = interlock("gateway", "accept-history", "--data", str(tmp_path))
    assert (none.code, none.out) == (2, "")
    assert "holds no gateway's data" in none.err


def test_an_unknown_version_is_refused_with_its_reason(interlock: Interlock) -> None:
    """The catalogue's reason, for programs; the sentence, for people."""
    refused = interlock("model", "retire", "churn/99", "--reason", "tidy", "--json")
    assert (refused.code, json.loads(refused.err)["reason"]) == (1, "VERSION_UNKNOWN")


def test_settings_say_where_they_come_from(
    interlock: Interlock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File, environment or default, with the unit in the sentence."""
    file = tmp_path / "interlock.toml"
    file.write_text("[gateway]\nworkers = 3\ndrain_ms = 7\n[control]\nthreads = 5\n")
    monkeypatch.setenv("INTERLOCK_CONFIG", str(file))
    monkeypatch.setenv("INTERLOCK_GATEWAY_DRAIN_MS", "9")
    shown = interlock("config", "show", "--json").json()
    gateway = shown["gateway"]
    assert (gateway["workers"]["value"], gateway["workers"]["source"]) == (3, f"{file} [gateway]")
    assert (gateway["drain_ms"]["value"], gateway["drain_ms"]["source"]) == (9, "INTERLOCK_GATEWAY_DRAIN_MS")
    assert (gateway["map_bytes"]["source"], shown["control"]["threads"]["value"]) == ("default", 5)
    assert all(setting["meaning"] for service in shown.values() for setting in service.values())


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("[gateway\n", "is not TOML"),
        ("[gateway]\nworkers = -1\n", "gateway.workers = -1: "),
        ("[gateway]\nx = 1\n", "gateway.x = 1: "),
    ],
)
def test_wrong_settings_name_the_key(
    interlock: Interlock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, said: str
) -> None:
    """One line and exit code 2."""
    file = tmp_path / "interlock.toml"
    file.write_text(written)
    monkeypatch.setenv("INTERLOCK_CONFIG", str(file))
    shown = interlock("config", "show", "gateway")
    assert (shown.code, said in shown.err) == (2, True)


def test_help_needs_none_of_the_heavy_libraries() -> None:
    """The command line starts quickly, and on the base install, because it imports them only where they are used."""
    heavy = "{'grpc', 'numpy', 'sqlalchemy', 'onnx', 'onnxruntime', 'pandas', 'sklearn'}"
    script = (
        f"import sys, control.cli.__main__ as m; m.main(['--help']); sys.exit(str({heavy} & sys.modules.keys() or ''))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
    assert "score" in done.stdout


def split(version: str) -> tuple[str, int]:
    """Model and number of a version's name."""
    model, _, number = version.partition("/")
    return model, int(number)


def test_rolling_back_and_the_story_that_a_model_has_then(interlock: Interlock, plane: ControlPlane, bob: str) -> None:
    """Each entry is a sentence with its reason; the version before answers, and status says what changed last."""
    for _ in range(2):
        version = f"story/{add_version(plane.store, 'story')}"
        assert interlock("approval", "approve", version, "--token", bob).code == 0
        make_champion(Client(plane.address, bob), Client(plane.address, bob), *split(version))
    done = interlock("rollback", "story", "--reason", "it errs", "--token", bob, "--wait-s", "0")
    assert (done.code, "story/1 answers" in done.out, "story/2 is rolled_back" in done.out) == (0, True, True)
    told = " ".join(interlock("model", "history", "story", "--token", bob).out.split())
    assert "bob approved story/1, submitted by ana" in told
    assert "bob made story/1 the one that answers" in told
    assert "bob rolled story/2 back: version 1 answers: “it errs”" in told
    found = interlock("status", "story", "--json").json()["status"]["models"][0]
    assert found["last_change"]["action"] == "version.roll_back"
    assert interlock("model", "history", "nothing").code == 1
