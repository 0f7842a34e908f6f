"""The mirror: what shadows say of the bytes that callers were answered by, and what misbehaving ones do to nobody."""

from __future__ import annotations

from pathlib import Path

from tests.gateway import tiny
from tests.gateway.mirroring import GOOD, Mirroring, shadow, shadowed

CHAMPION = tiny.version(1)


def test_the_same_model_says_the_same_of_the_same_bytes(tmp_path: Path) -> None:
    """Correlation 1, no difference, no flips, whichever way the rows came: alone or in a batch."""
    twin = CHAMPION._replace(number=2)
    here = Mirroring(tmp_path / "gateway", shadowed(shadow(9, twin)), CHAMPION, twin)
    with here.mirror(9):
        for key in GOOD[:40]:
            here.score([key])
        here.score(GOOD[40:])
        report = here.once(9, pairs=len(GOOD))
        figures = here.figures(9)
    assert (report["pairs"], report["dropped"], report["exceptions"], report["non_finite"]) == (len(GOOD), 0, 0, 0)
    assert figures["correlation"] > 1 - 1e-12
    assert (figures["mean_absolute_difference"], figures["p99_absolute_difference"]) == (0, 0)
    assert min(report["shadow_p99_ns"], report["other_p99_ns"]) > 0
