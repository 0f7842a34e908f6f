"""What GetStatus answers: the records of one snapshot beside what the gateways last reported."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from control.rollout.alarms import decay_alerts
from control.rollout.gateway_records import SeenGateway
from control.rollout.hub import Gateway
from control.rollout.lifecycle import Stage
from control.rollout.records import (
    all_stops,
    all_trials,
    approvers,
    ever_champions,
    last_change,
    model_names,
    newest_batch,
    stage_change,
    tried_versions,
    versions_in,
)
from control.rollout.rollouts import STANDING
from control.rollout.routes import kept_versions
from control.rollout.status import away_alert, problems_of, stopped_alert
from control.rollout.stopping import has_fallback
from control.rollout.tables import table_of
from control.rollout.trial import on_trial
from control.rollout.version import VersionRecord
from control.v1 import rollout_pb2 as pb


def overview(
    connection: Connection, history_id: str, model: str, gateways: list[Gateway], away: Sequence[SeenGateway]
) -> pb.GetStatusResponse:
    """Who answers for one model or for all, and which gateways confirm it."""
    names = model_names(connection, model)
    holders = {(record.model, record.stage): record for record in versions_in(connection, STANDING)}
    champions = [record for (_, stage), record in holders.items() if stage is Stage.CHAMPION]
    tried = {r.model: r for r in on_trial(all_trials(connection), tried_versions(connection), champions)}
    revision = table_of(connection, history_id).revision
    return pb.GetStatusResponse(
        revision=revision,
        models=[_model(connection, name, holders, gateways, tried.get(name)) for name in names],
        gateways=[_gateway(gateway) for gateway in gateways],
        feature_sequence=newest_batch(connection),
        away=[
            pb.AwayGateway(**gone._asdict(), problem=away_alert(gone.gateway_id, gone.revision, revision) or "")
            for gone in away
        ],
    )


def _model(
    connection: Connection,
    model: str,
    holders: dict[tuple[str, Stage], VersionRecord],
    gateways: list[Gateway],
    tried: VersionRecord | None,
) -> pb.ModelStatus:
    champion = holders.get((model, Stage.CHAMPION))
    standby = holders.get((model, Stage.STANDBY))
    kept = [record.version for record in kept_versions(ever_champions(connection, model), model)]
    failing = [found for gateway in gateways for name, found in gateway.report.failing if name == model]
    status = pb.ModelStatus(
        model=model,
        standby_version=standby.version if standby else 0,
        problems=[*problems_of(model, champion or tried, gateways), *decay_alerts(model, kept, failing)],
        trial_version=tried.version if tried else 0,
        kept_versions=kept,
        last_change=pb.LastChange(**last_change(connection, model)._asdict()),
    )
    if answering := champion or tried:
        change = stage_change(connection, answering)
        status.champion_version = champion.version if champion else 0
        status.since_ns, status.promoted_by = change.time_ns, change.actor
        status.approved_by.extend(approvers(connection, answering))
    if (stop := next(iter(all_stops(connection, model)), None)) and stop.stopped and champion:
        change = stage_change(connection, stop)
        status.stopped.CopyFrom(
            pb.Stop(reason=stop.reason, actor=change.actor, time_ns=change.time_ns, fallback=has_fallback(champion))
        )
        status.problems.insert(0, stopped_alert(model, stop.reason, change.actor))
    return status


def _gateway(gateway: Gateway) -> pb.GatewayStatus:
    return pb.GatewayStatus(
        gateway_id=gateway.gateway_id,
        revision=gateway.report.revision,
        feature_sequence=gateway.report.feature_sequence,
        report_age_ms=gateway.age_ms,
        problems=gateway.report.problems,
        stepped_back=[
            pb.SteppedBack(
                model=one.model, version=one.version, actor=one.actor, reason=one.reason, time_ns=one.time_ns
            )
            for one in gateway.report.withdrawals
        ],
    )
