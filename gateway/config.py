"""The gateway's settings: one TOML table `[gateway]`, environment variables, and flags, each overriding the former."""

from __future__ import annotations

import os
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

Address = Annotated[str, Field(pattern=r"^\S+:\d{1,5}$")]


class Config(BaseSettings):
    """Every key, with its default and unit. A port of 0 takes a free one."""

    model_config = SettingsConfigDict(
        env_prefix="INTERLOCK_GATEWAY_", use_attribute_docstrings=True, extra="forbid", frozen=True
    )

    data: Path = Path(".interlock/gateway")
    """Directory of everything the gateway keeps: routes, artifacts, online features, journal."""
    control: str = ""
    """HOST:PORT of the control plane; empty serves what the data directory holds, for ever."""
    token_file: Path | None = None
    """File with the gateway's bearer token, made by the control plane on its first start."""
    address: Address = "127.0.0.1:7500"
    """HOST:PORT on which callers are served; all workers share it."""
    admin_address: Address = "127.0.0.1:7501"
    """HOST:PORT of health and administration, apart from the callers' port so that neither starves the other."""
    metrics_address: Address = "127.0.0.1:7502"
    """HOST:PORT on which Prometheus reads the metrics."""
    workers: Annotated[int, Field(ge=0, le=256)] = 0
    """Worker processes; 0 starts one per core that this process may use."""
    default_deadline_ms: Annotated[int, Field(gt=0)] = 1000
    """Milliseconds that a call without a deadline gets: longer than any good answer takes."""
    max_message_bytes: Annotated[int, Field(ge=1024, le=4 << 20)] = 1 << 20
    """Bytes of the largest request taken; 256 rows fit in a tenth of the default."""
    max_in_flight: Annotated[int, Field(gt=0)] = 512
    """Calls that one worker accepts before it answers RESOURCE_EXHAUSTED: half a second of work at 1,000 calls/s."""
    max_connections: Annotated[int, Field(gt=0)] = 512
    """Connections that one worker accepts."""
    max_connection_age_s: Annotated[int, Field(ge=0)] = 600
    """Seconds after which a connection is asked to reconnect, so that the kernel spreads them anew; 0 is never."""
    drain_ms: Annotated[int, Field(ge=0)] = 5000
    """Milliseconds that callers get to leave, and their calls to finish, when the gateway stops."""
    map_bytes: Annotated[int, Field(ge=1 << 20)] = 16 << 30
    """Bytes of address space for the online store, fixed when it is created: eight times what it will hold."""
    journal_bytes: Annotated[int, Field(ge=1 << 20)] = 1 << 30
    """Bytes of disk that the journals of all workers take together, reserved at start."""
    outcomes_bytes: Annotated[int, Field(ge=1 << 20)] = 1 << 30
    """Bytes of disk that outcomes of all workers may take together until the recorder has put them into the lake."""
    recorder: bool = True
    """Whether scored rows and outcomes are put into the lake; needs the extra `lake`, and is off without it."""
    lake: Path | None = None
    """Directory of the prediction log and the outcomes, which gateways may share; none is `lake` beside the data's."""
    lake_flush_ms: Annotated[int, Field(ge=100)] = 30_000
    """Milliseconds after which scored rows and outcomes are in the lake: each time a file for each model."""
    otlp_endpoint: Annotated[str, Field(pattern=r"^$|^https?://[^\s/@]+:\d{1,5}$")] = ""
    """http(s)://HOST:PORT of an OpenTelemetry collector's gRPC port, by custom 4317; empty exports nothing."""
    otlp_sample_bps: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Basis points of the rows without a trace context for which spans are exported; chosen by prediction id."""
    otlp_interval_ms: Annotated[int, Field(ge=100, le=600_000)] = 10_000
    """Milliseconds from one export of metrics and spans to the next."""
    mirror_bytes: Annotated[int, Field(ge=128 << 20)] = 1 << 30
    """Bytes of memory that the mirror may take, which loads shadows and what they are compared with for itself."""
    mirror_niceness: Annotated[int, Field(ge=0, le=19)] = 19
    """How far the mirror gives way to others; at 19 it runs only while a core is idle, and drops what it cannot do."""
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = "info"
    """The least severe log line written: debug, info, warning or error."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - no .env file is read: one file is enough
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags (given as init arguments) before environment before file."""
        return init_settings, env_settings, TomlTable(settings_cls)

    @property
    def worker_count(self) -> int:
        """How many workers to start."""
        return self.workers or len(os.sched_getaffinity(0))

    @property
    def routes_path(self) -> Path:
        """The last known good route table."""
        return self.data / "routes.pb"

    @property
    def artifacts_path(self) -> Path:
        """Artifacts by digest."""
        return self.data / "artifacts"

    @property
    def features_path(self) -> Path:
        """The online store."""
        return self.data / "features"

    @property
    def journal_path(self) -> Path:
        """The journals, one directory per worker."""
        return self.data / "journal"

    @property
    def mirror_journal_path(self) -> Path:
        """The mirror's own journal, in a directory as a worker's is."""
        return self.data / "mirror-journal"

    @property
    def lake_path(self) -> Path:
        """The lake."""
        return self.lake or self.data.absolute().parent / "lake"

    @property
    def outcomes_path(self) -> Path:
        """The outcome logs, one directory per worker."""
        return self.data / "outcomes"

    @property
    def run_path(self) -> Path:
        """What processes of this host say of themselves while they run."""
        return self.data / "run"


class TomlTable(TomlConfigSettingsSource):
    """The table `[gateway]` of the file that INTERLOCK_CONFIG names, or of ./interlock.toml."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls, Path(os.environ.get("INTERLOCK_CONFIG", "interlock.toml")))

    def _read_file(self, file_path: Path | Traversable) -> dict[str, object]:
        found = super()._read_file(file_path).get("gateway", {})
        return dict(found)
