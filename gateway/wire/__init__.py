"""Bytes to requests, answers to bytes: the only place of the request path that knows the messages of gateway.v1."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from gateway.contract.errors import Fault
from gateway.request import Request, Slice
from gateway.transport import Call, Reply


class Method(NamedTuple):
    """How one method's messages are read and written."""

    decode: Callable[[Call], Request]
    """Reads a message; raises Fault where it is none."""
    encode: Callable[[Slice], bytes]
    """Writes the answer."""
    refuse: Callable[[Request | None, Fault], Reply]
    """Says what was wrong; without the request where it could not be read."""
    whole: bool
    """Whether an error of one row is the whole call's."""
    streams: bool = False
    """Whether messages come and go on a stream, one answer for each."""
