"""The control plane's settings: one TOML table `[control]`, environment variables, and flags, each over the former."""

from __future__ import annotations

import argparse
import os
import tomllib
from collections.abc import Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

Address = Annotated[str, Field(pattern=r"^\S+:\d{1,5}$")]


class Config(BaseSettings):
    """Every key, with its default and unit. A port of 0 takes a free one."""

    model_config = SettingsConfigDict(
        env_prefix="INTERLOCK_CONTROL_", use_attribute_docstrings=True, extra="forbid", frozen=True
    )

    data: Path = Path(".interlock/control")
    """Directory of everything the control plane keeps: the store, artifacts, tokens of its first start."""
    address: Address = "127.0.0.1:7400"
    """HOST:PORT on which people, pipelines and gateways are served."""
    threads: Annotated[int, Field(gt=0, le=256)] = 16
    """Calls answered at once; the store takes one change at a time, so more would only wait."""
    max_streams: Annotated[int, Field(gt=0, le=4096)] = 256
    """Uploads, materializations and watching gateways served at once; a gateway takes two."""
    max_connections: Annotated[int, Field(gt=0)] = 256
    """Connections accepted."""
    max_message_bytes: Annotated[int, Field(ge=1 << 20, le=256 << 20)] = 16 << 20
    """Bytes of the largest message taken: 10,000 rows of a wide view fit, artifacts come in chunks of 1 MiB."""
    max_artifact_bytes: Annotated[int, Field(gt=0)] = 256 << 20
    """Bytes of the largest artifact taken."""
    allow_unapproved: bool = False
    """Whether versions that nobody approved may answer, marked so: for trial by one person, on loopback only."""
    lake: Path | None = None
    """Directory of predictions and outcomes, the gateways' `lake`; none is `lake` beside the data directory."""
    drain_ms: Annotated[int, Field(ge=0)] = 5000
    """Milliseconds that calls in flight get to finish when the control plane stops."""
    otlp_endpoint: Annotated[str, Field(pattern=r"^$|^https?://[^\s/@]+:\d{1,5}$")] = ""
    """http(s)://HOST:PORT of an OpenTelemetry collector's gRPC port, by custom 4317; empty exports nothing."""
    otlp_sample_bps: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Basis points of the calls without a trace context for which spans are exported."""
    otlp_interval_ms: Annotated[int, Field(ge=100, le=600_000)] = 10_000
    """Milliseconds from one export of metrics and spans to the next."""
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = "info"
    """The least severe log line written: debug, info, warning or error."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - no .env file is read: one file is enough
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - nor a directory of secrets
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags (given as init arguments) before environment before file."""
        return init_settings, env_settings, TomlTable(settings_cls)

    @property
    def store_path(self) -> Path:
        """The store."""
        return self.data / "store.sqlite"

    @property
    def lake_path(self) -> Path:
        """The lake."""
        return self.lake or self.data.absolute().parent / "lake"

    @property
    def artifacts_path(self) -> Path:
        """Artifacts by digest."""
        return self.data / "artifacts"

    @property
    def operator_token_path(self) -> Path:
        """The first operator's token."""
        return self.data / "operator.token"

    @property
    def gateway_token_path(self) -> Path:
        """The gateways' token."""
        return self.data / "gateway.token"

    @property
    def lock_path(self) -> Path:
        """Held by the one control plane of the directory."""
        return self.data / "lock"

    @property
    def address_path(self) -> Path:
        """Where the running control plane listens."""
        return self.data / "run" / "address"


class TomlTable(TomlConfigSettingsSource):
    """The table `[control]` of the file that INTERLOCK_CONFIG names, or of ./interlock.toml."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls, Path(os.environ.get("INTERLOCK_CONFIG", "interlock.toml")))

    def _read_file(self, file_path: Path | Traversable) -> dict[str, object]:
        try:
            return dict(super()._read_file(file_path).get("control", {}))
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{file_path}: {error}") from None


def config_from_flags(arguments: Sequence[str] | None = None) -> Config:
    """The settings, with the flags of a command line over them: each key is a flag, with dashes."""
    parser = argparse.ArgumentParser(prog="python -m control", description="Starts the control plane of Interlock.")
    for name, field in Config.model_fields.items():
        description = f"{field.description} Default: {field.default}".replace("%", "%%")
        parser.add_argument(f"--{name.replace('_', '-')}", default=argparse.SUPPRESS, help=description)
    return Config(**vars(parser.parse_args(arguments)))
