"""The two services as processes of their own, each with its log, none left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from control.cli.processes import service_command, service_environment
from control.places import ControlPlace, GatewayPlace, control_place, gateway_place, gateway_token_path

Found = TypeVar("Found")

FREE: Final = "127.0.0.1:0"
"""A free port of this host."""
JOURNAL_BYTES: Final = 64 << 20
"""Room for all of the demo's calls several times over; the default would reserve a gigabyte for them."""
LAKE_FLUSH_MS: Final = 1_000
"""How soon the control plane sees an outcome; the default would have the story wait for half a minute."""
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

    def start_control(self) -> ControlPlace:
        """Starts the control plane on a free port."""
        service = self._start("control", "--data", str(self.data / "control"), "--address", FREE)
        return until(lambda: control_place(self.data), START_S, "the control plane to listen", service)

    def start_gateway(self, control: str, workers: int) -> GatewayPlace:
        """Starts a gateway on free ports."""
        service = self._start(
            "gateway",
            *("--data", str(self.data / "gateway"), "--control", control, "--workers", str(workers)),
            *("--token-file", str(gateway_token_path(self.data))),
            *("--address", FREE, "--admin-address", FREE, "--metrics-address", FREE),
            *("--journal-bytes", str(JOURNAL_BYTES)),
            *("--lake-flush-ms", str(LAKE_FLUSH_MS)),
        )
        return until(lambda: gateway_place(self.data), START_S, "the gateway to listen", service)

    def check(self) -> None:
        """Raises RuntimeError where a service has ended by itself."""
        for service in self.running:
            _require_alive(service)

    def stop(self) -> list[str]:
        """Asks every service to drain, newest first, and says which did not end as it should."""
        ended = [_end(self.running.pop()) for _ in range(len(self.running))]
        return [problem for problem in ended if problem]

    def _start(self, name: str, *arguments: str) -> Service:
        log = self.data / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            # A session of its own: Ctrl-C reaches the demo alone, which then ends its services in order.
            process = subprocess.Popen(
                service_command(name, arguments),
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


def _environment() -> dict[str, str]:
    """This process's, without the settings of another installation: every setting that matters here is a flag."""
    others = {name: value for name, value in service_environment().items() if not name.startswith("INTERLOCK_")}
    return others | {"INTERLOCK_CONFIG": os.devnull}


def _require_alive(service: Service) -> None:
    if (code := service.process.poll()) is not None:
        raise RuntimeError(f"the {service.name} service ended with code {code}; its last words: {_last_line(service)}")


def _last_line(service: Service) -> str:
    lines = service.log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:500] if lines else "none"


def _end(service: Service) -> str | None:
    """Ends a service, by force with all of its children where it does not leave in time."""
    service.process.terminate()
    try:
        code = service.process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        return f"the {service.name} service did not end within {STOP_S:.0f} s and was killed"
    finally:
        left = _kill_group(service.process.pid)
        service.process.wait()
    if code:
        return f"the {service.name} service ended with code {code}; its last words: {_last_line(service)}"
    return f"the {service.name} service left processes behind, which were killed" if left else None


def _kill_group(pid: int) -> bool:
    """Kills what is left of a process's group; whether there was anything."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
