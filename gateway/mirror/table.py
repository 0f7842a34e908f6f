"""The route table on disk, as the mirror follows it."""

from __future__ import annotations

import logging
from pathlib import Path

from gateway.config import Config
from gateway.stepback import effective
from gateway.telemetry import log
from gateway.wire.routes import RouteTable, parse_routes
from gateway.withdrawals import Withdrawals


class FollowedTable:
    """The table in force on this gateway: without what is withdrawn here. One that cannot be read changes nothing."""

    def __init__(self, config: Config) -> None:
        self._path = config.routes_path
        self._withdrawals = Withdrawals(config.routes_path.parent)
        self._seen: tuple[object, ...] = ()

    def poll(self) -> RouteTable | None:
        """The table, if it is another than at the last look."""
        seen = (_stamp(self._path), _stamp(self._withdrawals.path))
        if seen == self._seen or seen[0] is None:
            return None
        self._seen = seen
        try:
            table = parse_routes(self._path.read_bytes())
            withdrawn = self._withdrawals.read()
        except (OSError, ValueError) as error:
            log(logging.ERROR, "route_table_not_read", problem=str(error))
            return None
        gone = {(one.model, one.digest) for one in withdrawn}
        shadows = {
            model: tuple(one for one in found if (model, one.version.digest) not in gone)
            for model, found in table.shadows.items()
        }
        return effective(table, withdrawn)._replace(shadows={model: found for model, found in shadows.items() if found})


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns
