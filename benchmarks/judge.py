"""Section `judge`: how often each rule rolls sound versions back, how much harm it finds, and how soon ours does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from benchmarks.judge_peers import argo, flagger, kayenta
from benchmarks.rollouts import Array, Outcome, Traffic, World, draw, ours
from control.rollout.policy import Policy
from control.rollout.tiers import DEFAULTS
from gateway.contract.alone import central_alpha
from gateway.contract.document import Tier
from gateway.contract.evidence import HARMFUL, threshold

HOURS_S: Final = 4 * 3_600
TICK_S: Final = 30.0
RATIOS: Final = (1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
OUT: Final = Path(".interlock-bench")
"""Where the table and the plot are left."""


def bench_policy() -> Policy:
    """The default of the tier `standard`, but that errors, which both arms have, gate by their ratio."""
    defaults = dict(DEFAULTS[Tier.STANDARD])
    errors = defaults["metrics"]["errors"] | {"advance": {"relative": {"margin": 2.0, "beta": 0.05}}}
    return Policy.model_validate(defaults | {"metrics": defaults["metrics"] | {"errors": errors}})


def incident(share: Array, rng: np.random.Generator) -> Array:
    """Day and night in both arms, and 20 minutes in which both are ten times as bad, begun within the first hour."""
    began = rng.random() / 4
    struck = (share > began) & (share < began + 1_200 / HOURS_S)
    return np.asarray((1 + 0.5 * np.sin(2 * np.pi * share)) * np.where(struck, 10.0, 1.0))


KINDS: Final[Mapping[str, Traffic]] = {
    "calm": Traffic(100, HOURS_S, 300_000, 0.003),
    "day, night and an incident": Traffic(100, HOURS_S, 300_000, 0.003, incident),
    "entities that always fail": Traffic(100, HOURS_S, 20_000, 0.003, always_bad=0.004),
}
"""Kinds of traffic, each at 100 requests per second for four hours."""

RULES: Final[Mapping[str, Callable[[World], Outcome]]] = {
    "interlock": lambda world: ours(bench_policy(), world, TICK_S),
    "flagger": flagger,
    "argo": argo,
    "kayenta": kayenta,
}


class Tally(NamedTuple):
    """Of so many rollouts."""

    rolled_back: int
    promoted: int
    runs: int


def judge(full: bool) -> dict[str, Any]:
    """Draws worlds, lets every rule run on each, and counts."""
    sound_runs, harm_runs = (350, 60) if full else (30, 5)
    sound = {kind: _compare(traffic, 1.0, sound_runs) for kind, traffic in KINDS.items()}
    harm = {ratio: _added([_compare(traffic, ratio, harm_runs) for traffic in KINDS.values()]) for ratio in RATIOS}
    OUT.mkdir(exist_ok=True)
    _write_table(sound, harm)
    _plot(sound, harm)
    false, found = _added(list(sound.values())), _added([harm[ratio] for ratio in RATIOS if ratio >= 3])
    rates = {
        rule: {
            "false_rollback_rate": round(false[rule].rolled_back / false[rule].runs, 4),
            "detected_rate": round(found[rule].rolled_back / found[rule].runs, 4),
        }
        for rule in RULES
    }
    by_ratio = {f"r{r:g}": {rule: t[rule].rolled_back / t[rule].runs for rule in RULES} for r, t in harm.items()}
    return {
        "n": false["interlock"].runs + len(RATIOS) * len(KINDS) * harm_runs,
        **rates["interlock"],
        "promoted_rate": round(false["interlock"].promoted / false["interlock"].runs, 4),
        "peers": {rule: rates[rule] for rule in RULES if rule != "interlock"},
        "false_rollback_by_traffic": {
            kind: {rule: round(t[rule].rolled_back / t[rule].runs, 4) for rule in RULES} for kind, t in sound.items()
        },
        "detected_by_ratio": by_ratio,
        "delay_requests": {f"r{ratio}": _delay(float(ratio), 2_000 if full else 300) for ratio in (2, 3, 10, 100)},
    }


def _compare(traffic: Traffic, ratio: float, runs: int) -> dict[str, Tally]:
    found = dict.fromkeys(RULES, Tally(0, 0, 0))
    for run in range(runs):
        world = draw(traffic, ratio, np.random.default_rng((run, int(10 * ratio), traffic.entities)))
        for rule, play in RULES.items():
            outcome, old = play(world), found[rule]
            found[rule] = Tally(old.rolled_back + outcome.rolled_back, old.promoted + outcome.promoted, old.runs + 1)
    return found


def _added(parts: list[dict[str, Tally]]) -> dict[str, Tally]:
    return {rule: Tally(*map(sum, zip(*(part[rule] for part in parts), strict=True))) for rule in RULES}


def _delay(ratio: float, runs: int) -> int:
    """Median requests until the control plane's own verdict at a weight of 5 %, 1 % of the champion's rows bad."""
    errors = bench_policy().metrics.errors
    assert errors is not None
    line = threshold(central_alpha(bench_policy().alpha_of(errors.alpha_share_pct)))
    w, rng, delays = 0.05, np.random.default_rng(int(ratio)), []
    c, rho = np.array(HARMFUL)[:, None], errors.rho
    for _ in range(runs):
        x = rng.random(4_000) < w * ratio / (w * ratio + 1 - w)
        sums = np.cumsum(x * np.log(c) + np.log((w * rho + 1 - w) / (w * c * rho + 1 - w)), axis=1)
        top = sums.max(axis=0)
        over = top + np.log(np.exp(sums - top).mean(axis=0)) >= line
        events = int(np.argmax(over)) + 1 if over.any() else len(over)
        delays.append(events + rng.negative_binomial(events, 0.01 * (w * ratio + 1 - w)))
    return int(np.median(delays))


def _write_table(sound: Mapping[str, dict[str, Tally]], harm: Mapping[float, dict[str, Tally]]) -> None:
    rows = [(f"sound: {kind}", tally) for kind, tally in sound.items()]
    rows += [(f"{ratio:g} times as many errors", tally) for ratio, tally in harm.items()]
    lines = [f"| rolled back, of rollouts of 4 h at 100 requests/s | {' | '.join(RULES)} |", "|---" * 5 + "|"]
    lines += [
        f"| {name} | " + " | ".join(f"{tally[rule].rolled_back}/{tally[rule].runs}" for rule in RULES) + " |"
        for name, tally in rows
    ]
    text = "\n".join(lines) + "\n"
    (OUT / "judge.md").write_text(text)
    print(text)


def _plot(sound: Mapping[str, dict[str, Tally]], harm: Mapping[float, dict[str, Tally]]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    all_sound = _added(list(sound.values()))
    for rule in RULES:
        tallies = [all_sound[rule], *(harm[ratio][rule] for ratio in RATIOS)]
        axes.plot([1.0, *RATIOS], [tally.rolled_back / tally.runs for tally in tallies], marker="o", label=rule)
    axes.set(xscale="log", xlabel="errors of the challenger over the champion's", ylabel="share rolled back")
    axes.set_xticks([1.0, *RATIOS], [f"{ratio:g}" for ratio in (1.0, *RATIOS)])
    axes.legend()
    figure.tight_layout()
    figure.savefig(OUT / "judge.png", dpi=120)
    pyplot.close(figure)
