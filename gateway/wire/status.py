"""From a fault to a gRPC status with a google.rpc.ErrorInfo."""

from __future__ import annotations

import logging
import secrets
from typing import Final

from google.protobuf.any_pb2 import Any
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from gateway.contract.errors import DOMAIN, Fault, Reason
from gateway.request import Request
from gateway.telemetry import LOG
from gateway.transport import Reply

MOST_MESSAGE_BYTES: Final = 1_500
"""Of a status message. It travels twice, once percent-encoded, and a client's limit on trailers may be 8 KiB."""


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
    error_id = secrets.token_hex(8)
    LOG.log(logging.ERROR, "internal_error", exc_info=error, extra={"facts": {"error_id": error_id}})
    return Fault(
        Reason.INTERNAL, f"a fault of the gateway's own; its log has the cause under {error_id}", error_id=error_id
    )
