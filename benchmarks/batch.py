"""Section `batch`: ScoreBatch of 256 rows against the same LMDB, numpy and onnxruntime work in a bare loop."""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from benchmarks import fixture, servers
from gateway.v1 import scoring_pb2 as pb

ROWS: Final = 256
ENTITIES: Final = 1_000_000
IN_FLIGHT: Final = 4


def batch(full: bool) -> dict[str, Any]:
    """Interleaved pairs of the bare loop and a worker under load."""
    pairs, seconds = (9, 8.0) if full else (5, 2.0)
    with servers.data_directory() as data:
        fixture.fill_store(data / "gateway" / "features", ENTITIES)
        model = fixture.train(seed=1)
        fixture.place(data / "gateway", model)
        (data / "model.onnx").write_bytes(model)
        messages = servers.write_messages(data / "messages", [_request(seed) for seed in range(200)])
        with servers.gateway(data / "gateway", 1) as gateway:
            servers.first_score(gateway.address)
            measured = [_pair(gateway, data, messages, seconds) for _ in range(pairs)]
    return {
        "n": pairs,
        "rows_per_s": round(median(ours for _, ours, _ in measured)),
        "rows_per_s_per_core": round(median(core for _, _, core in measured)),
        "bare_rows_per_s": round(median(bare for bare, _, _ in measured)),
        "ratio_to_bare_loop": round(median(core / bare for bare, _, core in measured), 3),
    }


def _pair(gateway: servers.Gateway, data: Path, messages: Path, seconds: float) -> tuple[float, float, float]:
    """Rows per second of the bare loop, of the worker, and of the worker by second of its CPU time."""
    command = [sys.executable, "-m", "benchmarks.batch", str(data), str(seconds)]
    bare = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    worker = gateway.worker()
    before = worker.cpu_times()
    seen = servers.load(gateway.address, servers.SCORE_BATCH, messages, IN_FLIGHT, seconds)
    after = worker.cpu_times()
    cpu_s = after.user + after.system - before.user - before.system
    return bare, seen.calls_per_s * ROWS, seen.calls * (1 + WARM_UP) * ROWS / cpu_s


WARM_UP: Final = 0.2
"""The load generator's warm-up, as a share of what it counts."""


def _request(seed: int) -> bytes:
    rng = random.Random(seed)
    keys = [fixture.key(rng.randrange(ENTITIES)) for _ in range(ROWS)]
    column = pb.EntityColumn(entity="subscriber", keys=keys)
    return pb.ScoreBatchRequest(model="churn", entities=[column]).SerializeToString()


def _bare_loop(data: Path, seconds: float) -> float:
    """Rows per second of CPU time for the bare work: get, join, view as an array, run."""
    import lmdb
    import onnxruntime

    from gateway.contract.row import RowCodec
    from gateway.features.store import ROWS as DATABASE
    from gateway.features.store import view_key

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession((data / "model.onnx").read_bytes(), options)
    environment = lmdb.open(str(data / "gateway" / "features"), readonly=True, max_dbs=2)
    database = environment.open_db(DATABASE, create=False)
    view, codec, rng = view_key(fixture.VIEW.digest()), RowCodec(fixture.VIEW), random.Random(1)
    rows, started = 0, time.process_time()
    while time.process_time() - started < seconds:
        keys = [fixture.key(rng.randrange(ENTITIES)).encode() for _ in range(ROWS)]
        with environment.begin() as transaction:
            values = [transaction.get(key + view, db=database) for key in keys]
        features = np.frombuffer(b"".join(values), codec.dtype)["float32"]
        session.run(["probabilities"], {"X": np.ascontiguousarray(features)})
        rows += ROWS
    return rows / (time.process_time() - started)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The bare loop, alone.")
    parser.add_argument("data", type=Path)
    parser.add_argument("seconds", type=float)
    arguments = parser.parse_args()
    json.dump(_bare_loop(arguments.data, arguments.seconds), sys.stdout)
