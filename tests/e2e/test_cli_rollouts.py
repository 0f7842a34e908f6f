"""`interlock rollout` on a control plane with real gateways: what a person does takes effect where callers are."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack

import grpc
import pytest

from control.cli.__main__ import main
from control.security import Role
from gateway.v1 import scoring_pb2
from tests.control.planes import make_champion, token_for
from tests.e2e.installation import GOOD, TRAPS, Caller, Installation
from tests.gateway import tiny
from tests.support import until

CANARY = """
shadow: null
steps: [{weight_bps: 5000, minimum_s: 3600}]
metrics: {latency: null, decisions: null}
"""
CHALLENGER = scoring_pb2.ARM_CHALLENGER


class Calling(threading.Thread):
    """Calls one gateway without a pause, and notes when a challenger last answered."""

    def __init__(self, caller: Caller) -> None:
        super().__init__(daemon=True)
        self.caller = caller
        self.last_challenger_s = 0.0
        self.calls = 0
        self.ended = threading.Event()

    def run(self) -> None:
        """Calls until it is ended."""
        while not self.ended.is_set():
            reply = self.caller.score(GOOD[self.calls % len(GOOD)])
            self.calls += 1
            if reply.arm == CHALLENGER:
                self.last_challenger_s = time.monotonic()


def test_a_manual_rollback_takes_effect_in_every_gateway(
    here: Installation, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the command returns, no gateway answers by the challenger any more; how long that took is printed."""
    monkeypatch.setenv("INTERLOCK_TOKEN", token_for(here.plane.store, "mia", Role.ML_ENGINEER))
    monkeypatch.setenv("INTERLOCK_CONTROL", here.plane.address)
    with ExitStack() as stack:
        callers = [stack.enter_context(here.gateway(name)) for name in ("one", "two")]
        here.start(here.register(), CANARY)
        calling = [Calling(caller) for caller in callers]
        for thread in calling:
            thread.start()
        until(lambda: all(thread.last_challenger_s for thread in calling))
        began_s = time.monotonic()
        code = main(["rollout", "rollback", tiny.MODEL, "--reason", "it smells"])
        returned_s = time.monotonic()
        seen = [thread.calls for thread in calling]
        until(lambda: all(thread.calls > before + 100 for thread, before in zip(calling, seen, strict=True)))
        for thread in calling:
            thread.ended.set()
            thread.join()
        said = capsys.readouterr().out
        assert code == 0
        assert all((caller.gateway.data / "gateway.id").read_text().strip() in said for caller in callers)
        lasts_s = [thread.last_challenger_s for thread in calling]
        assert max(lasts_s) < returned_s
        taken = ", ".join(f"{(last_s - began_s) * 1000:.0f} ms" for last_s in lasts_s)
        print(f"{said}last answer of the challenger after {taken}; the command returned after ", end="")
        print(f"{(returned_s - began_s) * 1000:.0f} ms")


def test_a_forecast_knows_what_gateways_saw(
    here: Installation, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows and entities of real calls come up within seconds, and `rollout start` says what they mean."""
    monkeypatch.setenv("INTERLOCK_TOKEN", token_for(here.plane.store, "mia", Role.ML_ENGINEER))
    monkeypatch.setenv("INTERLOCK_CONTROL", here.plane.address)
    version = here.register()
    with here.gateway() as caller:
        caller.scores(GOOD)
        until(lambda: here.plane._hub.traffic(tiny.MODEL), 30)
        assert main(["rollout", "start", tiny.MODEL, str(version)]) == 0
    said = capsys.readouterr().out
    assert "rows/s from about" in said
    assert "the step at 1 % " in said


def test_a_champion_that_decays_is_an_alert_with_its_command(
    here: Installation, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins to fail with no canary beside it: nobody but a person rolls back, by the command that stands there."""
    monkeypatch.setenv("INTERLOCK_TOKEN", token_for(here.plane.store, "mia", Role.ML_ENGINEER))
    monkeypatch.setenv("INTERLOCK_CONTROL", here.plane.address)
    with here.gateway() as caller:
        caller.scores(GOOD)
        make_champion(here.mia, here.bob, tiny.MODEL, here.register("raising"), wait_ms=20_000)
        for trap in TRAPS:
            with pytest.raises(grpc.RpcError):
                caller.score(trap)

        def said() -> str:
            main(["status", tiny.MODEL])
            found = capsys.readouterr()
            return found.out + found.err if "CHAMPION_DECAYS" in found.out else ""

        status = until(said, 30)
        assert f"`interlock rollback {tiny.MODEL} --reason WHY` has {tiny.MODEL}/1 answer again" in status
        assert f"Next: interlock rollback {tiny.MODEL} --reason WHY" in status
        assert main(["rollback", tiny.MODEL, "--reason", "it fails"]) == 0
        assert caller.score(TRAPS[0]).score == 21.0
