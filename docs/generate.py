"""Writes configuration.md and reasons.md from the code that they describe: `.venv/bin/python docs/generate.py`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic_settings import BaseSettings

from control.config import Config as ControlConfig
from gateway.config import Config as GatewayConfig
from gateway.contract.alerts import ALERTS
from gateway.contract.errors import CATALOGUE, DOMAIN

HERE: Final = Path(__file__).parent
TABLES: Final[Mapping[str, type[BaseSettings]]] = {"control": ControlConfig, "gateway": GatewayConfig}
NOTE: Final = "<!-- Written by docs/generate.py. Change the code that it describes, then run that again. -->\n"

CONFIGURATION: Final = f"""{NOTE}
# Configuration

Each service reads its own table of one TOML file, then the environment, then flags; the later one wins. The file is
the one that `INTERLOCK_CONFIG` names, or `interlock.toml` in the working directory. `interlock config show` prints what
holds and where it comes from. A key that is unknown, or a value that is not allowed, is named, and the service does not
start.

```toml
[control]
address = "127.0.0.1:7400"

[gateway]
workers = 4
```

The same two settings as environment variables: `INTERLOCK_CONTROL_ADDRESS=127.0.0.1:7400`,
`INTERLOCK_GATEWAY_WORKERS=4`; as flags: `interlock control --address 127.0.0.1:7400`, `interlock gateway --workers 4`.
"""

REASONS: Final = f"""{NOTE}
# Reasons and alerts

`interlock explain NAME` prints the same paragraphs.

# Reasons of errors

Every error that a service answers carries a `google.rpc.ErrorInfo` whose domain is `{DOMAIN}` and whose reason is one
of these. Program against the reason; the message beside it is for people, and says what was wrong in this case and what
to do. A row of a batch that fails alone has the same reason in `errors`. The status UNKNOWN is never sent.
"""


ALERTS_HEAD: Final = """
# Alerts

What `interlock status` and the reports of gateways complain of. Each begins with its identifier, then says where and
what in this case. The metric `interlock_alerts` counts them by identifier.
"""


def configuration() -> str:
    """Every key of both services."""
    return CONFIGURATION + "".join(_table(name, config) for name, config in TABLES.items())


def reasons() -> str:
    """Both catalogues: a paragraph for each reason and for each alert."""
    found = (f"\n## {reason}\n\n`{entry.code.name}`. {entry.meaning}\n" for reason, entry in CATALOGUE.items())
    alerts = (f"\n## {which}\n\n{paragraph}\n" for which, paragraph in ALERTS.items())
    return REASONS + "".join(found) + ALERTS_HEAD + "".join(alerts)


def pages() -> dict[str, str]:
    """What is written, by file name."""
    return {"configuration.md": configuration(), "reasons.md": reasons()}


def _table(name: str, config: type[BaseSettings]) -> str:
    rows = (
        f"| `{key}` | {_shown(field.default)} | {' '.join((field.description or '').split())} |\n"
        for key, field in config.model_fields.items()
    )
    head = f"\n## `[{name}]`\n\n{(config.__doc__ or '').strip()}\n\n| key | default | what it is |\n|---|---|---|\n"
    return head + "".join(rows)


def _shown(default: object) -> str:
    return f"`{default}`" if default not in (None, "") else "none"


def main() -> None:
    """Writes the pages beside this file."""
    for name, text in pages().items():
        (HERE / name).write_text(text)


if __name__ == "__main__":
    main()
