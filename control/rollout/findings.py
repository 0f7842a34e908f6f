"""The tests of one case: from integers to e-values beside their thresholds. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from control.rollout.case import Case, Evidence, Finding, Phase, StepCounts
from control.rollout.policy import Bad, Metric, Policy
from gateway.contract import ceiling, distribution
from gateway.contract.alone import bad_event_evidence, central_alpha
from gateway.contract.evidence import Arms, reached, safety, threshold, total


def harms(policy: Policy, case: Case) -> Iterator[Finding]:
    """What may send the challenger back, each at the control plane's half of its metric's alpha.

    A metric has one alpha for the whole rollout: labels, which are judged in pairs in shadow and by arms afterwards,
    two tests with different clocks, have half of it for each.
    """
    evidence, metrics = case.evidence, policy.metrics
    for metric, bad in metrics.bad():
        alpha = central_alpha(policy.alpha_of(bad.alpha_share_pct))
        if metric is Metric.LABELS:
            alpha /= 2
            yield _finding(
                metric, "harm", distribution.paired(*evidence.mistaken_alone), alpha, evidence.mistaken_alone
            )
        counts = evidence.first_bad.get(metric, {})
        if case.phase is not Phase.SHADOW:
            found = bad_event_evidence(counts, bad.rho, metric is Metric.DECISIONS)
            yield _finding(metric, "harm", found, alpha, total(counts))
    if metrics.latency is not None:
        alpha = central_alpha(policy.alpha_of(metrics.latency.alpha_share_pct))
        found = distribution.latency(evidence.slow_runs, metrics.latency.rho)
        yield _finding(Metric.LATENCY, "harm", found, alpha, _worst(evidence))


def told_alike(policy: Policy, case: Case) -> Iterator[Finding]:
    """Whether outcomes were told of both arms by the shares that the arms have; where not, they prove nothing.

    The router's self-test, on units with an outcome: under "the arm does not change whether one hears of an entity",
    their arm is the draw's.
    """
    for metric, counts in case.evidence.told.items():
        found = distribution.sample_ratio(counts)
        yield _finding(metric, "ratio", found, policy.router_alpha, total(counts))


def proofs(policy: Policy, case: Case) -> Iterator[Finding]:
    """What each gate has to show before the step may end."""
    for metric, bad in policy.gates():
        yield _proof(metric, bad, case.evidence.step.get(metric, StepCounts()))


def router(policy: Policy, case: Case) -> Finding:
    """Whether the arms have the shares that they should."""
    found = distribution.sample_ratio(case.evidence.assigned)
    return _finding("router", "ratio", found, policy.router_alpha, total(case.evidence.assigned))


def shift(policy: Policy, case: Case) -> Finding | None:
    """Whether the scores' distribution moved; None where it is not watched."""
    if policy.metrics.scores is None or not case.evidence.score_bins:
        return None
    found = distribution.shift(case.evidence.score_bins)
    counts = [total(counts) for counts in case.evidence.score_bins]
    both = Arms(sum(arms.challenger for arms in counts), sum(arms.champion for arms in counts))
    return _finding(Metric.SCORES, "shift", found, policy.metrics.scores.alpha, both)


def _proof(metric: Metric, bad: Bad, counts: StepCounts) -> Finding:
    rule = bad.advance
    if rule is not None and rule.relative is not None:
        value = safety(counts.bad, rule.relative.margin)
        return _finding(metric, "relative", value, rule.relative.beta, total(counts.bad))
    if rule is not None and rule.ceiling is not None:
        rows, wrong = total(counts.scored).challenger, total(counts.bad).challenger
        value = ceiling.below(rows, wrong, rule.ceiling.max_bad_rate)
        return _finding(metric, "ceiling", value, rule.ceiling.beta, Arms(wrong, rows))
    raise ValueError(f"{metric} is no gate")  # a policy with such a gate does not validate


def _finding(metric: Metric | str, test: str, log_e: float, alpha: float, counts: Arms) -> Finding:
    return Finding.model_validate(
        {
            "metric": metric,
            "test": test,
            "log_e": log_e,
            "threshold": threshold(alpha),
            "reached": reached(log_e, alpha),
            "counts": counts,
        }
    )


def _worst(evidence: Evidence) -> Arms:
    """The threshold that speaks most against the challenger, for people."""
    return max(evidence.slow_runs, key=lambda arms: (arms.challenger - arms.champion, arms.challenger), default=Arms())
