"""What the benchmarks serve: a model of 100 trees over 18 float32 features, and as many entities as asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from control.v1 import data_plane_pb2 as pb
from gateway.contract.document import ModelDocument
from gateway.contract.row import RowCodec
from gateway.contract.schema import FeatureView
from gateway.features.writer import Batch, OnlineWriter

FEATURES: Final = 18
HISTORY: Final = "benchmark"
CHUNK: Final = 10_000
VIEW: Final = FeatureView.model_validate(
    {
        "name": "usage",
        "entity": "subscriber",
        "features": [{"name": f"f{i}", "type": "float32"} for i in range(FEATURES)],
    }
)
EVENT_NS: Final = 1_700_000_000_000_000_000


def key(index: int) -> str:
    """The key of the entity of that number."""
    return f"S{index:09d}"


def values(start: int, stop: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The features of entities start to stop, shape (stop - start, 18): the same at every call."""
    return np.random.default_rng(start).normal(size=(stop - start, FEATURES)).astype(np.float32)


def train(seed: int, trees: int = 100) -> bytes:
    """An ONNX file: a gradient-boosted classifier of that many trees of depth 5."""
    from skl2onnx import to_onnx
    from sklearn.ensemble import GradientBoostingClassifier

    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4000, FEATURES)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] * x[:, 2] + rng.normal(size=4000) > 0.5).astype(int)
    model = GradientBoostingClassifier(n_estimators=trees, max_depth=5, random_state=seed).fit(x, y)
    graph = to_onnx(model, x[:1], options={"zipmap": False}, target_opset={"": 21, "ai.onnx.ml": 3})
    return bytes(graph.SerializeToString())


def document() -> ModelDocument:
    """What a person would write of that model."""
    return ModelDocument.model_validate(
        {
            "name": "churn",
            "task": "binary",
            "purpose": "benchmark",
            "owner": {"person": "benchmark"},
            "entities": ["subscriber"],
            "views": {VIEW.name: VIEW.digest()},
            "inputs": [{"view": VIEW.name, "feature": f"f{i}", "feeds": "X"} for i in range(FEATURES)],
            "output": {"score": "probabilities", "column": 1},
            "decision": {"kind": "threshold", "threshold": 0.5, "hit": "call", "otherwise": "leave"},
        }
    )


def golden(model: bytes, rows: int = 20) -> str:
    """Golden rows of the model, CSV."""
    import onnxruntime

    x = values(0, rows)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    expected = session.run(["probabilities"], {"X": x})[0][:, 1]
    header = ",".join([*(f"usage.f{i}" for i in range(FEATURES)), "expected"])
    lines = (",".join(repr(float(v)) for v in (*row, score)) for row, score in zip(x, expected, strict=True))
    return "\n".join([header, *lines]) + "\n"


def feature_batches(entities: int) -> Iterator[Batch]:
    """The feature log that fills the online store."""
    codec, definition = RowCodec(VIEW), VIEW.canonical()
    for sequence, start in enumerate(range(0, entities, CHUNK), start=1):
        stop = min(start + CHUNK, entities)
        times = np.full(stop - start, EVENT_NS)
        rows = codec.encode(times, times, {f"f{i}": c for i, c in enumerate(values(start, stop).T)}, {})
        yield Batch(sequence, VIEW.digest(), definition, {}, [key(i) for i in range(start, stop)], rows)


def fill_store(directory: Path, entities: int) -> None:
    """Makes the online store."""
    writer = OnlineWriter(directory, map_bytes=8 << 30)
    for batch in feature_batches(entities):
        writer.apply(batch, HISTORY)
    writer.close()


def place(data: Path, model: bytes) -> None:
    """Puts the artifacts and the route table where a gateway without a control plane finds them."""
    artifacts = data / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    digests = []
    for content in (model, golden(model).encode()):
        digests.append(hashlib.sha256(content).hexdigest())
        (artifacts / digests[-1]).write_bytes(content)
    text = document().canonical()
    served = pb.ServedVersion(
        version=1,
        digest=hashlib.sha256(json.dumps([text, *digests]).encode()).hexdigest(),
        model_sha256=digests[0],
        golden_sha256=digests[1],
        document_json=text,
    )
    table = pb.RouteTable(
        format=1,
        history_id=HISTORY,
        revision=1,
        models=[pb.ModelRoute(model="churn", champion=served)],
        views=[pb.PinnedView(hash=VIEW.digest(), definition_json=VIEW.canonical())],
    )
    (data / "routes.pb").write_bytes(table.SerializeToString())
