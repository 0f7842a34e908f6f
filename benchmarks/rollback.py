"""Section `rollback`: planted regressions, sound versions and a killed control plane, on gateways under load."""

from __future__ import annotations

import time
from bisect import bisect
from collections import Counter
from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any, Final, NamedTuple

from benchmarks import servers
from benchmarks.planted import SOUND, Fault
from benchmarks.traffic import traffic
from benchmarks.trials import WORKERS, Installation, Journals, Tried, installation
from gateway.withdrawals import Withdrawals

PER_S: Final = 600
DEADLINE_MS: Final = 1_000
KINDS: Final = (
    Fault("raises", 10),
    Fault("nan", 30),
    Fault("hits", 50),
    Fault("slow", 10),
    Fault("raises", 30),
    Fault("nan", 10),
)
HARD: Final = (Fault("raises"), Fault("nan"), Fault("slow"))
PATIENCE_S: Final = 45.0
"""How long a rollout gets; what has not been rolled back by then was not found."""
STEADY_S: Final = 6.0
"""Of calls with no rollout, to hold the others against."""
WITHOUT_CONTROL_S: Final = 12.0
"""Twice the step's minimum time."""
MODEL: Final = "minutes"
OTHER: Final = "seconds"


class Trial(NamedTuple):
    """One rollout, and what came of it."""

    fault: Fault
    outcome: str
    """Empty where it went on for as long as it was let."""
    tried: Tried
    reason: str
    began_ns: int


def rollback(full: bool) -> dict[str, Any]:
    """Runs rollouts one after the other under load, and kills the control plane in the middle of the last two."""
    regressions, sound, hard = (20, 20, 20) if full else (8, 3, 6)
    partial = list(islice(cycle(KINDS), regressions - regressions // 3))
    faults = [*partial, *islice(cycle(HARD), regressions // 3)]
    faults += islice(cycle(HARD), max(0, hard - regressions // 3))
    faults += [SOUND] * sound
    seen: dict[str, dict[str, Any]] = {"steady": {}, "trials": {}, "alone": {}}
    with installation() as here:
        for model in (MODEL, OTHER):
            here.olga.promote(model, here.register(model, SOUND))
        versions = [here.register(MODEL, fault) for fault in [*faults, SOUND]]
        bad = here.register(OTHER, Fault("nan", 10))
        gateways = here.start_gateways()
        for model in (MODEL, OTHER):
            for gateway in gateways:
                servers.first_score(gateway.address, model)
        journals = Journals(here.data)
        calls = {
            "addresses": [gateway.address for gateway in gateways],
            "method": servers.SCORE,
            "per_s": PER_S,
            "deadline_ms": DEADLINE_MS,
            "messages": str(here.messages("calls", [MODEL])),
        }
        with traffic(seen["steady"], **calls):
            time.sleep(STEADY_S)
        with traffic(seen["trials"], **calls):
            trials = [_try(here, journals, *one) for one in zip(faults, versions, strict=False)]
        calls["messages"] = str(here.messages("both", [MODEL, OTHER]))
        with traffic(seen["alone"], **calls):
            alone = _alone(here, journals, versions[-1], bad)
        lost = journals.lost
    return _figures(trials) | {
        "alone": alone,
        "failed_calls": seen["trials"]["failed"] + seen["alone"]["failed"],
        "failed_calls_by_kind": _failed_by_kind(trials, seen["trials"]["failed_ns"]),
        "calls_per_s": min(one["calls_per_s"] for one in seen.values()),
        "traffic": {name: {key: one[key] for key in one if key != "failed_ns"} for name, one in seen.items()},
        "rows_lost": lost,
        "workers": len(gateways) * WORKERS,
    }


def _try(here: Installation, journals: Journals, fault: Fault, version: int) -> Trial:
    began_ns = time.time_ns()
    rollout_id = here.start(MODEL, version)
    over = here.ended(rollout_id, PATIENCE_S, journals)
    if not over.outcome:
        here.olga.roll_back_rollout(MODEL, reason="the benchmark has waited long enough", wait_s=30)
    if (
        over.outcome == "promoted" and fault is not SOUND
    ):  # the next ones are compared with a sound version all the same
        here.olga.roll_back(MODEL, reason="it is a bad one", wait_s=30)
    journals.read()
    return Trial(fault, over.outcome, journals.tried(rollout_id), over.reason, began_ns)


def _alone(here: Installation, journals: Journals, good: int, bad: int) -> dict[str, Any]:
    """Kills the control plane while one model has a bad challenger and the other a sound one; then starts it again."""
    sound_id, bad_id = here.start(MODEL, good), here.start(OTHER, bad)
    here.kill_control()
    files = [Withdrawals(here.data / f"gateway-{index}") for index in range(2)]
    deadline, withdrew = time.monotonic() + PATIENCE_S, [False, False]
    at_least = time.monotonic() + WITHOUT_CONTROL_S
    while time.monotonic() < at_least or (not all(withdrew) and time.monotonic() < deadline):
        journals.read()
        withdrew = [any(one.model == OTHER for one in file.read()) for file in files]
        time.sleep(0.05)
    weights_bps = journals.weights_bps[sound_id]
    here.start_control(here.address)
    over = here.ended(bad_id, PATIENCE_S, journals)
    tried = journals.tried(bad_id)
    return {
        "rolled_back": sum(withdrew),
        "of_gateways": len(files),
        "seconds": round(tried.seconds, 2),
        "requests": tried.rows,
        "advanced": int(weights_bps != {500}),
        "recorded": over.outcome,
        "then": here.ended(sound_id, PATIENCE_S, journals).outcome,
    }


def _failed_by_kind(trials: Sequence[Trial], failed_ns: Sequence[int]) -> dict[str, int]:
    """Calls that failed between the beginnings of a trial and of the next one, by what was wrong with the version."""
    began_ns = [trial.began_ns for trial in trials]
    counts = Counter(trials[max(0, bisect(began_ns, at_ns) - 1)].fault.name for at_ns in failed_ns)
    return dict(counts)


def _figures(trials: Sequence[Trial]) -> dict[str, Any]:
    regressions = [trial for trial in trials if trial.fault is not SOUND]
    sound = [trial for trial in trials if trial.fault is SOUND]
    hard = [trial for trial in regressions if trial.fault.hard]
    found = [trial for trial in regressions if trial.outcome in ("rolled_back", "quarantined")]
    return {
        "n": len(trials),
        "hard_faults": len(hard),
        "hard_fault_seconds_p95": round(_p95([trial.tried.seconds for trial in hard]), 3),
        "hard_fault_requests": _p95([trial.tried.rows for trial in hard]),
        "regressions": len(regressions),
        "detected": round(len(found) / len(regressions), 3),
        "sound": len(sound),
        "false": sum(trial.outcome in ("rolled_back", "quarantined") for trial in sound),
        "promoted": sum(trial.outcome == "promoted" for trial in sound),
        "surprises": [
            f"{trial.fault.name}: {trial.outcome or 'not ended'}: {trial.reason}"
            for trial in trials
            if (trial in found) is (trial.fault is SOUND)
        ],
        "kinds": {
            name: [
                {"outcome": trial.outcome, "seconds": round(trial.tried.seconds, 2), "requests": trial.tried.rows}
                for trial in regressions
                if trial.fault.name == name
            ]
            for name in dict.fromkeys(trial.fault.name for trial in regressions)
        },
    }


def _p95(values: Sequence[float]) -> float:
    return sorted(values)[-(-len(values) * 95 // 100) - 1]
