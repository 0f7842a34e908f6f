"""What mirrors saw of a challenger, in lines of text. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from control.cli.rollout_lines import Line

MOST_SEGMENTS: Final = 5
"""Segments that are named: those whose decisions differ most."""
LEAST_PAIRS: Final = 30
"""Pairs without which a segment's share means nothing."""


def mirror_lines(by_gateway: Mapping[str, Mapping[str, Any]]) -> list[Line]:
    """The comparison on identical rows, gateway by gateway."""
    return [Line(words) for name, report in by_gateway.items() if report for words in _gateway(name, report)]


def _gateway(name: str, report: Mapping[str, Any]) -> Iterator[str]:
    failed = f"{report['exceptions']:,} exceptions, {report['non_finite']:,} not finite"
    yield f"{name}: {report['pairs']:,} pairs, {failed}, {report['dropped']:,} dropped"
    if not report["pairs"]:
        return
    flips = report["flips_up"] + report["flips_down"]
    share = f"{flips / report['pairs']:.2%} decided otherwise"
    yield f"  {share}: {report['flips_up']:,} up, {report['flips_down']:,} down"
    figures = report["figures_json"]
    if "mean_absolute_difference" in figures:
        mean, tail = figures["mean_absolute_difference"], figures["p99_absolute_difference"]
        signed = f"{figures['mean_difference']:+.3g} with their signs"
        yield f"  scores differ by {mean:.3g} on average ({signed}), {tail:.3g} at p99; {_likeness(figures)}"
    if report["other_p99_ns"]:
        ratio = report["shadow_p99_ns"] / report["other_p99_ns"]
        times = f"{report['shadow_p99_ns'] / 1e6:.3g} ms, the control's {report['other_p99_ns'] / 1e6:.3g} ms"
        yield f"  a run's p99 is {times}: {ratio:.2f} times"
    yield from _segments(figures.get("segments", {}))


def _likeness(figures: Mapping[str, Any]) -> str:
    correlation = figures.get("correlation")
    alike = "no correlation can be given" if correlation is None else f"correlation {correlation:.4f}"
    moved = figures.get("score_psi")
    return alike if moved is None else f"{alike}, population stability index {moved:.3g}"


def _segments(segments: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Iterator[str]:
    found = [
        ((one["flips_up"] + one["flips_down"]) / one["pairs"], f"{column}={value}", one["pairs"])
        for column, values in segments.items()
        for value, one in values.items()
        if one["pairs"] >= LEAST_PAIRS
    ]
    for share, name, pairs in sorted(found, reverse=True)[:MOST_SEGMENTS]:
        yield f"  {name}: {share:.2%} of {pairs:,} decided otherwise"
