"""Section `unary`: a score by entity key against a bare handler, one worker. Section `stages`: where its time goes."""

from __future__ import annotations

import random
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks import fixture, servers
from benchmarks.load import Load
from gateway.journal import STAGES
from gateway.journal_reader import JournalReader
from gateway.v1 import scoring_pb2 as pb

ENTITIES: Final = 1_000_000
LEVELS: Final = (8, 32, 128)
MESSAGES: Final = 10_000


def unary(full: bool) -> dict[str, Any]:
    """Interleaved pairs: latency with one call in flight, and the best throughput of 8, 32 and 128."""
    pairs, seconds = (9, 8.0) if full else (5, 1.5)
    with servers.data_directory() as data:
        messages = prepare(data)
        with servers.gateway(data / "gateway", 1) as gateway:
            size = len(servers.first_score(gateway.address))
            with servers.floor(size) as floor:
                measured = {
                    level: [
                        (
                            servers.load(floor, servers.SCORE, messages, level, seconds),
                            servers.load(gateway.address, servers.SCORE, messages, level, seconds),
                        )
                        for _ in range(pairs)
                    ]
                    for level in (1, *LEVELS)
                }
    return {"n": pairs, "entities": ENTITIES, "reply_bytes": size, "grpcio": _figures(measured)}


def stages(full: bool) -> dict[str, Any]:
    """Medians of each stage's time a batch, as the journal has them, with one call in flight."""
    with servers.data_directory() as data:
        messages = prepare(data, 100_000)
        with servers.gateway(data / "gateway", 1) as gateway:
            servers.first_score(gateway.address)
            servers.load(gateway.address, servers.SCORE, messages, 1, 10.0 if full else 3.0)
            blocks = list(JournalReader(data / "gateway" / "journal").poll())[-20_000:]
    medians = {
        f"{stage}_us": round(median(block.stages_ns[index] for block in blocks) / 1000, 2)
        for index, stage in enumerate(STAGES)
    }
    return {"n": len(blocks), **medians}


def prepare(data: Path, entities: int = ENTITIES) -> Path:
    """Fills a gateway's data directory and writes the messages to send; returns their path."""
    fixture.fill_store(data / "gateway" / "features", entities)
    fixture.place(data / "gateway", fixture.train(seed=1))
    rng = random.Random(1)
    requests = (
        pb.ScoreRequest(model="churn", entities={"subscriber": fixture.key(rng.randrange(entities))})
        for _ in range(MESSAGES)
    )
    return servers.write_messages(data / "messages", [request.SerializeToString() for request in requests])


def _figures(measured: dict[int, list[tuple[Load, Load]]]) -> dict[str, Any]:
    clean = [level for level in LEVELS if not any(ours.failed or floor.failed for floor, ours in measured[level])]
    best_floor = max(clean, key=lambda level: median(floor.calls_per_s for floor, _ in measured[level]))
    best_ours = max(clean, key=lambda level: median(ours.calls_per_s for _, ours in measured[level]))
    rates = zip(measured[best_floor], measured[best_ours], strict=True)
    return {
        "p50_ratio": round(median(ours.p50_us / floor.p50_us for floor, ours in measured[1]), 3),
        "rps_ratio": round(median(ours.calls_per_s / floor.calls_per_s for (floor, _), (_, ours) in rates), 3),
        "failed": sum(ours.failed for pairs in measured.values() for _, ours in pairs),
        "levels": {
            str(level): {
                "floor_p50_us": round(median(floor.p50_us for floor, _ in pairs)),
                "p50_us": round(median(ours.p50_us for _, ours in pairs)),
                "p99_us": round(median(ours.p99_us for _, ours in pairs)),
                "floor_per_s": round(median(floor.calls_per_s for floor, _ in pairs)),
                "per_s": round(median(ours.calls_per_s for _, ours in pairs)),
            }
            for level, pairs in measured.items()
        },
    }
