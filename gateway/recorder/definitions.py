"""What the recorder must know of versions to write their rows: names of decisions, and whether features are logged."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from gateway.contract.document import ModelDocument
from gateway.contract.row import RowCodec
from gateway.features.store import view_key
from gateway.telemetry import log
from gateway.wire.routes import RouteTable, ServedVersion, parse_routes

MOST: Final = 4096
"""Versions remembered; those that were in a table for the longest time are forgotten first."""


class Definition(NamedTuple):
    """One version."""

    document: ModelDocument
    codecs: dict[bytes, RowCodec]
    """How its views' rows are read, by the views' keys in the online store."""


class Definitions:
    """Every version that a route table has named lately: rows are written a little after they were scored."""

    def __init__(self, routes_path: Path) -> None:
        self._paths = routes_path, routes_path.with_suffix(".1.pb"), routes_path.with_suffix(".2.pb")
        self._seen_ns: dict[Path, int] = {}
        self._known: dict[tuple[str, int], Definition] = {}

    def get(self, model: str, version: int) -> Definition | None:
        """What is known of a version."""
        return self._known.get((model, version))

    def refresh(self) -> None:
        """Reads the route tables that have changed."""
        for path in reversed(self._paths):
            with contextlib.suppress(FileNotFoundError):
                changed_ns = path.stat().st_mtime_ns
                if self._seen_ns.get(path) != changed_ns:
                    self._seen_ns[path] = changed_ns
                    self._learn(path.read_bytes())

    def _learn(self, raw: bytes) -> None:
        try:
            table = parse_routes(raw)
        except ValueError as error:
            log(logging.WARNING, "route_table_not_read", problem=str(error))
            return
        for served in named(table):
            self._known.pop((served.model, served.version), None)
            self._known[served.model, served.version] = Definition(
                served.document,
                {view_key(view.digest()): RowCodec(view) for view in served.views.values()},
            )
        for oldest in list(self._known)[:-MOST]:
            del self._known[oldest]


def named(table: RouteTable) -> Iterator[ServedVersion]:
    """Every version that a table names."""
    yield from table.champions.values()
    for kept in table.kept.values():
        yield from kept
    for canary in table.canaries.values():
        yield from (canary.challenger, canary.control)
    for shadows in table.shadows.values():
        yield from (shadow.version for shadow in shadows)
