"""How a feature row is kept: fixed width, one layout per view, decoded for a whole batch at once.

A row is a checksum, two times, a bitmap of nulls, and one block per type, so that a batch of rows is a structured
array over the joined bytes and a model's columns are slices of its blocks. Little-endian throughout.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.contract.schema import Dtype, FeatureView

FORMAT: Final = 1
BLANK: Final = 0
"""The format number of the row that stands in for one that was not found."""

Rows = npt.NDArray[np.void]
"""Decoded rows, shape (n,): fields crc, format, event_ns, created_ns, nulls, int64, float32, code, flag."""

BLOCKS: Final = {
    Dtype.INT64: ("int64", "<i8"),
    Dtype.FLOAT32: ("float32", "<f4"),
    Dtype.STRING: ("code", "<u4"),
    Dtype.BOOL: ("flag", "u1"),
}
"""The block that keeps each type; strings are kept as codes of the feature's dictionary."""


class Place(NamedTuple):
    """Where a feature lies: its block, its column in that block, and its bit among the nulls."""

    block: str
    column: int
    bit: int


class Decoded(NamedTuple):
    """Rows of one view."""

    rows: Rows
    """Shape (n,), writable."""
    event_ns: list[int]
    """Per row: its event time, UTC."""
    plain: bool
    """Whether every row was found and has every value."""


class RowCodec:
    """The layout of one view's rows. `stride` is the length of a row in bytes, a multiple of 8."""

    def __init__(self, view: FeatureView) -> None:
        self.view = view
        counts = dict.fromkeys(BLOCKS, 0)
        self.places: dict[str, Place] = {}
        for bit, feature in enumerate(view.features):
            self.places[feature.name] = Place(BLOCKS[feature.type][0], counts[feature.type], bit)
            counts[feature.type] += 1
        self.words = -(-len(view.features) // 64)
        fields: list[tuple[str, Any]] = [("crc", "<u4"), ("format", "<u2"), ("spare", "<u2"), ("event_ns", "<i8")]
        fields += [("created_ns", "<i8"), ("nulls", ("<u8", (self.words,)))]
        fields += [(name, (kind, (counts[dtype],))) for dtype, (name, kind) in BLOCKS.items() if counts[dtype]]
        packed: np.dtype[Any] = np.dtype(fields)
        self._header = struct.Struct(f"<I4xq8x{8 * self.words}s")
        self._zeros = bytes(8 * self.words)
        self.stride = -(-packed.itemsize // 8) * 8
        offsets = [offset for _, offset, *_ in dict(packed.fields or {}).values()]
        names, formats = [name for name, _ in fields], [kind for _, kind in fields]
        self.dtype: np.dtype[Any] = np.dtype(
            {"names": names, "formats": formats, "offsets": offsets, "itemsize": self.stride}
        )

    @cached_property
    def blank(self) -> bytes:
        """Stands in for a row that was not found: every value null, format BLANK."""
        row = np.zeros(1, self.dtype)
        row["nulls"] = ~np.uint64(0)
        return _sealed(row)

    def encode(
        self,
        event_ns: npt.ArrayLike,
        created_ns: npt.ArrayLike,
        columns: Mapping[str, npt.ArrayLike],
        nulls: Mapping[str, npt.ArrayLike],
    ) -> bytes:
        """Encodes n rows and returns n times stride bytes.

        `columns` has a column for every feature, strings as dictionary codes; `nulls` may have a boolean column for
        any. Raises KeyError for a feature without a column.
        """
        event = np.asarray(event_ns, np.int64)
        rows = np.zeros(event.shape[0], self.dtype)
        rows["format"] = FORMAT
        rows["event_ns"] = event
        rows["created_ns"] = created_ns
        for name, place in self.places.items():
            null = np.asarray(nulls.get(name, False), bool)
            values = np.asarray(columns[name])
            rows[place.block][:, place.column] = np.where(null, np.zeros((), values.dtype), values)
            rows["nulls"][:, place.bit // 64] |= null.astype(np.uint64) << np.uint64(place.bit % 64)
        return _sealed(rows)

    def decode(self, values: Sequence[bytes]) -> Decoded:
        """Decodes rows, one per element.

        Raises ValueError where a row is not one of this layout or was damaged: `damaged` says which.
        """
        unpack, stride, crc32, zeros = self._header.unpack_from, self.stride, zlib.crc32, self._zeros
        event_ns = []
        plain = True
        for value in values:
            if len(value) != stride:
                raise ValueError(f"a row of view {self.view.name} has {len(value)} bytes instead of {stride}")
            crc, time_ns, nulls = unpack(value)
            if crc32(value[4:]) != crc:
                raise ValueError(f"a row of view {self.view.name} is damaged")
            event_ns.append(time_ns)
            if nulls != zeros:
                plain = False
        return Decoded(np.frombuffer(bytearray().join(values), self.dtype), event_ns, plain)

    def damaged(self, values: Sequence[bytes]) -> list[int]:
        """The rows that are not of this layout or whose checksum is wrong."""
        return [
            index
            for index, value in enumerate(values)
            if len(value) != self.stride or zlib.crc32(value[4:]) != int.from_bytes(value[:4], "little")
        ]


def _sealed(rows: Rows) -> bytes:
    raw = bytearray(rows.tobytes())
    stride = rows.dtype.itemsize
    for start in range(0, len(raw), stride):
        crc = zlib.crc32(memoryview(raw)[start + 4 : start + stride])
        raw[start : start + 4] = crc.to_bytes(4, "little")
    return bytes(raw)
