"""What is wrong with a model's serving, in words. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from control.rollout.hub import Gateway
from control.rollout.promotion import time_text
from control.rollout.stepback import Withdrawal
from control.rollout.version import VersionRecord
from gateway.contract.alerts import Alert, AlertText, alert

SILENT_MS: Final = 15_000
"""A gateway reports every few seconds; one that did not for so long may be gone."""


def problems_of(model: str, champion: VersionRecord | None, gateways: Sequence[Gateway]) -> list[AlertText]:
    """Alerts for an operator; none where all is well."""
    if champion is None:
        words = f"`interlock model promote {model}/VERSION` makes an approved version the champion"
        return [alert(Alert.NOBODY_ANSWERS, words)]
    if not gateways:
        words = f"no gateway is connected, so nobody confirms that {champion.subject} answers"
        return [alert(Alert.NO_GATEWAY, words)]
    return [found for gateway in gateways for found in _problems_at(gateway, champion)]


def stopped_alert(model: str, reason: str, actor: str) -> AlertText:
    """Says who stopped a model, and how it goes on."""
    because = f": {reason}" if reason else ""
    return alert(
        Alert.STOPPED_BY_OPERATOR,
        f"{actor} stopped it{because}; `interlock model start {model} --reason WHY` has it answer again",
    )


def away_alert(gateway_id: str, revision: int, newest: int) -> AlertText | None:
    """Says that a gateway which is gone may answer by an older table; None where it has the newest."""
    if revision >= newest:
        return None
    return alert(
        Alert.GATEWAY_AWAY, f"gateway {gateway_id} is not connected; it last confirmed revision {revision} of {newest}"
    )


def _problems_at(gateway: Gateway, champion: VersionRecord) -> list[AlertText]:
    report, name = gateway.report, f"gateway {gateway.gateway_id}"
    found = [_stepped_back(name, one) for one in report.withdrawals if one.model == champion.model]
    if gateway.age_ms > SILENT_MS:
        words = f"{name} has not reported for {gateway.age_ms // 1000} s"
        found.append(alert(Alert.GATEWAY_SILENT, words))
    if report.revision < champion.stage_sequence:
        words = f"{name} is at revision {report.revision}, {champion.subject} answers from {champion.stage_sequence}"
        found.append(alert(Alert.GATEWAY_BEHIND, words))
    if report.feature_sequence < champion.feature_sequence:
        words = (
            f"{name} has applied feature batch {report.feature_sequence}, "
            f"{champion.subject} needs {champion.feature_sequence}"
        )
        found.append(alert(Alert.GATEWAY_FEATURES_BEHIND, words))
    return found


def _stepped_back(name: str, one: Withdrawal) -> AlertText:
    because = f": {one.reason}" if one.reason else ""
    words = f"{name} does not serve {one.subject}, which {one.actor} withdrew there at {time_text(one.time_ns)}"
    return alert(Alert.STEPPED_BACK, words + because)
