"""`interlock config show`: what is in force, where it came from, and what each key means."""

from __future__ import annotations

import importlib
import os
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import typer
from pydantic import BaseModel, ValidationError

from control.cli.command import command, group
from control.cli.output import table, text
from control.cli.problem import Problem
from control.cli.session import Session

app = group("Show the settings of the services.")


class Service(StrEnum):
    """The services that have settings."""

    CONTROL = "control"
    GATEWAY = "gateway"


SETTINGS: Final[Mapping[Service, str]] = {Service.CONTROL: "control.config", Service.GATEWAY: "gateway.config"}
"""The module of each service's Config: loaded by name, as the services are started; neither imports the other."""


class Setting(NamedTuple):
    """One key as it is in force."""

    key: str
    value: Any
    source: str
    default: Any
    meaning: str


@command(app, "show")
def show(
    session: Session, service: Annotated[Service | None, typer.Argument(help="Only this service's settings.")] = None
) -> None:
    """Shows every setting: its value, where that came from, its default, and what it means.

    Flags of a running service are over these; `interlock control --help` and `interlock gateway --help` list them.
    """
    document: dict[str, object] = {}
    parts: list[Any] = []
    for name in Service if service is None else [service]:
        found = settings(name)
        document[name] = {s.key: s._asdict() for s in found}
        rows = (
            (s.key, text(str(s.value), "" if s.source == "default" else "cyan"), s.source, s.default, s.meaning)
            for s in found
        )
        parts += [text(f"[{name}]", "bold"), table(("key", "value", "from", "default", "meaning"), rows), text("")]
    session.out.result(document, *parts)
    session.out.note(f"The file is {config_path()}{'' if config_path().exists() else ' (not there)'}.")


def settings(service: Service) -> list[Setting]:
    """The settings of a service as it would start with now; raises Problem where they are wrong."""
    kind: type[BaseModel] = importlib.import_module(SETTINGS[service]).Config
    try:
        config = kind()
        written = tomllib.loads(config_path().read_text("utf-8")).get(service, {}) if config_path().exists() else {}
    except tomllib.TOMLDecodeError as error:
        raise Problem("CONFIG_INVALID", f"{config_path()} is not TOML: {error}") from None
    except ValidationError as error:
        raise Problem("CONFIG_INVALID", _explain(service, error)) from None
    return [
        Setting(
            key,
            _shown(getattr(config, key)),
            _source(service, key, written),
            _shown(field.default),
            field.description or "",
        )
        for key, field in kind.model_fields.items()
    ]


def config_path() -> Path:
    """The one file of settings."""
    return Path(os.environ.get("INTERLOCK_CONFIG", "interlock.toml"))


def _source(service: Service, key: str, written: Mapping[str, object]) -> str:
    variable = f"INTERLOCK_{service.upper()}_{key.upper()}"
    if any(name.upper() == variable for name in os.environ):
        return variable
    return f"{config_path()} [{service}]" if key in written else "default"


def _shown(value: object) -> Any:
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def _explain(service: Service, error: ValidationError) -> str:
    problems = (
        f"{service}.{'.'.join(map(str, item['loc']))} = {item['input']!r}: {item['msg']}" for item in error.errors()
    )
    return "; ".join(problems) + f"; `interlock config show {service}` needs {config_path()} and the environment mended"
