"""Who is to blame for a worker's end: a challenger that it was trying is withdrawn, so that it ends no second one."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from gateway.config import Config
from gateway.contract.errors import Fault
from gateway.stepback import Kind
from gateway.telemetry import log
from gateway.trying import tried
from gateway.wire.routes import parse_routes
from gateway.withdrawals import Withdrawals

HUNG_NS: Final = 15_000_000_000
"""How long a worker's loop may stand still before the worker is killed."""
HUNG_TRYING_NS: Final = 3_000_000_000
"""The same while it tries a challenger, whose run was told to end long ago."""


def trying_path(run_path: Path, index: int) -> Path:
    """Where a worker marks which rollout's challenger it runs."""
    return run_path / f"worker-{index}.trying"


def loading_path(run_path: Path, index: int) -> Path:
    """Where it marks which one it loads."""
    return run_path / f"worker-{index}.loading"


def hangs(config: Config, index: int, said: Mapping[str, Any] | None, pid: int) -> bool:
    """Whether a worker has stood still for too long, by its own board."""
    if said is None or said["pid"] != pid:
        return False  # it has not begun yet
    patience_ns = HUNG_TRYING_NS if tried(trying_path(config.run_path, index)) else HUNG_NS
    return bool(said["heartbeat_ns"] < time.monotonic_ns() - patience_ns)


def withdraw_tried(config: Config, index: int, how: str) -> None:
    """Withdraws the challenger that a worker was running or loading when it ended."""
    for path, doing in ((trying_path(config.run_path, index), "ran"), (loading_path(config.run_path, index), "loaded")):
        rollout_id = tried(path)
        path.unlink(missing_ok=True)
        if rollout_id:
            _withdraw(config, rollout_id, f"worker {index} ended {how} while it {doing} this version")


def _withdraw(config: Config, rollout_id: int, reason: str) -> None:
    try:
        table = parse_routes(config.routes_path.read_bytes())
        withdrawals = Withdrawals(config.data)
        standing = {one.digest for one in withdrawals.read()}
        for canary in table.canaries.values():
            challenger = canary.challenger
            if canary.rollout_id == rollout_id and challenger.digest not in standing:
                withdrawals.add(table, [challenger], (Kind.GUARD, "gateway", reason))
                name = f"{challenger.model}/{challenger.version}"
                log(logging.ERROR, "challenger_withdrawn", version=name, rollout_id=rollout_id, reason=reason)
    except (OSError, ValueError, Fault) as error:
        log(logging.ERROR, "challenger_not_withdrawn", rollout_id=rollout_id, error=repr(error))
