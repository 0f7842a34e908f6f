"""What gateways count and the control plane keeps is what the simulations of the evidence count."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from control.rollout.case import Evidence
from control.rollout.data_plane import evidence_rows
from control.rollout.policy import Metric, Policy
from control.rollout.tally import Tally
from control.rollout.tiers import DEFAULTS
from control.store.tables import evidence_units
from control.v1 import data_plane_pb2 as pb
from gateway.contract.document import Tier
from gateway.contract.errors import Reason
from gateway.contract.evidence import Arms, Counts, merged
from gateway.evidence.count import FIRST_BAD, Counter, Unit
from gateway.journal import ROW, STAGES, Block
from gateway.record import REASON_NUMBERS
from gateway.request import Arm
from gateway.wire.routes import Canary, Guard, parse_routes
from tests.control.streams import Stream, counts_at, every_bad, first_bad, first_scored, ramp, sticky
from tests.gateway import tiny

POLICY = Policy.model_validate(DEFAULTS[Tier.STANDARD])
WEIGHTS = (100, 500, 2_500, 5_000)
GATEWAYS = 3
KEY = [column.name for column in evidence_units.primary_key if column.name != "rollout_id"]


def drawn() -> tuple[Stream, np.ndarray, np.ndarray]:
    """Requests of entities that call thirty times each, some of which always fail; the gateway and step of each."""
    rng = np.random.default_rng(5)
    stream = sticky(rng, 400, ramp(12_000, *WEIGHTS), rng.random(400) < 0.3, 1.0)
    return stream, rng.integers(0, GATEWAYS, 12_000), np.repeat(np.arange(1, 5), 3_000)


def blocks(stream: Stream, rows: np.ndarray, step: int) -> Iterator[Block]:
    """The journal's blocks of these rows, one per arm and run of 50 as batches are."""
    for part in np.array_split(rows, max(1, len(rows) // 50)):
        for arm in (Arm.CHALLENGER, Arm.CHAMPION):
            mine = part[stream.challenger[part] == (arm == Arm.CHALLENGER)]
            found = np.zeros(len(mine), ROW)
            found["entity_hash"] = stream.entity[mine] + 1
            found["weight_bps"], found["arm"] = stream.weight_bps[mine], arm
            found["reason"] = np.where(stream.bad[mine], REASON_NUMBERS[Reason.MODEL_FAILED], 0)
            yield Block("minutes", 2, 7, 0, 0, (0,) * len(STAGES), found, (), rollout_id=1, step=step)


def canary() -> Canary:
    """A canary of tiny versions with one guard."""
    version = parse_routes(tiny.canary(tiny.version(2), tiny.version(1), 500).SerializeToString()).canaries[tiny.MODEL]
    return version._replace(guards={"errors": Guard(1e-9, 1.1, two_sided=False, sample_bps=10_000)}, salt=b"salt")


def counted_by_us(
    stream: Stream, gateway: np.ndarray, step: np.ndarray, restart: bool
) -> tuple[Evidence, list[list[Unit]]]:
    """The whole way: each gateway's counter, its reports (one of them sent twice), and the control plane's tally."""
    counters = [Counter(canary()) for _ in range(GATEWAYS)]
    told: list[list[Unit]] = [[] for _ in range(GATEWAYS)]
    known, tally = set(), Tally(POLICY)
    for number in range(1, 5):
        for place in range(GATEWAYS):
            if restart:
                counters[place] = Counter(canary())
                counters[place].recall(told[place])
            rows = np.flatnonzero((gateway == place) & (step == number))
            new = [unit for block in blocks(stream, rows, number) for unit in counters[place].take(block)]
            for row in 2 * evidence_rows(report(place, len(told[place]), new)):
                key = tuple(getattr(row, name) for name in KEY)
                if key not in known:
                    tally.add([row])
                known.add(key)
            told[place] += new
    return tally.evidence(4, False, {"slow_runs": []}), told


def first_bad_of(unit: Unit) -> Counts:
    """What a unit adds to the evidence of harm."""
    return {unit.weight_bps: Arms(unit.challenger, not unit.challenger)} if unit.kind == FIRST_BAD else {}


def report(place: int, first: int, units: list[Unit]) -> pb.ReportEvidenceRequest:
    """As a gateway sends it."""
    return pb.ReportEvidenceRequest(
        gateway_id=f"gateway-{place}",
        first_number=first,
        units=[pb.EvidenceUnit(**unit._asdict()) for unit in units],
    )


@pytest.mark.parametrize("restart", [False, True])
def test_an_entity_counts_once_over_gateways_restarts_and_reports_sent_twice(restart: bool) -> None:
    """By its first bad event to roll back, and by its first row of the step to advance."""
    stream, gateway, step = drawn()
    found, told = counted_by_us(stream, gateway, step, restart)
    assert (
        found.first_bad[Metric.ERRORS] == counts_at(stream, first_bad(stream)) != counts_at(stream, every_bad(stream))
    )
    last = Stream(*(column[step == 4] for column in stream))
    rows = first_scored(last)
    assert found.assigned == found.step[Metric.ERRORS].scored == counts_at(last, rows)
    assert found.step[Metric.ERRORS].bad == counts_at(last, rows[last.bad[rows]]) != found.first_bad[Metric.ERRORS]
    alone = [Stream(*(column[gateway == place] for column in stream)) for place in range(GATEWAYS)]
    for units, mine in zip(told, alone, strict=True):
        assert merged(map(first_bad_of, units)) == counts_at(mine, first_bad(mine))
    assert merged(counts_at(mine, first_bad(mine)) for mine in alone) != found.first_bad[Metric.ERRORS]


def test_so_many_entities_that_not_all_are_told_of_are_thinned_alike_in_both_arms(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By their own names: memory is bounded, the arms keep their shares, and a restart goes on thinning."""
    monkeypatch.setattr("gateway.evidence.count.MOST_SCORED", 1 << 8)
    rng = np.random.default_rng(11)
    counter, told = Counter(canary()), []
    for place in range(0, 20_000, 50):
        rows = np.zeros(50, ROW)
        rows["entity_hash"] = np.arange(place, place + 50) + 1
        rows["arm"] = np.where(rng.random(50) < 0.2, Arm.CHALLENGER, Arm.CHAMPION)
        rows["weight_bps"] = 2_000
        block = Block("minutes", 2, 7, 0, 0, (0,) * len(STAGES), rows, (), rollout_id=1, step=1)
        told += counter.take(block)
        if place == 10_000:
            counter = Counter(canary())
            counter.recall(told)
    assert 6 << 8 < len(told) < 8 << 8
    share = sum(unit.challenger for unit in told) / len(told)
    assert abs(share - 0.2) < 4 * (0.2 * 0.8 / len(told)) ** 0.5
