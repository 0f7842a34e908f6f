"""Callers who call at a fixed rate, whatever is answered: `python -m benchmarks.traffic`, until standard input ends.

Their first line of input says what to do; what they saw is their output, both JSON.
"""

from __future__ import annotations

import json
import random
import selectors
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.load import Client

CONNECTIONS: Final = 6
"""To each gateway, so that every worker has some."""
MOST_LATE_S: Final = 1.0
"""How far behind their time calls may be: what is later still is left out, and the rate is less."""


class Caller(Client):
    """A connection whose calls have a deadline."""

    def __init__(
        self, address: str, method: str, messages: Sequence[bytes], rng: random.Random, deadline_ms: int
    ) -> None:
        host, _, port = address.rpartition(":")
        super().__init__((host, int(port)), method, messages, rng)
        self.headers.append((b"grpc-timeout", b"%dm" % deadline_ms))
        self.failed_ns: list[int] = []
        """When calls failed, UTC."""

    def receive(self) -> int:
        """Reads what has come and returns how many calls ended."""
        before = self.statuses["0"]
        ended = super().receive()
        self.failed_ns += [time.time_ns()] * (ended - self.statuses["0"] + before)
        return ended


@contextmanager
def traffic(seen: dict[str, Any], **asked: Any) -> Iterator[None]:
    """Calls while the block lasts, in a process of its own; then `seen` has what it saw."""
    command = [sys.executable, "-m", "benchmarks.traffic"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
        try:
            yield
        finally:
            process.stdin.close()
            said = process.stdout.read()
    if process.returncode:
        raise RuntimeError("the callers failed")
    seen.update(json.loads(said))


def run(addresses: Sequence[str], method: str, messages: str, per_s: float, deadline_ms: int) -> dict[str, Any]:
    """Calls until standard input ends."""
    texts = [bytes.fromhex(line) for line in Path(messages).read_text().split()]
    rng = random.Random(1)
    callers = [Caller(address, method, texts, rng, deadline_ms) for _ in range(CONNECTIONS) for address in addresses]
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    for caller in callers:
        selector.register(caller.socket, selectors.EVENT_READ, caller)
    started = due = time.perf_counter()
    sent = 0
    while _receive(selector, max(0.0, due - time.perf_counter())):
        now = time.perf_counter()
        due = max(due, now - MOST_LATE_S)
        while due <= now:
            _send(selector, callers[sent % len(callers)])
            sent += 1
            due += 1 / per_s
    seconds = time.perf_counter() - started
    selector.unregister(sys.stdin)
    _finish(selector, callers, deadline_ms)
    return _summary(callers, sent, seconds)


def _send(selector: selectors.BaseSelector, caller: Caller) -> None:
    caller.send()
    try:
        caller.flush()
    except ConnectionError:
        _connect(selector, caller)


def _connect(selector: selectors.BaseSelector, caller: Caller) -> None:
    """Connects anew where a worker is gone; what was under way has failed."""
    selector.unregister(caller.socket)
    caller.failed_ns += [time.time_ns()] * len(caller.started)
    caller.connect()
    selector.register(caller.socket, selectors.EVENT_READ, caller)


def _receive(selector: selectors.BaseSelector, wait_s: float) -> bool:
    """Takes what has come; whether to go on."""
    for key, _ in selector.select(wait_s):
        if key.data is None:
            return False
        caller: Caller = key.data
        try:
            caller.receive()
            caller.flush()
        except ConnectionError:
            _connect(selector, caller)
    return True


def _finish(selector: selectors.BaseSelector, callers: Sequence[Caller], deadline_ms: int) -> None:
    """Waits for the last answers."""
    until = time.perf_counter() + 2 * deadline_ms / 1000
    while any(caller.started for caller in callers) and time.perf_counter() < until:
        _receive(selector, 0.1)


def _summary(callers: Sequence[Caller], sent: int, seconds: float) -> dict[str, Any]:
    statuses: Counter[str] = sum((caller.statuses for caller in callers), Counter())
    latencies = sorted(latency for caller in callers for latency in caller.latencies)
    return {
        "calls": sent,
        "calls_per_s": round(sent / seconds),
        "failed": sent - statuses["0"],
        "failed_ns": sorted(at for caller in callers for at in caller.failed_ns),
        "statuses": statuses,
        "p50_ms": round(latencies[len(latencies) // 2] * 1e3, 2),
        "p99_ms": round(latencies[len(latencies) * 99 // 100] * 1e3, 2),
    }


if __name__ == "__main__":
    json.dump(run(**json.loads(sys.stdin.readline())), sys.stdout)
