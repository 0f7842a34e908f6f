"""The floor: a bare grpc.aio + uvloop handler that returns a constant reply. `python -m benchmarks.floor BYTES`."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import uvloop

METHOD = "/gateway.v1.ScoringService/Score"


async def serve(reply: bytes) -> None:
    """Serves on a free port, which is the first line that it prints, until it is killed."""

    async def behaviour(_request: bytes, _context: Any) -> bytes:
        return reply

    handler = grpc.method_handlers_generic_handler(
        "gateway.v1.ScoringService", {"Score": grpc.unary_unary_rpc_method_handler(behaviour)}
    )
    server = grpc.aio.server(options=[("grpc.max_concurrent_streams", 256)])
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(bytes(int(sys.argv[1]))))
