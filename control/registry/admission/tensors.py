"""Tensors within the model: their shapes multiply to what they hold, and all of them fit in memory. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Final

from onnx import ModelProto, TensorProto

from control.registry.admission.report import Check, Limits, Refused

ITEM_BYTES: Final[Mapping[int, int]] = {
    TensorProto.FLOAT: 4,
    TensorProto.DOUBLE: 8,
    TensorProto.FLOAT16: 2,
    TensorProto.INT8: 1,
    TensorProto.INT16: 2,
    TensorProto.INT32: 4,
    TensorProto.INT64: 8,
    TensorProto.UINT8: 1,
    TensorProto.UINT16: 2,
    TensorProto.UINT32: 4,
    TensorProto.UINT64: 8,
    TensorProto.BOOL: 1,
    TensorProto.STRING: 0,
}
"""Bytes of one value of each type that is taken; strings have a length of their own."""

TYPED: Final[Mapping[int, str]] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT64: "uint64_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.STRING: "string_data",
}
"""The list that holds values of each type where they are not raw; int32_data for all others."""

MAX_DIMENSIONS: Final = 8


def check_tensors(model: ModelProto, limits: Limits) -> None:
    """Refuses tensors whose shape overflows or is not that of their data, and more of them than fit."""
    total, seen = 0, set[str]()
    for where, tensor in _tensors(model):
        total += _bytes(where, tensor, limits)
        if total > limits.tensor_bytes:
            raise Refused(
                Check.LIMITS, f"the model's tensors take more than {limits.tensor_bytes >> 20} MiB; make it smaller"
            )
    for tensor in model.graph.initializer:
        if tensor.name in seen:
            raise Refused(Check.TENSORS, f"the initialiser {tensor.name!r:.80} is there twice")
        seen.add(tensor.name)


def _tensors(model: ModelProto) -> Iterator[tuple[str, TensorProto]]:
    for tensor in model.graph.initializer:
        yield f"the initialiser {tensor.name!r:.80}", tensor
    for index, node in enumerate(model.graph.node):
        for attribute in node.attribute:
            where = f"{attribute.name!r:.80} of node {index} ({node.op_type!r:.80})"
            if attribute.HasField("t"):
                yield where, attribute.t
            for tensor in attribute.tensors:
                yield where, tensor


def _bytes(where: str, tensor: TensorProto, limits: Limits) -> int:
    if tensor.data_type not in ITEM_BYTES:
        raise Refused(Check.TENSORS, f"{where} is of type {tensor.data_type}, which no model of tables needs")
    if tensor.HasField("segment"):
        raise Refused(Check.TENSORS, f"{where} is one segment of a tensor; send it whole")
    dims = list(tensor.dims)
    if len(dims) > MAX_DIMENSIONS or any(size < 0 for size in dims):
        raise Refused(Check.TENSORS, f"{where} has the shape {dims!s:.80}, which none can have")
    values = math.prod(dims)
    size = values * max(ITEM_BYTES[tensor.data_type], 1)
    if size > limits.tensor_bytes:
        raise Refused(Check.TENSORS, f"{where} has the shape {dims!s:.80}: more than {limits.tensor_bytes >> 20} MiB")
    _check_data(where, tensor, values)
    return size


def _check_data(where: str, tensor: TensorProto, values: int) -> None:
    listed = {name: len(getattr(tensor, name)) for name in {*TYPED.values(), "int32_data"}}
    filled = {name for name, count in listed.items() if count}
    if tensor.HasField("raw_data"):
        wanted = values * ITEM_BYTES[tensor.data_type]
        if tensor.data_type == TensorProto.STRING or filled or len(tensor.raw_data) != wanted:
            raise Refused(
                Check.TENSORS, f"{where} has {len(tensor.raw_data)} bytes of data, but its shape takes {wanted}"
            )
        return
    own = TYPED.get(tensor.data_type, "int32_data")
    if filled - {own} or listed[own] != values:
        raise Refused(Check.TENSORS, f"{where} has {listed[own]} values, but its shape takes {values}")
