"""The two services as processes of their own, each with its log, none left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

Found = TypeVar("Found")

START_S: Final = 60.0
STOP_S: Final = 20.0


class Service(NamedTuple):
    """A service that was started."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


@dataclass(slots=True)
class Services:
    """What runs on one data directory. Leave the `with` block to end all of it."""

    data: Path
    running: list[Service] = field(default_factory=list)

    def __enter__(self) -> Services:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start_control(self) -> str:
        """Starts the control plane on a free port and returns its address."""
        data = self.data / "control"
        service = self._start("control", "--data", str(data), "--address", "127.0.0.1:0")
        written = data / "run" / "address"
        return until(lambda: _address(written), START_S, "the control plane to listen", service)

    def start_gateway(self, control: str, workers: int) -> str:
        """Starts a gateway on free ports and returns the address that callers use."""
        address, admin, metrics = free_addresses(3)
        self._start(
            "gateway",
            *("--data", str(self.data / "gateway"), "--control", control, "--workers", str(workers)),
            *("--token-file", str(self.data / "control" / "gateway.token")),
            *("--address", address, "--admin-address", admin, "--metrics-address", metrics),
        )
        return address

    def check(self) -> None:
        """Raises RuntimeError where a service has ended by itself."""
        for service in self.running:
            _require_alive(service)

    def stop(self) -> None:
        """Asks every service to drain, newest first; what does not leave in time is killed, with its children."""
        while self.running:
            service = self.running.pop()
            service.process.terminate()
            try:
                service.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                continue
            finally:
                _kill_group(service.process.pid)
                service.process.wait()

    def _start(self, name: str, *arguments: str) -> Service:
        log = self.data / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            # A session of its own: Ctrl-C reaches the demo alone, which then ends its services in order.
            process = subprocess.Popen(
                [sys.executable, "-m", name, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
                env=_environment(),
            )
        service = Service(name, process, log)
        self.running.append(service)
        return service


def until(look: Callable[[], Found | None], seconds: float, what: str, service: Service | None = None) -> Found:
    """Looks until something is found; raises TimeoutError, or RuntimeError where the service ended meanwhile."""
    deadline = time.monotonic() + seconds
    while (found := look()) is None:
        if service is not None:
            _require_alive(service)
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.02)
    return found


def free_addresses(count: int) -> list[str]:
    """Addresses on this host that nobody listens on, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [f"127.0.0.1:{item.getsockname()[1]}" for item in sockets]
    finally:
        for item in sockets:
            item.close()


def _environment() -> dict[str, str]:
    """This process's, without the settings of another installation: every setting that matters here is a flag."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("INTERLOCK_")}
    return others | {"INTERLOCK_CONFIG": os.devnull}


def _address(path: Path) -> str | None:
    try:
        return str(json.loads(path.read_text())["address"])
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _require_alive(service: Service) -> None:
    if (code := service.process.poll()) is not None:
        raise RuntimeError(f"the {service.name} service ended with code {code}; its last words: {_last_line(service)}")


def _last_line(service: Service) -> str:
    lines = service.log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:500] if lines else "none"


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
