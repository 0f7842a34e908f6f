"""`python -m gateway --flags` starts a gateway. The supervisor starts the other roles of it in the same way."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import tomllib
from collections.abc import Sequence
from typing import Final

from pydantic import ValidationError

from gateway.config import Config
from gateway.telemetry import LOG, start_logging

NICENESS: Final = 5
ROLES: Final = ("worker", "observer", "materializer", "recorder", "mirror", "exporter")
BY_HAND: Final = ("step-back", "accept-history")
LEAVE_S: Final = 5.0
"""How much longer than its drain a process may take to leave after its supervisor has died."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the role that the arguments name, the supervisor where they name none, and returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in ROLES:
        return run_role(given[0], given[1:])
    if given and given[0] in BY_HAND:
        from gateway import by_hand

        return by_hand.run(given[0], given[1:])
    try:
        from gateway import supervisor

        gateway = supervisor.prepare(Config.model_validate(parse_flags(given)))
    except (ValueError, OSError) as error:
        print(f"gateway: {describe(error)}", file=sys.stderr)
        return 2
    return gateway.run()


def parse_flags(arguments: Sequence[str]) -> dict[str, str]:
    """The settings that flags give, by key; argparse prints what is wrong with a flag and exits with 2."""
    text = (
        "Starts a gateway. To one that runs on this host: `interlock gateway rollback MODEL` steps back from a bad "
        "version, whether the control plane runs or not; `interlock gateway accept-history` follows a restored one."
    )
    parser = argparse.ArgumentParser("gateway", description=text, allow_abbrev=False)
    for key, field in Config.model_fields.items():
        shown = "" if field.default in (None, "") else f" Default: {field.default}."
        text = f"{field.description}{shown}".replace("%", "%%")
        parser.add_argument(f"--{key.replace('_', '-')}", dest=key, metavar="VALUE", help=text)
    return {key: value for key, value in vars(parser.parse_args(arguments)).items() if value is not None}


def describe(error: Exception) -> str:
    """One line that names the key."""
    match error:
        case ValidationError():
            found = error.errors()
            return "; ".join(f"{'.'.join(map(str, item['loc']))} = {item['input']!r}: {item['msg']}" for item in found)
        case OSError():
            return f"{error.filename or 'a file'}: {error.strerror}"
        case tomllib.TOMLDecodeError():
            return f"the configuration file is not TOML: {error}"
        case _:
            return str(error)


def run_role(role: str, arguments: Sequence[str]) -> int:
    """Runs one process of a gateway; its settings come on standard input, whose end means that the supervisor died."""
    config = Config.model_validate_json(sys.stdin.readline())
    start_logging("-".join([role, *arguments]), config.log_level)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the supervisor says when to leave
    threading.Thread(target=leave_with_the_supervisor, args=(config,), daemon=True).start()
    if role != "worker":
        os.nice(NICENESS)  # callers come first
    try:
        work(role, arguments, config)
    except Exception as error:
        LOG.critical("process_failed", exc_info=error)
        return 1
    return 0


def work(role: str, arguments: Sequence[str], config: Config) -> None:
    """Does the work of the role until it is told to leave; imports no more than that takes."""
    match role:
        case "worker":
            from gateway import worker

            worker.run(config, int(arguments[0]))
        case "observer":
            from gateway import observer

            observer.run(config)
        case "exporter":
            from gateway import otlp

            otlp.run(config)
        case "mirror":
            from gateway.mirror import process as mirror

            mirror.run(config)
        case "recorder":
            from gateway.recorder import process

            process.run(config)
        case _:
            from gateway import materializer

            materializer.run(config)


def leave_with_the_supervisor(config: Config) -> None:
    """Waits for the end of standard input, asks this process to drain, and ends it if it does not."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(config.drain_ms / 1000 + LEAVE_S)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
