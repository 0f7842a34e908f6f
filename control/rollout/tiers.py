"""From a tier, a model and what people wrote to a whole policy. Pure.

What a text leaves out has the tier's default for that model; mappings are completed key by key, and `null` leaves a
metric (or the shadow, or the holdback) out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from control.registry.document import read
from control.rollout.policy import Metric, Policy, Unit
from gateway.contract.document import ModelDocument, Task, Tier
from gateway.contract.errors import Fault, Reason

HOUR_S: Final = 3_600
DAY_S: Final = 24 * HOUR_S
WHAT: Final = "the rollout policy"


def _steps(*steps: tuple[int, int]) -> list[dict[str, int]]:
    return [{"weight_bps": weight, "minimum_s": seconds} for weight, seconds in steps]


def _metrics(max_bad_rate: float, beta: float, rho: float) -> dict[str, Any]:
    gate = {"role": "gate", "rho": rho, "advance": {"ceiling": {"max_bad_rate": max_bad_rate, "beta": beta}}}
    return {
        "errors": gate | {"alpha_share_pct": 35},
        "non_finite": gate | {"alpha_share_pct": 10},
        "rejected": {"alpha_share_pct": 10, "rho": rho},
        "decisions": {"alpha_share_pct": 10, "rho": 1.5},
        "latency": {"alpha_share_pct": 15, "rho": rho},
        "labels": {"alpha_share_pct": 15, "rho": rho},
        "business": None,
        "scores": {},
    }


DEFAULTS: Final[Mapping[Tier, Mapping[str, Any]]] = MappingProxyType(
    {
        Tier.LOW: {
            "shadow": {"pairs": 1_000, "max_flip_rate": 0.2, "max_latency_ratio": 1.5, "maximum_s": DAY_S},
            "steps": _steps((500, 300), (2_500, 300), (5_000, 600)),
            "metrics": _metrics(0.005, 0.05, 1.1),
            "maximum_s": 3 * DAY_S,
            "at_maximum": "back",
            "holdback": {"share_bps": 100, "maximum_s": 7 * DAY_S},
        },
        Tier.STANDARD: {
            "shadow": {"pairs": 10_000, "max_flip_rate": 0.1, "max_latency_ratio": 1.2, "maximum_s": 3 * DAY_S},
            "steps": _steps((100, 600), (500, 900), (2_500, 1_800), (5_000, HOUR_S)),
            "metrics": _metrics(0.005, 0.05, 1.1),
            "maximum_s": 7 * DAY_S,
            "at_maximum": "back",
            "holdback": {"share_bps": 100, "maximum_s": 14 * DAY_S},
        },
        Tier.REGULATED: {
            "shadow": {"pairs": 10_000, "max_flip_rate": 0.05, "max_latency_ratio": 1.2, "maximum_s": 7 * DAY_S},
            "steps": _steps((100, HOUR_S), (500, 4 * HOUR_S), (2_500, DAY_S), (5_000, DAY_S)),
            "metrics": _metrics(0.002, 0.01, 1.0),
            "maximum_s": 14 * DAY_S,
            "at_maximum": "hold",
            "holdback": {"share_bps": 200, "maximum_s": 28 * DAY_S},
        },
    }
)
"""What holds per tier where a policy says nothing. 1 % catches catastrophes, and evidence of safety costs three to four
times as many events at 5 % as at 25 %, so no step lingers at a small weight."""

BAD_EVENTS: Final[Mapping[Metric, Mapping[Task, str]]] = MappingProxyType(
    {
        Metric.ERRORS: dict.fromkeys(Task, "the version failed or timed out on the row"),
        Metric.NON_FINITE: dict.fromkeys(Task, "the score is NaN or infinite"),
        Metric.REJECTED: dict.fromkeys(Task, "the version refused the row"),
        Metric.DECISIONS: dict.fromkeys((Task.BINARY, Task.REGRESSION, Task.ANOMALY), "the decision is `hit`"),
        Metric.LATENCY: dict.fromkeys(Task, "the mirrored run lasted longer than the threshold"),
        Metric.LABELS: {
            Task.BINARY: "the label is not what was decided (without a decision: not on the score's side of 0.5)",
            Task.MULTICLASS: "the label is not the one with the highest score",
            Task.REGRESSION: "the score is further than `error_above` from the label",
            Task.RANKING: "the label is not among those that were listed",
            Task.ANOMALY: "the label is not what was decided",
        },
        Metric.BUSINESS: dict.fromkeys(Task, "the figure `kpi` of the outcome is under `bad_below`"),
        Metric.SCORES: dict.fromkeys(Task, "none: the bins of all first scored rows are compared"),
    }
)
"""What one bad event is, by what the score means; a metric has no sense for a task that is not listed."""


def default_policy(document: ModelDocument) -> Policy:
    """The policy of a model of which nobody said anything."""
    return Policy.model_validate(_defaults(document))


def read_policy(text: str, document: ModelDocument) -> Policy:
    """Reads policy.yaml for that model; raises Fault naming the key (and line) of what is wrong."""
    policy = read(text, Policy, WHAT, lambda given: completed(_defaults(document), given))
    for key, problem in _misfits(policy, document):
        raise Fault(Reason.DOCUMENT_INVALID, f"{WHAT}: {key}: {problem}", key=key)
    return policy


def completed(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given, with defaults for the rest. What a gate must show is one choice, and replaced as a whole."""
    found = dict(defaults)
    for key, value in given.items():
        old = found.get(key)
        both = isinstance(value, dict) and isinstance(old, dict) and key != "advance"
        found[key] = completed(dict(old or {}), value) if both else value
    if given.get("role") == "guard" and "advance" not in given:
        found.pop("advance", None)
    return found


def _defaults(document: ModelDocument) -> dict[str, Any]:
    defaults = dict(DEFAULTS[document.tier])
    unit = Unit.ENTITY if document.entities else Unit.REQUEST
    counted = {**defaults["metrics"]}
    for name, value in counted.items():
        if _senseless(Metric(name), document):
            counted[name] = None
        elif value is not None and name not in (Metric.LATENCY, Metric.SCORES):
            counted[name] = value | {"unit": unit.value}
    return defaults | {"metrics": counted}


def _senseless(metric: Metric, document: ModelDocument) -> str | None:
    """Why the metric cannot be counted for this model; None where it can."""
    if document.task not in BAD_EVENTS[metric]:
        return f"has no sense for a {document.task} model"
    if metric is Metric.DECISIONS and document.decision.kind == "none":
        return "the model document has no decision"
    if metric in (Metric.LABELS, Metric.BUSINESS) and document.outcome is None:
        return "the model document has no outcome"
    if metric is Metric.LABELS and document.task is Task.ANOMALY and document.decision.kind == "none":
        return "the model document has no decision that a label could contradict"
    return None


def _misfits(policy: Policy, document: ModelDocument) -> Iterator[tuple[str, str]]:
    """Where a policy contradicts the model that it is for: keys, and what to do."""
    unit = Unit.ENTITY if document.entities else Unit.REQUEST
    for metric, bad in policy.metrics.bad():
        if problem := _senseless(metric, document):
            yield f"metrics.{metric}", f"{problem}; leave it out, or write `null`"
        if bad.unit is not unit:
            why = "the arm sticks to the entity" if document.entities else "the model has no entity"
            yield f"metrics.{metric}.unit", f"must be `{unit}`, because {why}"
    labels = policy.metrics.labels
    if labels is not None and document.task is Task.REGRESSION and labels.error_above is None:
        yield "metrics.labels.error_above", "say beyond which absolute error a regression's score is a mistake"
