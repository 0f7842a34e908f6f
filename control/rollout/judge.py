"""The verdict: ADVANCE, HOLD or ROLL_BACK, with its reason. Pure: no clock, no state; the same arguments always give
the same judgement, so that `interlock rollout replay` makes any of them again from the audit trail.

Not measured is not healthy: without evidence the answer is HOLD, and when time is up the policy says what happens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from control.rollout.case import Case, Cause, Finding, Judgement, Phase, Verdict
from control.rollout.findings import harms, proofs, router, shift, told_alike
from control.rollout.policy import AtMaximum, Policy, Shadow
from gateway.contract.ceiling import upper_bound

SECOND_NS: Final = 1_000_000_000
FLIP_BETA: Final = 0.05
"""Probability with which the bound of the flip rate may ever be wrong."""


class _Answer(NamedTuple):
    verdict: Verdict
    cause: Cause
    sentence: str
    needs_person: bool = False


def judge(policy: Policy, case: Case) -> Judgement:
    """Judges one rollout. The first that applies decides: a broken router, harm, time, what keeps it, proof."""
    self_test, told = router(policy, case), list(told_alike(policy, case))
    unreliable = {finding.metric for finding in told if finding.reached}
    against = list(harms(policy, case))
    counted = [finding for finding in against if finding.metric not in unreliable]
    gates = [
        finding.model_copy(update={"reached": finding.reached and finding.metric not in unreliable})
        for finding in (proofs(policy, case) if case.phase is Phase.CANARY else ())
    ]
    moved = shift(policy, case)
    answer = (
        (None if case.phase is Phase.SHADOW else _broken_router(policy, case, self_test))
        or _harmed(case, counted)
        or _ended(policy, case)
        or _kept(case)
        or _next_move(policy, case, gates)
    )
    alerts = [_alert(finding) for finding in [moved] if finding is not None and finding.reached]
    alerts += [_unreliable(finding) for finding in told if finding.reached]
    if case.flags.without_evidence:
        alerts += [_harm_sentence(finding) for finding in counted if finding.reached]
    return Judgement(
        verdict=answer.verdict,
        cause=answer.cause,
        sentence=answer.sentence,
        needs_person=answer.needs_person,
        alerts=tuple(alerts),
        findings=(self_test, *told, *against, *gates, *([moved] if moved else [])),
    )


def _broken_router(policy: Policy, case: Case, self_test: Finding) -> _Answer | None:
    """Evidence rests on the draw of the arm; where that is broken, none of it means anything."""
    if not self_test.reached:
        return None
    if time_is_up := _time_is_up(policy, case):
        return time_is_up
    challenger, champion = self_test.counts
    sentence = (
        f"The arms do not have the shares that they were drawn with ({challenger:,} challenger, {champion:,} champion; "
        f"{_odds(self_test.log_e)} against the router): no evidence counts. Roll back by hand, or find out why."
    )
    return _Answer(Verdict.HOLD, Cause.ROUTER, sentence, needs_person=True)


def _harmed(case: Case, against: Sequence[Finding]) -> _Answer | None:
    found = [finding for finding in against if finding.reached]
    if not found or case.flags.without_evidence:
        return None
    worst = max(found, key=lambda finding: finding.log_e - finding.threshold)
    return _Answer(Verdict.ROLL_BACK, Cause.HARM, _harm_sentence(worst))


def _ended(policy: Policy, case: Case) -> _Answer | None:
    """What is decided whatever the evidence for the challenger: too many exceptions, or no time left."""
    if case.phase is Phase.SHADOW and policy.shadow is not None:
        exceptions, allowed = case.shadow.exceptions, policy.shadow.max_exceptions
        if exceptions > allowed:
            sentence = (
                f"The challenger failed on {exceptions:,} of {case.shadow.pairs:,} mirrored rows that the champion "
                f"could score; {allowed:,} are allowed."
            )
            return _Answer(Verdict.ROLL_BACK, Cause.EXCEPTIONS, sentence)
    return _time_is_up(policy, case)


def _time_is_up(policy: Policy, case: Case) -> _Answer | None:
    limit_s = _maximum_s(policy, case.phase)
    if limit_s is None or case.elapsed_ns < limit_s * SECOND_NS:
        return None
    if case.phase is Phase.HOLDBACK:
        return _Answer(Verdict.ADVANCE, Cause.ENDED, f"The holdback ends after its {_duration(limit_s)}.")
    where = "shadow" if case.phase is Phase.SHADOW else "canary"
    if policy.at_maximum is AtMaximum.BACK:
        sentence = f"The {where} did not show enough within its {_duration(limit_s)}, and the policy says back."
        return _Answer(Verdict.ROLL_BACK, Cause.TIME_IS_UP, sentence)
    sentence = f"The {where} did not show enough within its {_duration(limit_s)}: a person decides now."
    return _Answer(Verdict.HOLD, Cause.TIME_IS_UP, sentence, needs_person=True)


def _kept(case: Case) -> _Answer | None:
    """What keeps a rollout from advancing, but never from going back."""
    flags = case.flags
    if flags.paused:
        return _Answer(Verdict.HOLD, Cause.PAUSED, "Paused by a person; evidence against it still counts.", True)
    if flags.lost_rows:
        sentence = (
            f"{flags.lost_rows:,} journal rows of this step were overwritten unread, so nothing is proven by it; "
            "`interlock rollout pause` and then `interlock rollout resume` go on with what is left."
        )
        return _Answer(Verdict.HOLD, Cause.UNMEASURED, sentence, needs_person=True)
    if flags.unwatched:
        sentence = f"No evidence comes from {', '.join(flags.unwatched)}, which serves the challenger."
        return _Answer(Verdict.HOLD, Cause.UNMEASURED, sentence)
    return None


def _next_move(policy: Policy, case: Case, gates: Sequence[Finding]) -> _Answer:
    match case.phase:
        case Phase.SHADOW:
            missing = _shadow_missing(policy.shadow, case) if policy.shadow is not None else None
            proven = "The shadow met its exit rule"
        case Phase.CANARY:
            missing = _too_early(policy, case) or _unproven(gates)
            proven = "; ".join(map(_gate_sentence, gates))
        case Phase.HOLDBACK:
            return _Answer(Verdict.HOLD, Cause.TOO_EARLY, "Promoted; the holdback goes on comparing.")
    if missing is not None:
        return missing
    if not case.approved:
        sentence = f"{proven}. What comes next is not approved yet."
        return _Answer(Verdict.HOLD, Cause.UNAPPROVED, sentence, needs_person=True)
    return _Answer(Verdict.ADVANCE, Cause.PROVEN, f"{proven}.")


def _shadow_missing(rule: Shadow, case: Case) -> _Answer | None:
    report = case.shadow
    if report.pairs < rule.pairs:
        sentence = f"{report.pairs:,} of {rule.pairs:,} pairs are there."
        return _Answer(Verdict.HOLD, Cause.UNPROVEN if report.pairs else Cause.UNMEASURED, sentence)
    bound = upper_bound(report.pairs, report.flips, FLIP_BETA)
    if bound >= rule.max_flip_rate and rule.max_flip_rate < 1:
        sentence = (
            f"{report.flips:,} of {report.pairs:,} decisions flipped, so the rate may be as high as {bound:.2%}; "
            f"under {rule.max_flip_rate:.2%} is asked for."
        )
        return _Answer(Verdict.HOLD, Cause.UNPROVEN, sentence)
    if not report.champion_p99_ns:
        return _Answer(Verdict.HOLD, Cause.UNMEASURED, "Nothing is known of latency in the mirror.")
    ratio = report.challenger_p99_ns / report.champion_p99_ns
    if ratio > rule.max_latency_ratio:
        sentence = f"The challenger's p99 is {ratio:.2f} times the champion's; {rule.max_latency_ratio:g} is allowed."
        return _Answer(Verdict.HOLD, Cause.UNPROVEN, sentence)
    return None


def _too_early(policy: Policy, case: Case) -> _Answer | None:
    minimum_s = policy.steps[case.step].minimum_s
    if case.step_elapsed_ns >= minimum_s * SECOND_NS:
        return None
    spent = _duration(case.step_elapsed_ns // SECOND_NS)
    return _Answer(Verdict.HOLD, Cause.TOO_EARLY, f"{spent} of the step's {_duration(minimum_s)} have passed.")


def _unproven(gates: Sequence[Finding]) -> _Answer | None:
    missing = [finding for finding in gates if not finding.reached]
    if not missing:
        return None
    unseen = all(finding.counts == (0, 0) for finding in missing)
    cause = Cause.UNMEASURED if unseen else Cause.UNPROVEN
    return _Answer(Verdict.HOLD, cause, "Not shown yet: " + "; ".join(map(_gate_sentence, missing)) + ".")


def _maximum_s(policy: Policy, phase: Phase) -> int | None:
    match phase:
        case Phase.SHADOW:
            return policy.shadow.maximum_s if policy.shadow else None
        case Phase.CANARY:
            return policy.maximum_s
        case Phase.HOLDBACK:
            return policy.holdback.maximum_s if policy.holdback else 0


def _harm_sentence(finding: Finding) -> str:
    challenger, champion = finding.counts
    return (
        f"{finding.metric}: {challenger:,} in the challenger and {champion:,} in the champion; that is "
        f"{_odds(finding.log_e)} against a sound version, and {_odds(finding.threshold)} suffices."
    )


def _gate_sentence(finding: Finding) -> str:
    if finding.test == "ceiling":
        counts = f"{finding.counts[0]:,} bad of the challenger's {finding.counts[1]:,}"
    else:
        counts = f"{finding.counts[0]:,} bad in the challenger, {finding.counts[1]:,} in the champion"
    return f"{finding.metric}: {counts} ({_odds(finding.log_e)} for safety, {_odds(finding.threshold)} needed)"


def _unreliable(finding: Finding) -> str:
    challenger, champion = finding.counts
    return (
        f"{finding.metric}: outcomes are told of {challenger:,} units in the challenger and {champion:,} in the "
        f"champion, which is not how they were assigned ({_odds(finding.log_e)} against it): they prove nothing until "
        "all are told."
    )


def _alert(finding: Finding) -> str:
    return f"The distribution of scores differs between the arms ({_odds(finding.log_e)} against equality)."


def _odds(log_e: float) -> str:
    if log_e > 30:
        return f"10^{log_e / math.log(10):.0f} to 1"
    value = math.exp(log_e)
    return f"{value:,.0f} to 1" if value >= 10 else f"{value:.1f} to 1"


def _duration(seconds: int) -> str:
    for size, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size} {name}"
    return f"{seconds:,} s"
