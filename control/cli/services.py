"""`interlock control` becomes the service, with its flags passed through; so does `interlock gateway`."""

from __future__ import annotations

import os
from typing import Final

import typer

from control.cli.extras import needs_control
from control.cli.processes import service_command, service_environment

PASS_THROUGH: Final = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def declare(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("control", context_settings=PASS_THROUGH, add_help_option=False)(control)


def control(context: typer.Context) -> None:
    """Starts a control plane; its flags are listed by `interlock control --help`."""
    needs_control("the control plane")
    become("control", context.args)


def become(service: str, arguments: list[str]) -> None:
    """Replaces this process, so that signals reach the service and its exit code is ours."""
    command = service_command(service, arguments)
    os.execve(command[0], command, service_environment())  # noqa: S606 - an argument list of ours
