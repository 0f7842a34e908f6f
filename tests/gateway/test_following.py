"""Following: what a worker makes of the route tables and withdrawals that it finds on disk."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from control.v1 import data_plane_pb2 as wire
from gateway.artifacts import replace_durably
from gateway.features.store import OnlineStore
from gateway.features.writer import OnlineWriter
from gateway.journal import JournalWriter
from gateway.loader import Loader
from gateway.pipeline import Pipeline
from gateway.stepback import Kind
from gateway.wire.routes import parse_routes
from gateway.withdrawals import Withdrawals
from tests.gateway import tiny

CONTROL: Final = tiny.version(1)
CHALLENGER: Final = tiny.version(2)
BROKEN: Final = CHALLENGER._replace(golden=CONTROL.golden)
"""The challenger with golden rows that it fails."""


def loader(data: Path) -> Loader:
    """A worker's loader, whose host has every artifact."""
    (data / "artifacts").mkdir()
    for digest, content in {**CONTROL.artifacts(), **CHALLENGER.artifacts()}.items():
        (data / "artifacts" / digest).write_bytes(content)
    writer = OnlineWriter(data / "features", 1 << 24)
    writer.apply(tiny.batch(1, ["S1"], minutes=10.0), tiny.HISTORY)
    writer.close()
    pipeline = Pipeline(OnlineStore(data / "features"), JournalWriter(data / "journal", 1 << 20), 1 << 20)
    return Loader(data / "routes", data / "artifacts", pipeline, data / "turn", lambda: True)


def put(data: Path, rollout_id: int, challenger: tiny.Version = CHALLENGER) -> wire.RouteTable:
    """Offers the challenger in a rollout."""
    table = tiny.canary(challenger, CONTROL, 500)
    table.revision, table.models[0].canary.rollout_id = rollout_id, rollout_id
    replace_durably(data / "routes", table.SerializeToString())
    return table


async def settle(found: Loader, seconds: float = 20.0) -> None:
    """Follows the table until everything that it names was loaded, or failed to."""
    following = asyncio.create_task(found.follow())
    async with asyncio.timeout(seconds):
        while not found.given_up() and (
            tiny.MODEL not in found.pipeline.snapshot.routes or not found.pipeline.snapshot.routes[tiny.MODEL].canary
        ):
            await asyncio.sleep(0.01)
    following.cancel()


def test_a_version_that_could_not_be_loaded_is_tried_anew_by_the_next_rollout(tmp_path: Path) -> None:
    """Also where no table came in between: a failure is of the rollout in which it was seen."""
    found = loader(tmp_path)
    put(tmp_path, 9, BROKEN)
    asyncio.run(settle(found))
    (given_up,) = found.given_up()
    assert given_up["rollout_id"] == 9
    put(tmp_path, 12)
    found.read_table()
    assert not found.given_up()
    asyncio.run(settle(found))
    canary = found.pipeline.snapshot.routes[tiny.MODEL].canary
    assert canary is not None
    assert canary.rollout_id == 12


def test_a_withdrawal_is_never_seen_to_end_before_the_table_by_which_it_does(tmp_path: Path) -> None:
    """The uplink puts the table first and drops the withdrawal then; whoever looks in between sees both or neither."""
    found, withdrawals = loader(tmp_path), Withdrawals(tmp_path)
    table = parse_routes(put(tmp_path, 9).SerializeToString())
    withdrawals.add(table, [table.canaries[tiny.MODEL].challenger], (Kind.GUARD, "gateway", "it failed"))
    found.read_table()
    assert found.table is not None
    assert not found.table.canaries
    replaced, moved = found._replaced, []

    def look(path: Path) -> bool:
        seen = replaced(path)
        if not moved and path == tmp_path / "routes":  # after the first look at the routes, before the next at the rest
            moved.append(path)
            over = tiny.table(10, CONTROL)
            replace_durably(path, over.SerializeToString())
            withdrawals.change(lambda _: ())
        return seen

    found._replaced = look  # type: ignore[method-assign]  # the moment between two looks has no other name
    for _ in range(3):
        found.read_table()
        assert not found.table.canaries
