"""Versions as the store keeps them: read for routes and status, and moved from stage to stage."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from control.rollout.lifecycle import UNDONE, Stage
from control.rollout.stopping import Stop
from control.rollout.trial import Trial
from control.rollout.version import PinnedViewRecord, VersionRecord
from control.store.tables import approvals, audit, feature_batches, feature_views, models, stops, trials, versions
from gateway.contract.errors import Fault, Reason


class StageChange(NamedTuple):
    """Who set a version's stage, and when."""

    actor: str
    time_ns: int


class LastChange(NamedTuple):
    """The newest audit entry about a model or a version of it."""

    action: str
    subject: str
    actor: str
    time_ns: int


_COLUMNS = [versions.c[name] for name in VersionRecord._fields]


def find_version(connection: Connection, model: str, version: int) -> VersionRecord:
    """One version; raises a fault where it is not registered."""
    row = connection.execute(
        select(*_COLUMNS).where(versions.c.model == model, versions.c.version == version)
    ).one_or_none()
    if row is None:
        raise Fault(
            Reason.VERSION_UNKNOWN,
            f"no version {model}/{version} is registered; `interlock model list` says which are",
        )
    return _version(row)


def versions_in(connection: Connection, stages: frozenset[Stage], model: str = "") -> list[VersionRecord]:
    """The versions in these stages, of one model or of all, by model and newest first."""
    query = select(*_COLUMNS).where(versions.c.stage.in_(sorted(stages)))
    if model:
        query = query.where(versions.c.model == model)
    rows = connection.execute(query.order_by(versions.c.model, versions.c.version.desc()))
    return [_version(row) for row in rows]


def ever_champions(connection: Connection, model: str = "") -> list[VersionRecord]:
    """The versions that are or were champion and were not rolled back since: all that the route table is made of."""
    query = select(*_COLUMNS).where(versions.c.champion_sequence > 0)
    if model:
        query = query.where(versions.c.model == model)
    return [_version(row) for row in connection.execute(query)]


def all_trials(connection: Connection) -> list[Trial]:
    """Every model's trial, also where it is over."""
    return [Trial(*row) for row in connection.execute(select(*(trials.c[name] for name in Trial._fields)))]


def tried_versions(connection: Connection) -> list[VersionRecord]:
    """The versions that trials name."""
    named = (trials.c.model == versions.c.model) & (trials.c.version == versions.c.version)
    return [_version(row) for row in connection.execute(select(*_COLUMNS).join(trials, named))]


def save_trial(connection: Connection, trial: Trial) -> None:
    """Puts a trial in the place of the model's former one."""
    connection.execute(delete(trials).where(trials.c.model == trial.model))
    connection.execute(insert(trials).values(**trial._asdict()))


def end_trial(connection: Connection, model: str, sequence: int) -> None:
    """Ends the model's trial by the audit entry `sequence`, where it has one."""
    running = (trials.c.model == model) & (trials.c.version != 0)
    connection.execute(update(trials).where(running).values(version=0, sequence=sequence))


def all_stops(connection: Connection, model: str = "") -> list[Stop]:
    """Whether models are stopped, for those that ever were."""
    query = select(*(stops.c[name] for name in Stop._fields))
    return [Stop(*row) for row in connection.execute(query.where(stops.c.model == model) if model else query)]


def save_stop(connection: Connection, stop: Stop) -> None:
    """Puts a stop, or its end, in the place of the model's former one."""
    connection.execute(delete(stops).where(stops.c.model == stop.model))
    connection.execute(insert(stops).values(**stop._asdict()))


def save(connection: Connection, record: VersionRecord) -> None:
    """Stores what can change of a version: its stage, the audit entries of that, and the feature batch it waits for."""
    connection.execute(
        update(versions)
        .where(versions.c.model == record.model, versions.c.version == record.version)
        .values(
            stage=record.stage,
            stage_sequence=record.stage_sequence,
            feature_sequence=record.feature_sequence,
            champion_sequence=record.champion_sequence,
        )
    )


def approvers(connection: Connection, record: VersionRecord, after: int = 0) -> list[str]:
    """Who approved exactly this digest, after an audit entry."""
    columns = approvals.c
    return list(
        connection.scalars(
            select(columns.decided_by)
            .where(
                columns.model == record.model,
                columns.version == record.version,
                columns.digest == record.digest,
                columns.decision == "approved",
                columns.sequence > after,
            )
            .order_by(columns.sequence)
        )
    )


def standing_approvers(connection: Connection, record: VersionRecord) -> list[str]:
    """Who approved the version's digest since it was registered, or undone."""
    return approvers(connection, record, after=record.stage_sequence if record.stage in UNDONE else 0)


def stage_change(connection: Connection, record: VersionRecord | Stop) -> StageChange:
    """Who set the version's stage, or stopped the model, and when."""
    sequence = record.sequence if isinstance(record, Stop) else record.stage_sequence
    row = connection.execute(select(audit.c.actor, audit.c.time_ns).where(audit.c.sequence == sequence)).one()
    return StageChange(row.actor, row.time_ns)


def last_change(connection: Connection, model: str) -> LastChange:
    """What happened last to a registered model."""
    subject = audit.c.subject
    # "0" is the character after "/": the range of everything that is below the model.
    about = (subject == model) | ((subject >= f"{model}/") & (subject < f"{model}0"))
    newest = select(*(audit.c[name] for name in LastChange._fields)).where(about).order_by(audit.c.sequence.desc())
    row = connection.execute(newest.limit(1)).one_or_none()
    return LastChange(*row) if row else LastChange("", "", "", 0)


def model_names(connection: Connection, model: str = "") -> list[str]:
    """The registered models, by name; one of them where named, and a fault where there is no such model."""
    query = select(models.c.name).order_by(models.c.name)
    names = list(connection.scalars(query.where(models.c.name == model) if model else query))
    if model and not names:
        raise Fault(Reason.VERSION_UNKNOWN, f"no model {model} is registered; `interlock model list` says which are")
    return names


def views_by_hash(connection: Connection, hashes: frozenset[str]) -> dict[str, PinnedViewRecord]:
    """The definitions of these views."""
    columns = feature_views.c
    rows = connection.execute(select(columns.hash, columns.definition_json).where(columns.hash.in_(sorted(hashes))))
    return {row.hash: PinnedViewRecord(row.hash, row.definition_json) for row in rows}


def newest_batches(connection: Connection, hashes: frozenset[str]) -> dict[str, int]:
    """The newest feature batch of each of these views that has one."""
    columns = feature_batches.c
    rows = connection.execute(
        select(columns.view_hash, func.max(columns.sequence))
        .where(columns.view_hash.in_(sorted(hashes)))
        .group_by(columns.view_hash)
    )
    return {row[0]: row[1] for row in rows}


def newest_batch(connection: Connection) -> int:
    """The newest feature batch of all; 0 where there is none."""
    return connection.scalar(select(func.max(feature_batches.c.sequence))) or 0


def _version(row: Row[*tuple[Any, ...]]) -> VersionRecord:
    record = VersionRecord(*row)
    return record._replace(stage=Stage(record.stage))
