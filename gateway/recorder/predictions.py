"""From blocks of the journal to the prediction log's tables: pure, but for the dictionaries of text features."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import repeat
from typing import Any, Final

import numpy as np
import pyarrow as pa

from gateway.contract.row import BLANK, RowCodec
from gateway.contract.schema import Dtype, Feature
from gateway.journal import STAGES, Block
from gateway.recorder.arrays import NEWER, decisions, each, in_schema, nullable, reasons, scores, word
from gateway.recorder.columns import PREDICTIONS
from gateway.recorder.definitions import Definition
from gateway.request import Arm

ARMS: Final = tuple(arm.name.lower() for arm in Arm)
NUMBER_TYPES: Final = {Dtype.FLOAT32: "<f4", Dtype.INT64: "<i8", Dtype.BOOL: "?"}

Words = Callable[[bytes, str], Sequence[str]]
"""The strings of a view's text feature, by their codes."""
Values = Mapping[str, Sequence[float | str | None]]
"""By the name of an input, its value in each row."""


def partition(model: str, time_ns: int) -> str:
    """The directory of the lake in which a row lies."""
    return f"predictions/model={model}/hour={hour(time_ns)}"


def hour(time_ns: int) -> str:
    """The UTC hour of a time, as the lake's directories name it."""
    return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H")


def table(blocks: Sequence[tuple[Block, Definition | None]], gateway_id: str, words: Words) -> pa.Table:
    """The rows of some blocks. Where a block's definition is not known, its decisions and features are null."""
    rows = np.concatenate([block.rows for block, _ in blocks])
    sizes = [len(block.rows) for block, _ in blocks]
    n = len(rows)
    numbers, texts = features(blocks, words)
    hashes = rows["entity_hash"]
    columns: dict[str, Any] = {
        "prediction_id": [
            f"{block.prefix}{number:012x}"
            for block, _ in blocks
            for number in range(block.first_row, block.first_row + len(block.rows))
        ],
        "gateway_id": word([gateway_id], np.zeros(n, np.int32)),
        "model": word([block.model for block, _ in blocks], np.repeat(np.arange(len(blocks), dtype=np.int32), sizes)),
        "arm": word([*ARMS, NEWER], np.minimum(rows["arm"], len(ARMS)).astype(np.int32)),
        "answered_by": word([*ARMS, NEWER], np.minimum(rows["answered_by"], len(ARMS)).astype(np.int32)),
        "rollout_id": nullable(each([block.rollout_id for block, _ in blocks], sizes), 0),
        "weight_bps": rows["weight_bps"],
        "entity_hash": nullable(hashes, 0),
        "flags": rows["flags"],
        "rollout_flags": rows["rollout_flags"],
        "feature_age_ms": nullable(rows["feature_age_ms"], -1),
        "defaulted": rows["defaulted"],
        "score": scores(rows["score"]),
        "decision": decisions([(block.rows["decision"], definition) for block, definition in blocks]),
        "reason": reasons(rows["reason"]),
        "features": numbers,
        "texts": texts,
    }
    for name in ("time_ns", "revision", "version", "step", "feature_sequence"):
        columns[name] = each([getattr(block, name) for block, _ in blocks], sizes)
    stages = np.repeat(np.array([block.stages_ns for block, _ in blocks], np.int64), sizes, axis=0)
    columns |= {f"{stage}_ns": stages[:, index] for index, stage in enumerate(STAGES)}
    return in_schema(columns, PREDICTIONS)


def features(blocks: Iterable[tuple[Block, Definition | None]], words: Words) -> tuple[list[Any], list[Any]]:
    """For each row its numbers and its texts by the inputs' names; None for models whose features are not logged."""
    numbers: list[Any] = []
    texts: list[Any] = []
    for block, definition in blocks:
        n = len(block.rows)
        if definition is None or not definition.document.log_features or not block.payload:
            numbers.extend(repeat(None, n))
            texts.extend(repeat(None, n))
            continue
        try:
            values = served(block, definition, words)
        except ValueError:  # rows of another layout than the definition says: their features are not known
            values = {}
        for row in range(n):
            present = [(name, value) for name, column in values.items() if (value := column[row]) is not None]
            numbers.append([(name, float(value)) for name, value in present if not isinstance(value, str)])
            texts.append([(name, value) for name, value in present if isinstance(value, str)])
    return numbers, texts


def served(block: Block, definition: Definition, words: Words) -> Values:
    """The values that a block's rows were scored with, as they were stored or sent; None where there was none."""
    n, document = len(block.rows), definition.document
    wanted = {item.column for item in document.stored}

    def dictionary(label: bytes) -> Callable[[str], Sequence[str]]:
        return lambda feature: words(label, feature)

    values: dict[str, Sequence[float | str | None]] = {}
    stored = [label for label in block.labels if any(label)]
    for label, raw in zip(stored, block.payload, strict=False):
        if (codec := definition.codecs.get(label)) is not None and len(raw) == n * codec.stride:
            values |= _of_view(raw, codec, wanted, dictionary(label))
    requested = block.payload[len(stored) :]
    if len(requested) == len(document.requested):  # not so for calls that sent the graph's tensors
        for item, raw in zip(document.requested, requested, strict=True):
            if item.type is Dtype.STRING:
                values[item.request] = json.loads(raw)
            else:
                values[item.request] = np.frombuffer(raw, NUMBER_TYPES[item.type]).tolist()
    return values


def _of_view(raw: bytes, codec: RowCodec, wanted: Container[str], words: Callable[[str], Sequence[str]]) -> Values:
    rows = np.frombuffer(raw, codec.dtype)
    return {
        name: _column(rows, codec, feature, words)
        for feature in codec.view.features
        if (name := f"{codec.view.name}.{feature.name}") in wanted
    }


def _column(
    rows: Any, codec: RowCodec, feature: Feature, words: Callable[[str], Sequence[str]]
) -> list[float | str | None]:
    place = codec.places[feature.name]
    null = (rows["nulls"][:, place.bit // 64] >> np.uint64(place.bit % 64)) & np.uint64(1)
    absent = (null.astype(bool) | (rows["format"] == BLANK)).tolist()
    found = rows[place.block][:, place.column].tolist()
    if feature.type is Dtype.STRING:
        known = words(feature.name)
        found = [known[code] if code < len(known) else None for code in found]
    return [None if gone else value for gone, value in zip(absent, found, strict=True)]
