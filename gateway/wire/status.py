"""From a fault to a gRPC status with a google.rpc.ErrorInfo."""

from __future__ import annotations

import secrets
import time
from functools import partial
from typing import Final

from google.protobuf.any_pb2 import Any
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from gateway.contract.errors import DOMAIN, Fault, Reason
from gateway.contract.ration import ErrorIds, cause_of
from gateway.request import Request
from gateway.telemetry import log_error
from gateway.transport import Reply

MOST_MESSAGE_BYTES: Final = 1_500
"""Of a status message. It travels twice, once percent-encoded, and a client's limit on trailers may be 8 KiB."""

ERROR_IDS: Final = ErrorIds(partial(secrets.token_hex, 8))


def refusal(fault: Fault) -> Reply:
    """The reply that carries a fault."""
    info = Any()
    info.Pack(ErrorInfo(reason=fault.reason, domain=DOMAIN, metadata=fault.facts))
    message = fault.message
    if len(message) > MOST_MESSAGE_BYTES // 4:  # a character takes at most four bytes
        message = message.encode()[:MOST_MESSAGE_BYTES].decode(errors="ignore")
    status = Status(code=fault.code, message=message, details=[info])
    return Reply(b"", int(fault.code), message, status.SerializeToString())


def refuse(_: Request | None, fault: Fault) -> Reply:
    """The reply to a unary call that is refused."""
    return refusal(fault)


def internal(error: BaseException) -> Fault:
    """What a caller learns of an error of ours: an id, under which the log has the cause."""
    cause = cause_of(error)
    error_id, fresh = ERROR_IDS.tell(cause, time.monotonic_ns())
    if fresh:
        log_error("internal_error", error, error_id=error_id, cause=cause)
    return Fault(
        Reason.INTERNAL, f"a fault of the gateway's own; its log has the cause under {error_id}", error_id=error_id
    )
