"""`interlock`: everything that people ask of an installation, from a shell."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Final

import typer
from typer.exceptions import TyperException

from control.cli import (
    approval,
    audit,
    backup,
    check,
    config,
    explain,
    features,
    gateway,
    model,
    rollback,
    rollout,
    score,
    services,
    status,
    stopping,
    token,
    up,
)
from control.cli.output import Output
from control.cli.problem import ExitCode, Problem
from gateway.contract.errors import Fault, Reason

app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def print_version(wanted: bool) -> None:
    """Prints the version and ends the command."""
    if wanted:
        from importlib.metadata import version

        print(version("interlock"))
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Interlock: score by entity key at low latency, and govern which model version answers."""


up.declare(app)
services.declare(app)
check.declare(model.app)
stopping.declare(model.app)
app.add_typer(gateway.app, name="gateway")
app.add_typer(model.app, name="model")
app.add_typer(approval.app, name="approval")
app.add_typer(rollout.app, name="rollout")
app.add_typer(features.app, name="features")
score.declare(app)
rollback.declare(app)
backup.declare(app)
status.declare(app)
explain.declare(app)
app.add_typer(audit.app, name="audit")
app.add_typer(token.app, name="token")
app.add_typer(config.app, name="config")


REMEDIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        Reason.ROLE_MISSING: "the operator gives roles by `interlock token create NAME --role ROLE > NAME.token`; "
        "then add --token-file NAME.token",
        Reason.APPROVAL_OWN: "somebody else does it with their own --token-file",
        Reason.INPUT_MISMATCH: "as typed here, 3 is an int64 and 3.0 a float32, unless --type NAME=TYPE says otherwise",
    }
)
"""What a server cannot say of how to go on, because it does not know that it was asked from a shell."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0 done, 1 refused or unhealthy, 2 misused, 3 nobody answered."""
    # gRPC's own log would stand between the lines that people read.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        code = app(given, prog_name="interlock", standalone_mode=False)
    except Exception as error:
        return fail(error, Output(as_json="--json" in given))
    return code if isinstance(code, int) else 0


def fail(error: Exception, out: Output) -> int:
    """Says what went wrong and returns the exit code; what nobody expected is raised again."""
    from control.connection import CallFailed, Unreachable

    facts: dict[str, str] = {}
    match error:
        case BrokenPipeError():
            # Whoever read standard output has had enough, as `| head` does.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return ExitCode.DONE
        case Unreachable(reason=reason, message=message, facts=facts):
            code = ExitCode.UNREACHABLE
        case CallFailed(reason=reason, message=message, facts=facts):
            code = ExitCode.REFUSED
        case Problem(reason=reason, message=message, exit_code=code):
            pass
        case Fault(reason=reason, message=message, facts=facts):
            code = ExitCode.MISUSED
        case typer.Abort():
            reason, code = "NOT_CONFIRMED", ExitCode.REFUSED
            message = "nobody answered the question, so nothing was done; --yes answers it beforehand"
        case TyperException():
            reason, message, code = "USAGE", _with_usage(error), ExitCode.MISUSED
        case _:
            raise error
    remedy = f"; {REMEDIES[reason]}" if reason in REMEDIES else ""
    out.failure(reason, message + remedy, facts)
    return code


def _with_usage(error: TyperException) -> str:
    context = getattr(error, "ctx", None)
    hint = f"; `{context.command_path} --help` says what it takes" if context else ""
    return error.format_message().rstrip(".") + hint


if __name__ == "__main__":
    sys.exit(main())
