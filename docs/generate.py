"""Writes three pages from the code that they describe: `.venv/bin/python docs/generate.py`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from control.config import Config as ControlConfig
from control.rollout import policy
from control.rollout.tiers import BAD_EVENTS, DEFAULTS
from gateway.config import Config as GatewayConfig
from gateway.contract.alerts import ALERTS
from gateway.contract.document import Task, Tier
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


POLICY: Final = f"""{NOTE}
# Rollout policies

A policy is the promise of one rollout, made before its first request: what counts against the new version, how sure
one must be to roll back or to go on, and when it moves. `interlock rollout start churn 4` needs none: the model's tier
(`tier` in model.yaml) has one, and a file says only what should differ from it. A mapping is completed key by key; a
list, and what a gate must show (`advance`), is replaced as a whole; `null` leaves a metric, the shadow or the holdback
out. A key that is unknown or a value that is not allowed is named with its line, and nothing starts.

```yaml
alpha: 0.01            # sound versions that are rolled back, over all metrics and however often one looks
steps:
  - {{weight_bps: 500, minimum_s: 900}}
  - {{weight_bps: 5000, minimum_s: 3600}}
maximum_s: 172800
at_maximum: hold
metrics:
  errors:
    advance: {{relative: {{margin: 1.5, beta: 0.05}}}}   # compared with the champion instead of with a ceiling
  labels: {{role: guard, rho: 1.2}}
  decisions: null
```

A **guard** can only roll back. A **gate** must also pass before a step ends. Rolling back counts an entity once, with
its first bad event in the rollout; passing counts it once a step, with its first scored row in the step, bad or not.
So what a step can show is limited by how many entities call: under a `ceiling` of 0.5 % a gate needs some 700 entities
in the challenger without a bad row, which at a weight of 1 % is 70,000 in all. `interlock rollout start` says how long
each step will take with the traffic that there is, and warns when that is longer than the maximum.

The control plane judges at half of each metric's part of alpha, and `gateway_slots` gateways share the other half, so
that each of them may roll back alone, at once. Nobody advances but the control plane. The method, with what was
simulated: `gateway/contract/evidence.py`, `ceiling.py` and `distribution.py`, and `make bench ONLY=judge`.
"""

POLICY_PARTS: Final[Mapping[str, type[BaseModel]]] = {
    "The document": policy.Policy,
    "`shadow`": policy.Shadow,
    "Each of `steps`": policy.Step,
    "`holdback`": policy.Holdback,
    "`metrics`": policy.Metrics,
    "`errors`, `non_finite`, `rejected`, `decisions`": policy.Bad,
    "`advance`: one of `relative` and `ceiling`": policy.Advance,
    "`relative`": policy.Relative,
    "`ceiling`": policy.Ceiling,
    "`metrics.latency`": policy.Latency,
    "`metrics.labels`, beside the keys of any bad event": policy.Labels,
    "`metrics.business`, likewise": policy.Business,
    "`metrics.scores`": policy.Scores,
}


def configuration() -> str:
    """Every key of both services."""
    return CONFIGURATION + "".join(_table(f"`[{name}]`", config) for name, config in TABLES.items())


def reasons() -> str:
    """Both catalogues: a paragraph for each reason and for each alert."""
    found = (f"\n## {reason}\n\n`{entry.code.name}`. {entry.meaning}\n" for reason, entry in CATALOGUE.items())
    alerts = (f"\n## {which}\n\n{paragraph}\n" for which, paragraph in ALERTS.items())
    return REASONS + "".join(found) + ALERTS_HEAD + "".join(alerts)


def pages() -> dict[str, str]:
    """What is written, by file name."""
    return {"configuration.md": configuration(), "reasons.md": reasons(), "policy.md": policy_page()}


def policy_page() -> str:
    """Every key of a rollout's policy, the defaults of each tier, and what a bad event is."""
    tables = "".join(_table(head, part) for head, part in POLICY_PARTS.items())
    flat = [_flat(DEFAULTS[tier]) for tier in Tier]
    rows = (
        f"| `{key}` | {' | '.join(_shown(tier.get(key, '')) for tier in flat)} |\n" for key in dict.fromkeys(flat[0])
    )
    tiers = f"\n## What a tier starts with\n\n| key | {' | '.join(Tier)} |\n|---|---|---|---|\n{''.join(rows)}"
    events = (
        f"| `{metric}` | {meaning} | {', '.join(task for task in Task if tasks.get(task) == meaning)} |\n"
        for metric, tasks in BAD_EVENTS.items()
        for meaning in dict.fromkeys(tasks.values())
    )
    bad = f"\n## What a bad event is\n\n| metric | one bad event | tasks |\n|---|---|---|\n{''.join(events)}"
    return POLICY + tiers + bad + tables


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaf values by their dotted keys; the steps as one text."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key == "steps":
            found["steps"] = ", ".join(f"{step['weight_bps']} for {step['minimum_s']}" for step in value)
        elif isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = "left out" if value is None else value or "on"
    return found


def _table(title: str, config: type[BaseModel]) -> str:
    rows = (
        f"| `{key}` | {_default(field)} | {' '.join((field.description or '').split())} |\n"
        for key, field in config.model_fields.items()
        if key in config.__annotations__  # what it inherits is described where it comes from
    )
    head = f"\n## {title}\n\n{(config.__doc__ or '').strip()}\n\n| key | default | what it is |\n|---|---|---|\n"
    return head + "".join(rows)


def _default(field: FieldInfo) -> str:
    if isinstance(field.default, BaseModel):
        return "as below"
    if field.is_required():
        return "the tier's" if field in policy.Policy.model_fields.values() else "must be given"
    return _shown(field.default)


def _shown(default: object) -> str:
    return f"`{default}`" if default not in (None, "") else "none"


def main() -> None:
    """Writes the pages beside this file."""
    for name, text in pages().items():
        (HERE / name).write_text(text)


if __name__ == "__main__":
    main()
