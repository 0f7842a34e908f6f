"""`interlock rollout` against a real control plane, as its users type it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from control.cli.__main__ import main
from control.cli.rollout_watch import _looks
from control.cli.session import Options, Session
from control.security import Role
from control.server import ControlPlane
from control.v1 import rollout_pb2 as pb
from tests.control.planes import Client, client_for, key, make_champion, running, token_for
from tests.control.test_rollout import approved
from tests.control.test_rollouts import FAST, Observer, bad, clean, rollout, spread, start, two
from tests.support import until


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
    """A control plane."""
    with running(data / "control") as plane:
        yield plane


@pytest.fixture
def interlock(
    plane: ControlPlane, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Interlock:
    """Runs a command on the installation, as somebody who moves versions unless a token is given."""
    monkeypatch.delenv("INTERLOCK_CONTROL", raising=False)
    monkeypatch.setenv("INTERLOCK_TOKEN", token_for(plane.store, "mia", Role.ML_ENGINEER))
    monkeypatch.setenv("INTERLOCK_DATA", str(data))

    def run(*arguments: str) -> Run:
        code = main(arguments)
        return Run(code, *capsys.readouterr())

    return run


@pytest.fixture
def policy(tmp_path: Path) -> str:
    """A policy's file, whose steps pass on a handful of clean rows."""
    path = tmp_path / "policy.yaml"
    path.write_text(FAST)
    return str(path)


def test_a_rollout_is_started_by_model_and_version_alone(
    interlock: Interlock, plane: ControlPlane, mia: Client, ben: Client
) -> None:
    """The tier's policy holds; what is not known of its traffic is said, and so is the next command."""
    two(plane, mia, ben, "churn")
    started = interlock("rollout", "start", "churn", "2", "--wait-s", "0")
    assert started.code == 0, started.err
    assert ": churn/2 against churn/1: shadow." in started.out
    assert "Warning: No traffic of this model was seen lately" in started.out
    assert "Next: interlock rollout watch churn" in started.err
    listed = interlock("rollout", "list", "--model", "churn", "--json").json()["rollouts"]
    assert [(one["challenger"], one["phase"]) for one in listed] == [(2, "shadow")]
    shown = interlock("rollout", "show", "churn")
    assert "▶ shadow  →  1 %  →  5 %  →  25 %  →  50 %  →  99 %" in shown.out
    assert "steps       1 % for 10 min, 5 % for 15 min, 25 % for 30 min, 50 % for 1 h at least" in shown.out


def test_what_cannot_start_is_refused_in_words_that_help(
    interlock: Interlock, plane: ControlPlane, mia: Client, ben: Client, tmp_path: Path
) -> None:
    """A second rollout by the name of the first, a policy by its key, and names that nobody registered."""
    two(plane, mia, ben, "busy")
    third = approved(plane, ben, "busy")
    assert interlock("rollout", "start", "busy/2").code == 0
    second = interlock("rollout", "start", "busy", str(third))
    assert (second.code, "busy has a rollout already: busy/2 is in shadow" in second.err) == (1, True)
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("alpha: 0.01\nstepz: []\n")
    refused = interlock("rollout", "start", "busy", "3", "--policy", str(wrong))
    assert (refused.code, "DOCUMENT_INVALID" in refused.err, "stepz" in refused.err) == (1, True, True)
    for arguments in (("start", "nobody", "1"), ("show", "nobody"), ("list", "--model", "nobody"), ("pause", "nobody")):
        reason = ("--reason", "lunch") if "pause" in arguments else ()
        unknown = interlock("rollout", *arguments, *reason)
        assert (unknown.code, "nobody" in unknown.err, "VERSION_UNKNOWN" in unknown.err) == (1, True, True), unknown.err
    assert "ROLLOUT_UNKNOWN: no rollout has the id 999999" in interlock("rollout", "show", "999999").err
    assert interlock("rollout", "pause", "--reason", "lunch").code == 2


def test_show_has_every_test_beside_its_threshold(
    interlock: Interlock, plane: ControlPlane, mia: Client, ben: Client
) -> None:
    """And its counts, the policy in force, and the last judgement's sentence; by model, version or number."""
    two(plane, mia, ben, "shown")
    started = start(mia, "shown", 2).rollout
    observer = Observer(plane, started)
    observer.report(clean(spread(50), 1, 1000))
    observer.report([bad(7, challenger=True)])
    until(lambda: any(found.challenger for found in rollout(mia, started.rollout_id).findings))
    shown = interlock("rollout", "show", "shown")
    assert "shown/2 against shown/1: canary at 10 %, step 1 of 2" in shown.out
    assert "▶ 10 %  →  50 %  →  99 %" in shown.out
    assert "HOLD: Not shown yet: errors: 0 bad of the challenger's 5" in shown.out
    (harm,) = [line for line in shown.out.splitlines() if line.startswith("errors      harm")]
    assert "1 bad, control 0" in harm
    (gate,) = [line for line in shown.out.splitlines() if line.startswith("errors      under ceiling")]
    assert "0 bad of 5" in gate
    assert (
        "errors      gate, 35 % of alpha, harm beyond 1.1 times; passes under a ceiling of 30 % (beta 0.05)"
        in shown.out
    )
    for target in ("shown/2", str(started.rollout_id)):
        found = interlock("rollout", "show", target, "--json").json()
        assert found["rollout"]["rollout_id"] == started.rollout_id
        assert found["policy"]["steps"][0]["weight_bps"] == 1000


def test_pausing_and_resuming(interlock: Interlock, plane: ControlPlane, mia: Client, ben: Client) -> None:
    """One, or all; what to do next is said."""
    two(plane, mia, ben, "lunch")
    start(mia, "lunch", 2)
    paused = interlock("rollout", "pause", "lunch", "--reason", "lunch")
    assert (paused.code, "lunch/2 is paused" in paused.out) == (0, True)
    assert "interlock rollout resume lunch" in paused.err
    assert "paused" in interlock("rollout", "list", "--model", "lunch").out
    again = interlock("rollout", "pause", "lunch", "--reason", "lunch")
    assert (again.code, "no running rollout of lunch" in again.err) == (1, True)
    assert interlock("rollout", "resume", "lunch").code == 0
    assert interlock("rollout", "pause", "--all", "--reason", "the week's end").code == 0
    everything = interlock("rollout", "list", "--json").json()["rollouts"]
    assert all(one["paused"] for one in everything)
    assert interlock("rollout", "resume", "--all").code == 0


def test_promoting_without_evidence_takes_an_approver(
    interlock: Interlock, plane: ControlPlane, mia: Client, ben: Client
) -> None:
    """The audit trail, the list and the model's history say what it is."""
    two(plane, mia, ben, "forced")
    start(mia, "forced", 2)
    refused = interlock("rollout", "promote", "forced", "--reason", "we know it")
    assert (refused.code, refused.err.startswith("ROLE_MISSING")) == (1, True)
    token = token_for(plane.store, "ben", Role.APPROVER)
    done = interlock("rollout", "promote", "forced", "--reason", "we know it", "--token", token)
    assert (done.code, "forced/2 is promoted without evidence" in done.out) == (0, True)
    assert "promoted to 99 %, holdback, promoted without evidence" in interlock("rollout", "list").out


def test_rolling_back_by_hand_ends_it(interlock: Interlock, plane: ControlPlane, mia: Client, ben: Client) -> None:
    """The version that it was compared with answers alone."""
    two(plane, mia, ben, "hand")
    start(mia, "hand", 2)
    done = interlock("rollout", "rollback", "hand", "--reason", "it smells")
    assert (done.code, "hand/2 is off" in done.out, "hand/1 answers alone" in done.out) == (0, True, True)
    shown = interlock("rollout", "show", "hand")
    assert "rolled back" in shown.out
    assert "it smells" in shown.out
    assert "interlock model history hand" in shown.err


def test_watch_prints_a_line_per_change_and_ends_with_the_outcome(
    interlock: Interlock, plane: ControlPlane, mia: Client, ben: Client
) -> None:
    """Where no terminal is; its exit code says whether the version went back."""
    two(plane, mia, ben, "seen")
    started = start(mia, "seen", 2).rollout
    Observer(plane, started).report([bad(one, challenger=True) for one in range(1, 13)])
    watched = interlock("rollout", "watch", "seen")
    lines = watched.out.splitlines()
    assert watched.code == 1
    assert "seen/2 against seen/1: rolled back" in lines[-1]
    assert "errors: 12 in the challenger and 0 in the champion" in lines[-1]
    documents = interlock("rollout", "watch", str(started.rollout_id), "--json").out.splitlines()
    assert [json.loads(line)["rollout"]["outcome"] for line in documents] == ["rolled_back"]


def test_watch_ends_at_the_promotion(interlock: Interlock, plane: ControlPlane, mia: Client, ben: Client) -> None:
    """The holdback takes weeks: nobody waits for it by a command."""
    two(plane, mia, ben, "up")
    started = start(mia, "up", 2).rollout
    observer = Observer(plane, started)
    observer.report(clean(spread(400), 1, 1000))
    until(lambda: rollout(mia, started.rollout_id).step == 2)
    observer.report(clean(spread(400), 2, 5000), step=2)
    watched = interlock("rollout", "watch", "up")
    assert watched.code == 0
    assert "promoted to 99 %, holdback" in watched.out.splitlines()[-1]


def test_replay_makes_every_judgement_again(
    interlock: Interlock, plane: ControlPlane, mia: Client, ben: Client, tmp_path: Path
) -> None:
    """From the server's trail and from an exported one; one changed bit is found."""
    two(plane, mia, ben, "again")
    started = start(mia, "again", 2).rollout
    observer = Observer(plane, started)
    observer.report(clean(spread(400), 1, 1000))
    until(lambda: rollout(mia, started.rollout_id).step == 2)
    observer.report([bad(one, challenger=True) for one in range(1, 40)], step=2)
    until(lambda: rollout(mia, started.rollout_id).outcome)
    replayed = interlock("rollout", "replay", "again", "--json").json()
    assert replayed["different"] == 0
    assert {one["action"] for one in replayed["judgements"]} >= {"rollout.advance", "rollout.roll_back"}
    assert "each is the same to the last bit" in interlock("rollout", "replay", "again/2").out
    trail = tmp_path / "trail.json"
    trail.write_text(interlock("audit", "list", "again", "--limit", "1000", "--json").out)
    assert interlock("rollout", "replay", "again", "--trail", str(trail)).code == 0
    document = json.loads(trail.read_text())
    last = next(one for one in document["entries"] if one["action"] == "rollout.roll_back")
    last["details"]["judgement"]["findings"][0]["log_e"] += 1e-15
    trail.write_text(json.dumps(document))
    differs = interlock("rollout", "replay", "again", "--trail", str(trail))
    assert (differs.code, "differs in findings" in differs.out, "1 differ" in differs.out) == (1, True, True)
    trail.write_text("{}")
    assert interlock("rollout", "replay", "again", "--trail", str(trail)).code == 2


def test_promoting_a_later_version_says_to_start_a_rollout(
    interlock: Interlock, plane: ControlPlane, mia: Client, ben: Client
) -> None:
    """`model promote` is for a model's first version."""
    first = approved(plane, ben, "later")
    make_champion(mia, ben, "later", first)
    second = approved(plane, ben, "later")
    refused = interlock("model", "promote", f"later/{second}")
    assert (refused.code, f"interlock rollout start later {second}" in refused.err) == (1, True), refused.err


def test_watch_waits_for_a_control_plane_that_goes_away(tmp_path: Path) -> None:
    """What is known stays, and why nothing newer is; then it goes on to the outcome."""
    with running(tmp_path / "control") as plane:
        mia, ben = client_for(plane, "mia", Role.ML_ENGINEER), client_for(plane, "ben", Role.APPROVER)
        two(plane, mia, ben, "away")
        start(mia, "away", 2)
        options = Options(control=plane.address, token=token_for(plane.store, "mia", Role.ML_ENGINEER))
        session = Session(options)
        looks = _looks(session, "away", holdback=False)
        assert (next(looks).lost, next(looks).lost) == ("", "")
        address = plane.address
    lost = next(looks)
    assert lost.answer.rollout.challenger == 2
    assert "cannot connect to the control plane" in lost.lost
    with running(tmp_path / "control", address=address) as plane:
        mia = client_for(plane, "mia", Role.ML_ENGINEER)
        until(lambda: not next(looks).lost)
        back = pb.RollBackRolloutRequest(idempotency_key=key(), model="away", reason="enough")
        mia.call(mia.rollout.RollBackRollout, back)
        assert [look.answer.rollout.outcome for look in looks][-1] == "rolled_back"
        session.__exit__(None, None, None)
