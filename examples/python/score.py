"""Scores a subscriber as a billing service would: `python score.py HOST:PORT MODEL SUBSCRIBER`.

docs/clients.md says how to compile the stubs that it imports.
"""

import json
import sys

import grpc
from google.rpc import error_details_pb2, status_pb2

from gateway.v1 import scoring_pb2, scoring_pb2_grpc

RETRY = {
    "maxAttempts": 3,
    "initialBackoff": "0.02s",
    "maxBackoff": "0.2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
CONFIG = {"methodConfig": [{"name": [{"service": "gateway.v1.ScoringService"}], "retryPolicy": RETRY}]}
OPTIONS = [
    ("grpc.service_config", json.dumps(CONFIG)),
    ("grpc.keepalive_time_ms", 65_000),
    ("grpc.use_local_subchannel_pool", 1),  # each channel has a connection of its own
]


def reason(error):
    """What to program against; empty where the failure did not come from the gateway."""
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    for detail in status_pb2.Status.FromString(details).details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason
    return ""


def main(address, model, subscriber):
    """Prints the score, or why there is none."""
    with grpc.insecure_channel(address, OPTIONS) as channel:  # on loopback only; elsewhere TLS
        stub = scoring_pb2_grpc.ScoringServiceStub(channel)
        try:
            reply = stub.Score(scoring_pb2.ScoreRequest(model=model, entities={"subscriber": subscriber}), timeout=5)
        except grpc.RpcError as error:
            print(f"code={error.code().name} reason={reason(error)} message={error.details()}")
            return 1
    flags = ", ".join(map(scoring_pb2.Flag.Name, reply.flags))
    print(
        f"score={reply.score:.6f} decision={reply.decision} version={reply.version} revision={reply.revision} "
        f"prediction={reply.prediction_id} flags=[{flags}]"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
