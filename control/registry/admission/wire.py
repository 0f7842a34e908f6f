"""The outermost layer of the file, byte by byte: what a parser would merge or skip is refused. Pure.

Two messages one after the other are one message to protobuf, in which the second overrides the first; what two parsers
then see is theirs to decide. So every single field may be there once, and every field must be known.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from control.registry.admission.report import Check, Refused

SINGLE: Final = {
    1: "ir_version",
    2: "producer_name",
    3: "producer_version",
    4: "domain",
    5: "model_version",
    6: "doc_string",
    7: "graph",
}
REPEATED: Final = {8: "opset_import", 14: "metadata_props", 20: "training_info", 25: "functions", 26: "configuration"}
NUMBERS: Final = frozenset({1, 5})
"""The fields that are numbers; all others are bytes with a length."""
MEND: Final = "it is truncated, damaged, or has something appended; export it again"


def check_wire(data: bytes, max_fields: int) -> None:
    """Refuses a file that is not exactly one model."""
    seen: set[int] = set()
    for count, (number, kind, at) in enumerate(_fields(data), 1):
        if count > max_fields:
            raise Refused(Check.LIMITS, f"the model has more than {max_fields} outermost fields")
        if number not in SINGLE and number not in REPEATED:
            raise Refused(Check.WIRE, f"byte {at} begins field {number}, which no model has: {MEND}")
        if kind != (0 if number in NUMBERS else 2):
            raise Refused(Check.WIRE, f"byte {at} begins field {number} with a value of another type: {MEND}")
        if number in SINGLE and number in seen:
            raise Refused(Check.WIRE, f"{SINGLE[number]} is there twice (byte {at}): two models in one file? Send one")
        seen.add(number)
    if 7 not in seen:
        raise Refused(Check.WIRE, f"the file has no graph: {MEND}")


def _fields(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The number and wire type of each outermost field, and where it begins."""
    at = 0
    while at < len(data):
        start = at
        key, at = _varint(data, at)
        match key & 7:
            case 0:
                _, at = _varint(data, at)
            case 1:
                at += 8
            case 2:
                length, at = _varint(data, at)
                at += length
            case 5:
                at += 4
            case _:
                raise Refused(Check.WIRE, f"byte {start} is no field of a model: {MEND}")
        if at > len(data):
            raise Refused(Check.WIRE, f"the field at byte {start} is longer than the file: {MEND}")
        yield key >> 3, key & 7, start


def _varint(data: bytes, start: int) -> tuple[int, int]:
    """The number that begins at `start`, and where it ends."""
    value = 0
    for at in range(start, min(start + 10, len(data))):
        value |= (data[at] & 0x7F) << (7 * (at - start))
        if data[at] < 0x80:
            return value, at + 1
    raise Refused(Check.WIRE, f"byte {start} begins a number that does not end: {MEND}")
