"""The reference profile: what inputs and scores looked like when a version was made, to compare with later. Pure.

Deciles and shares, no rows, and no text that few rows have: nothing of it leads back to an entity.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

FORMAT: Final = 1
LINEAGE: Final = "reference_profile"
"""The name under which a version's lineage has it."""
DECILES: Final = 10
MOST_VALUES: Final = 50
RARE: Final = 5
"""Texts that fewer rows have are counted, and not named."""
WHOLE_BPS: Final = 10_000


def make_profile(features: Mapping[str, Sequence[Any]], scores: Mapping[str, Sequence[float]]) -> str:
    """Canonical JSON. A feature's missing values are None; those of a text or boolean are counted, numbers cut in ten.

    `scores` has one column per label, or one called `score`.
    """
    content = {
        "format": FORMAT,
        "rows": max((len(values) for values in features.values()), default=0),
        "features": {name: _feature(values) for name, values in features.items()},
        "scores": {name: {"deciles": deciles(values)} for name, values in scores.items()},
    }
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def deciles(values: Sequence[float]) -> list[float]:
    """Eleven numbers: the least, the nine between, the largest; of finite values only, none where there are none."""
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return []
    cuts: list[float] = np.quantile(finite, np.linspace(0, 1, DECILES + 1)).tolist()
    return cuts


def _feature(values: Sequence[Any]) -> dict[str, Any]:
    present = [value for value in values if value is not None]
    missing_bps = round(WHOLE_BPS * (len(values) - len(present)) / max(1, len(values)))
    if any(isinstance(value, str | bool) for value in present):
        counted = Counter(str(value).lower() if isinstance(value, bool) else str(value) for value in present)
        named = [(value, count) for value, count in counted.items() if count >= RARE]
        common = sorted(named, key=lambda item: (-item[1], item[0]))[:MOST_VALUES]
        shares = {value: round(WHOLE_BPS * count / len(present)) for value, count in common}
        return {"missing_bps": missing_bps, "distinct": len(counted), "shares_bps": shares}
    return {"missing_bps": missing_bps, "deciles": deciles(present)}
