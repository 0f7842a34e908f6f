"""What a gateway keeps of its evidence: through restarts, full disks and lost files, each unit once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from control.v1 import data_plane_pb2 as wire
from gateway.config import Config
from gateway.contract.errors import Reason
from gateway.evidence.collect import Collector
from gateway.evidence.count import FIRST_ROW, Unit
from gateway.evidence.log import RECORD, EvidenceLog
from gateway.journal import ROW, STAGES, Block, JournalWriter
from gateway.record import REASON_NUMBERS
from gateway.request import Arm
from gateway.stepback import Kind
from gateway.wire.routes import RouteTable, parse_routes
from gateway.withdrawals import Withdrawals
from tests.control.planes import no_room
from tests.gateway import tiny

ROLLOUT: Final = 9
ID: Final = "g1"


def table(*judges: str, rollout_id: int = ROLLOUT) -> RouteTable:
    """A canary with a guard that a handful of failures satisfies."""
    found = tiny.canary(tiny.version(2), tiny.version(1), 500)
    canary = found.models[0].canary
    canary.rollout_id = rollout_id
    canary.guards.append(wire.Guard(metric="errors", alpha=0.01, rho=1.1, sample_bps=10_000))
    canary.judges.extend(judges)
    return parse_routes(found.SerializeToString())


class Host:
    """A gateway's directory with one worker's journal, and an observer that may be started anew."""

    def __init__(self, data: Path) -> None:
        for path in ("run", "journal"):
            (data / path).mkdir()
        self.config = Config(data=data, workers=1)
        self.journal = JournalWriter(data / "journal" / "worker-0", 1 << 20)

    def collector(self, found: RouteTable | None = None) -> Collector:
        """A collector that follows a table."""
        fresh = Collector(self.config, ID)
        fresh.follow(found or table())
        return fresh

    def scored(self, entities: Iterable[int], bad: bool = False, arm: Arm = Arm.CHALLENGER) -> None:
        """Journals a row of each entity; 0 for none."""
        hashes = list(entities)
        rows = np.zeros(len(hashes), ROW)
        rows["entity_hash"], rows["arm"], rows["weight_bps"] = hashes, arm, 500
        rows["reason"] = REASON_NUMBERS[Reason.MODEL_FAILED] if bad else 0
        self.journal.append(Block(tiny.MODEL, 2, 7, 0, 0, (0,) * len(STAGES), rows, (), rollout_id=ROLLOUT, step=1))

    def kept(self) -> list[Unit]:
        """What the log on disk holds."""
        return list(EvidenceLog(self.config.data / "evidence.log").units.get(ROLLOUT, ()))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def told(collector: Collector) -> list[tuple[int, int]]:
    """What would be reported now: the first number, and how many units."""
    return [(request.first_number, len(request.units)) for request in collector._due()]


def test_a_disk_without_room_loses_no_unit_and_keeps_none_twice(host: Host) -> None:
    """Nothing is read or told meanwhile, nor does the gateway try anything; requests have no entity to tell them by."""
    collector = host.collector()
    host.scored([0] * 60 + [1])
    collector.count()
    with no_room():
        host.scored([0, 2])
        collector.count()
        host.scored([0])
        collector.count()
        assert not collector.keeps
        assert "EVIDENCE_NOT_KEPT" in collector.problems()[0]
        assert not collector._due()
    collector.count()
    assert collector.keeps
    assert len(host.kept()) == 64
    restarted = host.collector()
    restarted.count()
    assert len(host.kept()) == 64


def test_a_torn_append_takes_no_later_one_with_it(tmp_path: Path) -> None:
    """The file ends where it was whole, also after what a full disk left of a frame."""
    log = EvidenceLog(tmp_path / "evidence.log")
    units = [(ROLLOUT, Unit(FIRST_ROW, entity, True, 500, 1, 0, 3)) for entity in range(1, 1000)]
    log.append(units[:2], {"n": 1})
    with no_room(), pytest.raises(OSError, match="too large"):
        log.append(units, {"n": 2})
    log.append(units[2:4], {"n": 3})
    recalled = EvidenceLog(log.path)
    assert list(recalled.units[ROLLOUT]) == list(log.units[ROLLOUT]) == [unit for _, unit in units[:4]]
    assert recalled.state == {"n": 3}
    assert recalled.units[ROLLOUT].part(1, 2) == [unit for _, unit in units[1:3]]


def test_the_log_grows_with_its_units_and_not_with_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each append bears a state, and a canary lasts for days."""
    monkeypatch.setattr("gateway.evidence.log.SPARE_BYTES", 1 << 12)
    log = EvidenceLog(tmp_path / "evidence.log")
    for entity in range(1, 501):
        log.append([(ROLLOUT, Unit(FIRST_ROW, entity, True, 500, 1, 0, 3))], {"text": "x" * 100})
    assert log.path.stat().st_size < (1 << 12) + 3 * 500 * RECORD.size
    assert len(EvidenceLog(log.path).units[ROLLOUT]) == 500


def test_a_lost_log_repeats_no_number_and_judges_no_more(host: Host) -> None:
    """What the control plane keeps says what was forgotten; what is new is told after it."""
    collector = host.collector(table(ID))
    host.scored(range(1, 6))
    collector.count()
    assert told(collector) == [(1, 0)]
    collector._note_kept(ROLLOUT, 0)
    assert told(collector) == [(1, 5)]
    collector._note_kept(ROLLOUT, 5)
    (host.config.data / "evidence.log").unlink()
    for path in (host.config.journal_path / "worker-0").iterdir():
        path.unlink()  # with the rows: else they would be counted again
    host.journal = JournalWriter(host.config.journal_path / "worker-0", 1 << 20)
    forgetful = host.collector(table(ID))
    host.scored([6, 7])
    forgetful.count()
    assert told(forgetful) == [(1, 0)]
    forgetful._note_kept(ROLLOUT, 5)
    assert told(forgetful) == [(6, 2)]
    forgetful._note_kept(ROLLOUT, 7)
    host.scored(range(100, 120), bad=True)
    forgetful.count()
    again = host.collector(table(ID))
    again.count()
    assert told(again) == [(1, 0)]
    again._note_kept(ROLLOUT, 7)
    assert told(again) == [(8, 40)]
    assert not Withdrawals(host.config.data).read()


def test_evidence_that_suffices_is_acted_on_also_after_a_restart_and_when_the_disk_refused(host: Host) -> None:
    """The end came between counting and withdrawing; and while nothing can be withdrawn, nothing is tried."""
    host.collector().count()
    host.scored(range(1, 30), bad=True)
    without_slot = host.collector()
    without_slot.count()
    in_the_way = host.config.data / "withdrawals.lock"
    assert not in_the_way.exists()
    in_the_way.mkdir()
    refused = host.collector(table(ID))
    refused.guard()
    assert not refused.keeps
    in_the_way.rmdir()
    refused.guard()
    assert refused.keeps
    (one,) = Withdrawals(host.config.data).read()
    assert (one.kind, one.version) == (Kind.EVIDENCE, 2)


def test_numbers_that_the_control_plane_lost_are_told_again(host: Host) -> None:
    """As after a restored backup: from what it keeps on, and not from before the log began."""
    collector = host.collector()
    host.scored(range(1, 6))
    collector.count()
    collector._note_kept(ROLLOUT, 0)
    collector._note_kept(ROLLOUT, 5)
    assert told(collector) in ([], [(6, 0)])
    collector._note_kept(ROLLOUT, 2)
    assert told(collector) == [(3, 3)]
