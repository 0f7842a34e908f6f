"""A rollout in lines of text: where it stands, its tests as small charts, its policy, and the next command. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from control.rollout.policy import Bad, Policy
    from control.v1 import rollout_pb2

NS: Final = 1_000_000_000
BAR_CELLS: Final = 16
EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
SPARKS: Final = "▁▂▃▄▅▆▇█"
SIGNS: Final[Mapping[str, str]] = MappingProxyType({"hold": "HOLD", "advance": "ADVANCE", "roll_back": "ROLL BACK"})
QUESTIONS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "harm": ("harm", "rolls back"),
        "relative": ("no worse", "passed"),
        "ceiling": ("under ceiling", "passed"),
        "shift": ("other scores", "alert"),
        "ratio": ("wrong shares", "nothing counts"),
    }
)
"""By the kind of a test: what it gathers evidence of, and what it means that there is enough."""
GATES: Final = ("relative", "ceiling")


class Line(NamedTuple):
    """A line, and how it looks where there are colours."""

    words: str
    style: str = ""


TestKey = tuple[str, str, int]
"""A test among a rollout's: its metric, its kind, and which of those that have both."""
Courses = Mapping[TestKey, Sequence[float]]
"""How far each test had come at each look: 1 where it reached its threshold."""


def subject(rollout: rollout_pb2.Rollout) -> str:
    """The version on trial, as people write it."""
    return f"{rollout.model}/{rollout.challenger}"


def headline(rollout: rollout_pb2.Rollout) -> str:
    """Who is tried, against whom, and where that stands."""
    return f"{subject(rollout)} against {rollout.model}/{rollout.control}: {place(rollout)}"


def place(rollout: rollout_pb2.Rollout) -> str:
    """Where a rollout stands, in a few words."""
    paused = ", paused" if rollout.paused else ""
    forced = ", promoted without evidence" if rollout.without_evidence else ""
    match rollout.phase:
        case "shadow":
            return f"shadow{', for comparison only' if rollout.shadow_only else ''}{paused}"
        case "canary":
            step = f"step {rollout.step} of {len(rollout.weights_bps)}"
            return f"canary at {percent(rollout.weight_bps)}, {step}{paused}"
        case "holdback":
            return f"promoted to {percent(rollout.weight_bps)}, holdback{forced}{paused}"
    return f"{rollout.outcome.replace('_', ' ')}{forced}"


def describe(
    answer: rollout_pb2.GetRolloutResponse, now_ns: int, courses: Courses = MappingProxyType({})
) -> list[Line]:
    """The rollout as `show` and `watch` say it: stage, times, last judgement, tests."""
    from control.rollout.policy import Policy

    rollout, policy = answer.rollout, Policy.model_validate_json(answer.policy_json)
    lines = [
        Line(headline(rollout), "bold" if not rollout.outcome else _colour(rollout)),
        Line(ladder(rollout, policy)),
    ]
    lines += [Line(times(rollout, policy, now_ns))]
    lines += judged(rollout)
    if rollout.findings:
        lines += [Line(""), *charts(rollout.findings, courses)]
    return lines


def ladder(rollout: rollout_pb2.Rollout, policy: Policy) -> str:
    """The stages of the policy in order, with a mark at the present one."""
    stages = ["shadow"] if policy.shadow is not None else []
    if not rollout.shadow_only:
        stages += [percent(weight) for weight in rollout.weights_bps]
        stages += [percent(10_000 - policy.holdback.share_bps) if policy.holdback else "full"]
    here, sign = _index(rollout, len(stages), policy.shadow is not None), "✗" if rollout.outcome else "▶"
    marks = (
        f"{sign} {stage}" if at == here else f"{stage} ✓" if at < here else stage for at, stage in enumerate(stages)
    )
    return "  →  ".join(marks)


def _index(rollout: rollout_pb2.Rollout, count: int, has_shadow: bool) -> int:
    """The place of the present stage, or of the last one before it went back; of a good end, one beyond all."""
    if rollout.outcome in ("promoted", "shadowed", "superseded"):
        return count
    if rollout.step:
        return rollout.step - 1 + has_shadow
    return {"shadow": 0, "holdback": count - 1}.get(rollout.phase, -1)


def times(rollout: rollout_pb2.Rollout, policy: Policy, now_ns: int) -> str:
    """How long it has been where it is, beside what the policy allows."""
    if rollout.outcome:
        return f"ended after {length(rollout.ended_ns - rollout.started_ns)}, begun by {rollout.started_by}"
    limits = {
        "shadow": policy.shadow.maximum_s if policy.shadow else 0,
        "canary": policy.maximum_s,
        "holdback": policy.holdback.maximum_s if policy.holdback else 0,
    }
    spent = (
        f"{length(now_ns - rollout.phase_since_ns)} in {rollout.phase} of at most {length(limits[rollout.phase] * NS)}"
    )
    if rollout.phase == "canary":
        least = policy.steps[rollout.step - 1].minimum_s
        at_least = f" of at least {length(least * NS)}" if least else ""
        spent = f"{length(now_ns - rollout.step_since_ns)} in this step{at_least}; {spent}"
    return f"{spent}; begun by {rollout.started_by}"


def judged(rollout: rollout_pb2.Rollout) -> list[Line]:
    """The last judgement's words, or the end's, and what people should know."""
    if rollout.outcome:
        return [Line(rollout.reason, _colour(rollout))] if rollout.reason else []
    if not rollout.verdict:
        return [Line("not judged yet since the control plane started", "dim")]
    style = "yellow" if rollout.needs_person else ""
    lines = [Line(f"{SIGNS.get(rollout.verdict, rollout.verdict)}: {rollout.reason}", style)]
    return lines + [Line(f"ALERT: {words}", "red") for words in rollout.alerts]


def charts(findings: Sequence[rollout_pb2.Finding], courses: Courses) -> list[Line]:
    """Each test's e-value beside its threshold, as figures and as a bar, with its course where it was watched."""
    metric = max(len(found.metric) for found in findings)
    head = f"{'test':<{metric}}  {'evidence of':<14}  {'e-value':>9} / {'needed':<7}  {'':<{BAR_CELLS + 2}}  counts"
    return [Line(head, "dim"), *(_test(found, key, metric, courses) for key, found in keyed(findings))]


def _test(found: rollout_pb2.Finding, key: TestKey, width: int, courses: Courses) -> Line:
    question, answer = QUESTIONS[found.test]
    if found.metric == "labels":
        question += ", in pairs" if key[2] == 1 else ", by arms"
    figures = f"{e_value(found.log_e):>9} / {e_value(found.threshold):<7}"
    words = f"{found.metric:<{width}}  {question:<14}  {figures}  {bar(progress(found))}  {counts(found)}"
    course = f"  {spark(courses[key])}" if key in courses else ""
    style = ("green" if found.test in GATES else "red") if found.reached else ""
    return Line(f"{words}{course}{f'  {answer}' if found.reached else ''}", style)


def keyed(findings: Sequence[rollout_pb2.Finding]) -> Iterator[tuple[TestKey, rollout_pb2.Finding]]:
    """The tests with their keys."""
    seen: dict[tuple[str, str], int] = {}
    for found in findings:
        name = (found.metric, found.test)
        seen[name] = seen.get(name, 0) + 1
        yield (*name, seen[name]), found


def progress(found: rollout_pb2.Finding) -> float:
    """How far a test has come, from 0 to 1 at its threshold, on the scale on which evidence adds up."""
    return min(max(found.log_e / found.threshold, 0.0), 1.0)


def counts(found: rollout_pb2.Finding) -> str:
    """What the test counted."""
    if found.test == "ceiling":
        return f"{found.challenger:,} bad of {found.control:,}"
    if found.test in ("ratio", "shift"):
        return f"{found.challenger:,} challenger, {found.control:,} control"
    return f"{found.challenger:,} bad, control {found.control:,}"


def bar(share: float) -> str:
    """A share of 0 to 1 in blocks; only a whole one fills the bar."""
    eighths = math.floor(share * BAR_CELLS * 8)
    full, rest = divmod(eighths, 8)
    return f"▕{('█' * full + EIGHTHS[rest])[:BAR_CELLS].ljust(BAR_CELLS)}▏"


def spark(course: Sequence[float]) -> str:
    """The course of a share, a sign per look."""
    return "".join(SPARKS[min(int(share * len(SPARKS)), len(SPARKS) - 1)] for share in course)


def e_value(log_e: float) -> str:
    """An e-value: how many to one the evidence stands."""
    if not -7 < log_e < 12:
        return f"10^{log_e / math.log(10):.1f}"
    value = math.exp(log_e)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def percent(bps: int) -> str:
    """A share of the traffic."""
    return f"{bps / 100:g} %"


def length(span_ns: int) -> str:
    """A duration in its two largest units."""
    seconds = max(span_ns, 0) // NS
    for name, size, lesser, smaller in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= size:
            rest = seconds % size // smaller
            return f"{seconds // size} {name}" + (f" {rest} {lesser}" if rest else "")
    return f"{seconds} s"


def policy_lines(policy: Policy) -> list[Line]:
    """The promise, a line for each part."""
    slots = f"{policy.gateway_slots} gateway{'s' if policy.gateway_slots > 1 else ''}"
    lines = [Line(f"alpha {policy.alpha:g} in all: half for the control plane, half shared by up to {slots}")]
    if (shadow := policy.shadow) is not None:
        ratio = f"p99 at most {shadow.max_latency_ratio:g} times the control's"
        limits = f"flips under {shadow.max_flip_rate * 100:g} %, {ratio}"
        lines += [
            Line(f"shadow      {shadow.pairs:,} pairs, {shadow.max_exceptions:,} exceptions allowed, {limits}"),
            Line(f"            at most {length(shadow.maximum_s * NS)}"),
        ]
    steps = ", ".join(f"{percent(step.weight_bps)} for {length(step.minimum_s * NS)}" for step in policy.steps)
    lines += [Line(f"steps       {steps} at least"), *(Line(words) for words in _metrics(policy))]
    lines += [Line(f"maximum     {length(policy.maximum_s * NS)} of canary, then `{policy.at_maximum}`")]
    if (held := policy.holdback) is not None:
        lines += [Line(f"holdback    {percent(held.share_bps)} for {length(held.maximum_s * NS)}")]
    return lines


def _metrics(policy: Policy) -> Iterator[str]:
    for metric, bad in policy.metrics.bad():
        yield f"{metric:<12}{bad.role}, {bad.alpha_share_pct} % of alpha, harm beyond {bad.rho:g} times{_rule(bad)}"
    if (latency := policy.metrics.latency) is not None:
        yield f"latency     guard, {latency.alpha_share_pct} % of alpha, harm beyond {latency.rho:g} times"
    if policy.metrics.scores is not None:
        yield f"scores      alert at {policy.metrics.scores.alpha:g}"


def _rule(bad: Bad) -> str:
    if bad.advance is None:
        return ""
    if (ceiling := bad.advance.ceiling) is not None:
        return f"; passes under a ceiling of {ceiling.max_bad_rate * 100:g} % (beta {ceiling.beta:g})"
    relative = bad.advance.relative
    return f"; passes under {relative.margin:g} times (beta {relative.beta:g})" if relative is not None else ""


def next_command(rollout: rollout_pb2.Rollout) -> str:
    """What takes this rollout further, or what there is to see of it."""
    model, trial = rollout.model, f"{rollout.model} {rollout.challenger}"
    if rollout.outcome:
        after = {"shadowed": f"rollout start {trial}", "promoted": f"status {model}"}
        return f"interlock {after.get(rollout.outcome, f'model history {model}')}"
    if rollout.without_evidence and rollout.alerts:
        return f"interlock rollback {model} --reason WHY"
    if rollout.paused:
        return f"interlock rollout resume {model}"
    back = f"interlock rollout rollback {model} --reason WHY"
    steps = {
        "unapproved": f"interlock approval approve {subject(rollout)}",
        "time_is_up": f"interlock rollout promote {model} --reason WHY, or {back}",
        "router": back,
    }
    watched = rollout.rollout_id if rollout.shadow_only else model
    longer = " --holdback" if rollout.phase == "holdback" else ""
    return steps.get(rollout.cause, f"interlock rollout watch {watched}{longer}")


def _colour(rollout: rollout_pb2.Rollout) -> str:
    return "red" if rollout.outcome in ("rolled_back", "quarantined") else "green"
