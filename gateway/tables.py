"""Route tables as the uplink keeps them: when one may replace another, and where they lie on disk."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Final, NamedTuple

from gateway.artifacts import replace_durably
from gateway.telemetry import log
from gateway.wire.routes import parse_routes


class Table(NamedTuple):
    """A route table, and what of it matters to the uplink."""

    raw: bytes
    history_id: str
    revision: int
    digests: tuple[str, ...]
    """Of every artifact that it names."""


EMPTY: Final = Table(b"", "", 0, ())


def read_table(raw: bytes) -> Table:
    """Reads a serialized table; raises ValueError for one that the workers could not read."""
    parsed = parse_routes(raw)
    named = [*parsed.champions.values(), *(served for kept in parsed.kept.values() for served in kept)]
    named += [served for canary in parsed.canaries.values() for served in (canary.challenger, canary.control)]
    named += [shadow.version for shadows in parsed.shadows.values() for shadow in shadows]
    digests = {digest for served in named for digest in (served.model_sha256, served.golden_sha256)}
    return Table(raw, parsed.history_id, parsed.revision, tuple(sorted(digests)))


def refusal(current: Table, offered: Table) -> str:
    """Why a table must not replace the one in force; empty where it may."""
    if current.history_id and offered.history_id != current.history_id:
        return (
            f"this gateway's routes belong to history {current.history_id}, the control plane's to "
            f"{offered.history_id}; if the new one is right, `interlock gateway accept-history` on this host takes it"
        )
    if offered.revision < current.revision:
        return f"the control plane sent revision {offered.revision}, older than {current.revision}, which is in force"
    return ""


class TableFiles:
    """The table in force, where workers look for it, and beside it the two that were in force before."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._before = path.with_suffix(".1.pb"), path.with_suffix(".2.pb")

    def recall(self) -> Table:
        """The last known good table; one that is damaged counts as none."""
        try:
            return read_table(self.path.read_bytes())
        except FileNotFoundError:
            return EMPTY
        except ValueError as error:
            log(logging.ERROR, "route_table_damaged", problem=str(error))
            return EMPTY

    def put(self, table: Table, current: Table) -> None:
        """Puts a table in the place of the current one."""
        first, second = self._before
        with contextlib.suppress(FileNotFoundError):
            first.replace(second)
        if current.raw:
            replace_durably(first, current.raw)
        replace_durably(self.path, table.raw)

    def forget(self) -> None:
        """Removes every table, the one in force last: until then nothing has changed."""
        for path in (*reversed(self._before), self.path):
            path.unlink(missing_ok=True)

    def former(self) -> list[Table]:
        """The tables that were in force before."""
        found = []
        for path in self._before:
            with contextlib.suppress(FileNotFoundError, ValueError):
                found.append(read_table(path.read_bytes()))
        return found
