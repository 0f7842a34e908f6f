"""Batches of raw calls in, batches of replies out: nothing here knows what a call means.

A transport collects what arrives while the last batch runs and hands it over as the next one: a batch has one call
when the worker is idle, and more exactly when that helps.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple


class Call(NamedTuple):
    """One call, as it came."""

    method: str
    """Full name: /package.Service/Method."""
    request: bytes
    """The message, not yet parsed."""
    deadline_ns: int
    """When the caller stops waiting, on the monotonic clock."""
    trace: str = ""
    """The caller's W3C traceparent, where one was sent and traces are exported."""


class Reply(NamedTuple):
    """One answer. The code is 0 for OK, and then the rest beside the body is empty."""

    body: bytes
    """The message; empty for an error."""
    code: int = 0
    """The gRPC status code."""
    message: str = ""
    """For people."""
    details: bytes = b""
    """A serialized google.rpc.Status, for programs."""


Process = Callable[[Sequence[Call]], Sequence[Reply]]
"""Answers a batch: as many replies as calls, in their order. It never raises."""

Answer = Callable[[bytes], Reply | Awaitable[Reply]]
"""Answers one call beside the pipeline, at once or later, and never on the loop's time. It never raises."""
