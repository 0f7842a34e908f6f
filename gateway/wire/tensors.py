"""Tensors of the Open Inference Protocol: datatypes, raw bytes and typed contents, to and from arrays."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from math import prod
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from gateway.contract.errors import Fault, Reason
from gateway.contract.tensors import Array
from gateway.v1 import inference_pb2 as pb

LENGTH: Final = struct.Struct("<I")
"""What stands before each element of a raw BYTES tensor."""
BYTES: Final = "BYTES"
MAX_DIMENSIONS: Final = 8
"""Of a tensor: more than any table has, fewer than numpy refuses."""
DTYPES: Final[Mapping[str, np.dtype[Any]]] = MappingProxyType(
    {
        "BOOL": np.dtype(np.bool_),
        "UINT8": np.dtype(np.uint8),
        "UINT16": np.dtype("<u2"),
        "UINT32": np.dtype("<u4"),
        "UINT64": np.dtype("<u8"),
        "INT8": np.dtype(np.int8),
        "INT16": np.dtype("<i2"),
        "INT32": np.dtype("<i4"),
        "INT64": np.dtype("<i8"),
        "FP16": np.dtype("<f2"),
        "FP32": np.dtype("<f4"),
        "FP64": np.dtype("<f8"),
        BYTES: np.dtype(object),
    }
)
"""How numpy holds each datatype; BYTES as texts."""
DATATYPES: Final[Mapping[np.dtype[Any], str]] = MappingProxyType({dtype: name for name, dtype in DTYPES.items()})
CONTENTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "BOOL": "bool_contents",
        "UINT8": "uint_contents",
        "UINT16": "uint_contents",
        "UINT32": "uint_contents",
        "UINT64": "uint64_contents",
        "INT8": "int_contents",
        "INT16": "int_contents",
        "INT32": "int_contents",
        "INT64": "int64_contents",
        "FP32": "fp32_contents",
        "FP64": "fp64_contents",
        BYTES: "bytes_contents",
    }
)
"""The list of InferTensorContents that holds each datatype; FP16 comes raw only."""


def read_tensors(message: pb.ModelInferRequest) -> dict[str, Array]:
    """The inputs of a call by name; raises Fault where one's elements do not fit its datatype and shape."""
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise Fault(
            Reason.INPUT_MISMATCH,
            f"raw_input_contents has {len(raw)} entries for {len(message.inputs)} inputs; send one for each, in order",
        )
    tensors: dict[str, Array] = {}
    for index, tensor in enumerate(message.inputs):
        if tensor.name in tensors:
            raise Fault(Reason.INPUT_MISMATCH, f"input {tensor.name[:100]!r} is given twice")
        if tensor.datatype not in DTYPES:
            raise Fault(
                Reason.INPUT_MISMATCH,
                f"input {tensor.name[:100]!r} has datatype {tensor.datatype[:20]!r}; taken are {', '.join(DTYPES)}",
            )
        if raw and tensor.HasField("contents"):
            raise Fault(
                Reason.INPUT_MISMATCH,
                "contents field must not be specified when using raw_input_contents "
                f"for {tensor.name[:100]!r} for model {message.model_name[:100]!r}",
            )
        tensors[tensor.name] = _from_raw(tensor, raw[index]) if raw else _from_contents(tensor)
    return tensors


def write_raw(values: Array) -> bytes:
    """An array as raw bytes; texts in UTF-8 with their lengths."""
    if values.dtype != object:
        return values.tobytes()
    encoded = [value.encode() if isinstance(value, str) else bytes(value) for value in values.reshape(-1).tolist()]
    return b"".join(LENGTH.pack(len(item)) + item for item in encoded)


def _from_raw(tensor: Any, raw: bytes) -> Array:
    n, dtype = _size(tensor), DTYPES[tensor.datatype]
    if tensor.datatype == BYTES:
        return _texts(tensor, _split(tensor, raw, n))
    if len(raw) != n * dtype.itemsize:
        raise Fault(
            Reason.INPUT_MISMATCH,
            f"input byte size mismatch for input {tensor.name[:100]!r}. Expected {n * dtype.itemsize}, got {len(raw)}",
        )
    return np.frombuffer(raw, dtype).reshape(tensor.shape)


def _from_contents(tensor: Any) -> Array:
    n = _size(tensor)
    field = CONTENTS.get(tensor.datatype)
    if field is None:
        raise Fault(Reason.INPUT_MISMATCH, f"input {tensor.name[:100]!r}: {tensor.datatype} comes as raw contents only")
    elements = getattr(tensor.contents, field)
    if len(elements) != n:
        raise Fault(
            Reason.INPUT_MISMATCH,
            f"unexpected number of elements {len(elements)} in {field} for input {tensor.name[:100]!r}, "
            f"whose shape {list(tensor.shape)} has {n}",
        )
    if tensor.datatype == BYTES:
        return _texts(tensor, list(elements))
    wide, dtype = np.array(elements), DTYPES[tensor.datatype]  # small numbers come in a list of larger ones
    values = wide.astype(dtype)
    if dtype.itemsize < wide.itemsize and not np.array_equal(values, wide):
        raise Fault(Reason.INPUT_MISMATCH, f"input {tensor.name[:100]!r} has an element that is no {tensor.datatype}")
    return values.reshape(tensor.shape)


def _size(tensor: Any) -> int:
    if any(size < 0 for size in tensor.shape) or len(tensor.shape) > MAX_DIMENSIONS:
        raise Fault(
            Reason.INPUT_MISMATCH, f"input {tensor.name[:100]!r} has shape {list(tensor.shape)[:10]}, which is none"
        )
    return prod(tensor.shape)


def _split(tensor: Any, raw: bytes, n: int) -> list[bytes]:
    elements: list[bytes] = []
    at = 0
    while at + LENGTH.size <= len(raw) and len(elements) < n:
        end = at + LENGTH.size + LENGTH.unpack_from(raw, at)[0]
        if end > len(raw):
            break
        elements.append(raw[at + LENGTH.size : end])
        at = end
    if len(elements) != n or at != len(raw):
        raise Fault(
            Reason.INPUT_MISMATCH,
            f"expected {n} string elements for input {tensor.name[:100]!r}, each with its length in 4 bytes before it; "
            f"the {len(raw)} bytes hold {len(elements)}" + ("" if at == len(raw) else " and something else"),
        )
    return elements


def _texts(tensor: Any, elements: list[bytes]) -> Array:
    texts = np.empty(len(elements), object)
    try:
        texts[:] = [element.decode() for element in elements]
    except UnicodeDecodeError:
        raise Fault(Reason.INPUT_MISMATCH, f"input {tensor.name[:100]!r} has an element that is no UTF-8") from None
    return texts.reshape(tensor.shape)
