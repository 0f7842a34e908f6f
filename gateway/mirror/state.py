"""The mirror's durable state: the figures of each rollout, and how far the journals were read for them."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from gateway.artifacts import replace_durably
from gateway.journal_reader import Position
from gateway.mirror.compare import Comparison
from gateway.telemetry import log

FORMAT: Final = 1
RECENT_NS: Final = 60_000_000_000
"""How old positions may be to be gone on from; the journals since an older one are too much to catch up with."""


class State(NamedTuple):
    """What an earlier mirror kept."""

    comparisons: dict[int, Comparison]
    """By rollout."""
    positions: dict[str, Any]
    recent: bool
    """Whether the positions are to be gone on from."""


NOTHING: Final = State({}, {}, recent=False)


def recall(path: Path) -> State:
    """Reads the state; nothing where there is none, or where it cannot be read."""
    try:
        saved: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return NOTHING
    except (OSError, ValueError) as error:
        log(logging.ERROR, "mirror_state_not_read", error=repr(error))
        return NOTHING
    if saved.get("format") != FORMAT:
        return NOTHING
    comparisons = {int(rollout_id): Comparison(one) for rollout_id, one in saved["rollouts"].items()}
    return State(comparisons, saved["positions"], time.time_ns() < saved["time_ns"] + RECENT_NS)


def keep(path: Path, rollouts: Mapping[int, Mapping[str, Any]], positions: Mapping[str, Position]) -> None:
    """Replaces the state: saved comparisons and positions, both or neither."""
    state = {
        "format": FORMAT,
        "time_ns": time.time_ns(),
        "positions": positions,
        "rollouts": rollouts,
    }
    replace_durably(path, json.dumps(state).encode())
