"""Traces as both planes take part in them: the caller's W3C trace context, who is sampled, and spans."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Final, NamedTuple

TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
KNOWN: Final = 55
"""Characters of a traceparent that this version of the standard has."""
NOBODY: Final = b""
"""The parent of a span that has none."""
WHOLE_BPS: Final = 10_000


class TraceContext(NamedTuple):
    """What a caller says of the trace that a call belongs to."""

    trace_id: bytes
    span_id: bytes
    """Of the caller's span, which is the parent of ours."""
    sampled: bool
    """Whether the caller records the trace; where not, neither do we."""


class Span(NamedTuple):
    """A stretch of time of one trace."""

    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    """NOBODY for the first of its trace."""
    name: str
    serves: bool
    """Whether it is what a caller asked for, and not a part of that."""
    start_ns: int
    end_ns: int
    """Both UTC."""
    attributes: Mapping[str, str | int | float | bool]
    error: str = ""
    """Why it failed; empty where it did not."""


def sent(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The traceparent of a call; empty where there is none, or none that counts: two, or one that is malformed.

    Of a newer version's only what we know, so that it is hexadecimal digits and dashes whatever the caller sent.
    """
    found = [value for key, value in metadata if key == "traceparent"]
    return found[0][:KNOWN] if len(found) == 1 and isinstance(found[0], str) and parse(found[0]) else ""


def parse(traceparent: str) -> TraceContext | None:
    """Reads a traceparent as https://www.w3.org/TR/trace-context/ has it; None where it is to be ignored."""
    match = TRACEPARENT.fullmatch(traceparent) if len(traceparent) <= 200 else None
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceContext(bytes.fromhex(trace_id), bytes.fromhex(span_id), bool(int(flags, 16) & 1))


def digest(name: str, size: int) -> bytes:
    """An id that whoever makes it again makes alike, so that a span that is sent twice is one span."""
    return blake2b(name.encode(), digest_size=size).digest()


def chosen(name: str, share_bps: int) -> bool:
    """Whether a call without a trace context is sampled: every process chooses alike, and a larger share adds only."""
    return int.from_bytes(digest(name, 8)) % WHOLE_BPS < share_bps
