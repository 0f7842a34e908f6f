"""What an operator does to this gateway from its own host: step back, and follow another history of the control plane.

A running gateway is asked on its admin port; where none runs, `python -m gateway step-back` and `accept-history` do the
same to the data directory.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from gateway.artifacts import sync_directory
from gateway.config import Config
from gateway.contract.errors import Fault, Reason
from gateway.stepback import Kind, Withdrawal, choose, effective
from gateway.tables import TableFiles
from gateway.telemetry import start_logging
from gateway.wire.routes import ServedVersion, parse_routes
from gateway.withdrawals import Withdrawals

LONGEST_REASON: Final = 2000
LONGEST_ACTOR: Final = 128


class StepBack(NamedTuple):
    """A step back that is durable."""

    answers: ServedVersion
    withdrawn: list[Withdrawal]


def step_back(config: Config, model: str, to_version: int, actor: str, reason: str) -> StepBack:
    """Withdraws the version that answers, and former champions newer than the one to go back to, durably.

    Raises Fault where there is nothing to go back to.
    """
    if not actor or len(actor) > LONGEST_ACTOR or len(reason) > LONGEST_REASON:
        raise Fault(
            Reason.ARGUMENT_INVALID, f"actor: 1 to {LONGEST_ACTOR} characters; reason: at most {LONGEST_REASON}"
        )
    withdrawals = Withdrawals(config.data)
    try:
        sent = parse_routes(config.routes_path.read_bytes())
        followed = effective(sent, withdrawals.read())
    except FileNotFoundError:
        raise Fault(
            Reason.NOT_READY, "this gateway has no route table yet, so no version answers that it could leave"
        ) from None
    except ValueError as error:
        raise Fault(Reason.INTERNAL, str(error)) from error
    choice = choose(followed, model, to_version)
    return StepBack(choice.answers, withdrawals.add(sent, choice.withdrawn, (Kind.MANUAL, actor, reason)))


def forget_history(config: Config) -> None:
    """Forgets routes and online features, so that they are fetched anew from whatever history is offered.

    No process of the gateway may run. Features go first: the routes of one history must never meet the features of
    another. Withdrawals stay in force, and are reported again, because the new history may not know of them.
    """
    for path in sorted(config.features_path.glob("*")) if config.features_path.exists() else ():
        path.unlink()
    sync_directory(config.data)
    TableFiles(config.routes_path).forget()
    sync_directory(config.data)
    Withdrawals(config.data).change(lambda found: [one._replace(recorded_by=0, counted_from=0) for one in found])


def run(command: str, arguments: Sequence[str]) -> int:
    """Does one of the commands to a data directory that no gateway uses; says as JSON what it did."""
    parser = argparse.ArgumentParser(f"gateway {command}")
    parser.add_argument("--data", type=Path, required=True)
    if command == "step-back":
        parser.add_argument("model")
        parser.add_argument("--to", type=int, default=0)
        parser.add_argument("--actor", required=True)
        parser.add_argument("--reason", default="")
    given = parser.parse_args(arguments)
    start_logging("by-hand", "warning")
    config = Config(data=given.data)
    try:
        with _alone(config):
            if command == "accept-history":
                forget_history(config)
                said = {}
            else:
                answers, withdrawn = step_back(config, given.model, given.to, given.actor, given.reason)
                said = {"answers": answers.version, "withdrawn": [one.version for one in withdrawn]}
    except Fault as fault:
        print(json.dumps({"reason": fault.reason, "message": fault.message}))
        return 1
    print(json.dumps(said))
    return 0


@contextlib.contextmanager
def _alone(config: Config) -> Iterator[None]:
    """Holds the data directory; raises Fault where there is none, or a gateway has it."""
    try:
        descriptor = os.open(config.data / "supervisor.lock", os.O_RDWR)
    except FileNotFoundError:
        raise Fault(Reason.ARGUMENT_INVALID, f"{config.data} is no gateway's data directory") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise Fault(Reason.TRANSITION_REFUSED, f"a gateway is starting or stopping in {config.data}; repeat") from None
    finally:
        os.close(descriptor)
