"""Models, versions and artifacts as the store keeps them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, delete, func, insert, select, update

from control.registry.manifest import Artifact, Manifest
from control.rollout.lifecycle import Stage
from control.store.store import Unit
from control.store.tables import approvals, artifacts, models, versions
from gateway.contract.document import ModelDocument
from gateway.contract.errors import Fault, Reason

DISCARDED = (Stage.REJECTED, Stage.RETIRED)
"""Stages of versions whose content may be registered anew."""


class VersionRow(NamedTuple):
    """A version with all that callers may see of it."""

    model: str
    version: int
    stage: Stage
    stage_sequence: int
    digest: str
    task: str
    manifest_json: str
    admission_json: str
    submitted_by: str
    submitted_at_ns: int
    approved_by: tuple[str, ...]


class ModelRow(NamedTuple):
    """A model; version numbers are 0 where there is none."""

    name: str
    task: str
    purpose: str
    owner: str
    tier: str
    latest_version: int
    champion_version: int


class Admitted(NamedTuple):
    """A version that passed admission and can be stored."""

    document: ModelDocument
    manifest: Manifest
    model: Artifact
    golden: Artifact
    admission_json: str


def store_artifact(unit: Unit, artifact: Artifact) -> None:
    """Notes that the bytes are durable; those that are there already are left as they are."""
    if unit.connection.execute(select(artifacts.c.sha256).where(artifacts.c.sha256 == artifact.sha256)).first():
        return
    unit.connection.execute(
        insert(artifacts).values(**artifact._asdict(), created_at_ns=unit.now_ns, created_by=unit.actor)
    )
    unit.record("artifact.upload", artifact.sha256, {"size_bytes": artifact.size_bytes})


def discard_artifacts(unit: Unit, digests: Iterable[str]) -> list[str]:
    """Forgets those of the artifacts that no version is made of, and returns them."""
    named = set(digests)
    used = set(unit.connection.scalars(select(versions.c.model_sha256).where(versions.c.model_sha256.in_(named))))
    used |= set(unit.connection.scalars(select(versions.c.golden_sha256).where(versions.c.golden_sha256.in_(named))))
    unused = sorted(named - used)
    unit.connection.execute(delete(artifacts).where(artifacts.c.sha256.in_(unused)))
    return unused


def find_artifact(connection: Connection, sha256: str) -> Artifact:
    """A stored artifact; raises a fault where there is none."""
    columns = artifacts.c
    row = connection.execute(select(columns.sha256, columns.size_bytes).where(columns.sha256 == sha256)).one_or_none()
    if row is None:
        raise Fault(Reason.ARTIFACT_UNKNOWN, f"no artifact {sha256} is stored; upload it first", sha256=sha256)
    return Artifact(row.sha256, row.size_bytes)


def check_new(connection: Connection, document: ModelDocument, digest: str) -> None:
    """Raises a fault where exactly this content is a version already."""
    columns = versions.c
    known = connection.execute(
        select(columns.version)
        .where(columns.model == document.name, columns.digest == digest, columns.stage.not_in(DISCARDED))
        .limit(1)
    ).scalar_one_or_none()
    if known is not None:
        raise Fault(
            Reason.VERSION_EXISTS,
            f"{document.name}/{known} is registered with exactly this content; use it, or register what differs",
            model=document.name,
            version=str(known),
        )


def check_task(connection: Connection, document: ModelDocument) -> None:
    """Raises a fault where the model's task would change, because callers rely on what the score means."""
    task = connection.execute(select(models.c.task).where(models.c.name == document.name)).scalar_one_or_none()
    if task is not None and task != document.task:
        raise Fault(
            Reason.DOCUMENT_INVALID,
            f"the model document: task: {document.name} is {task} and stays so; {document.task} needs another name",
            key="task",
        )


def store_version(unit: Unit, admitted: Admitted) -> int:
    """Stores the next version of the model, and returns its number."""
    document, connection = admitted.document, unit.connection
    for artifact in (admitted.model, admitted.golden):
        find_artifact(connection, artifact.sha256)
    check_task(connection, document)
    check_new(connection, document, admitted.manifest.digest)
    version = 1 + _latest(connection, document.name)
    facts = {
        "digest": admitted.manifest.digest,
        "model_sha256": admitted.model.sha256,
        "golden_sha256": admitted.golden.sha256,
        "tier": document.tier,
    }
    sequence = unit.record("version.register", f"{document.name}/{version}", facts)
    _describe(unit, document)
    connection.execute(
        insert(versions).values(
            model=document.name,
            version=version,
            stage=Stage.REGISTERED,
            stage_sequence=sequence,
            digest=admitted.manifest.digest,
            task=document.task,
            document_json=document.canonical(),
            manifest_json=admitted.manifest.text,
            admission_json=admitted.admission_json,
            model_sha256=admitted.model.sha256,
            golden_sha256=admitted.golden.sha256,
            submitted_by=unit.actor,
            submitted_at_ns=unit.now_ns,
        )
    )
    return version


def find_version(connection: Connection, model: str, version: int) -> VersionRow:
    """One version; raises a fault where it is not registered."""
    query = _versions().where(versions.c.model == model, versions.c.version == version)
    found = _rows(connection, query)
    if not found:
        raise Fault(
            Reason.VERSION_UNKNOWN,
            f"no version {model[:80]}/{version} is registered; `interlock model list` says which are",
        )
    return found[0]


def list_versions(connection: Connection, model: str) -> list[VersionRow]:
    """The versions of a model, newest first; raises a fault where there is no such model."""
    found = _rows(connection, _versions().where(versions.c.model == model).order_by(versions.c.version.desc()))
    if not found:
        raise Fault(
            Reason.VERSION_UNKNOWN, f"no model {model[:80]!r} is registered; `interlock model list` says which are"
        )
    return found


def list_models(connection: Connection) -> list[ModelRow]:
    """The models, by name."""
    champion = func.max(versions.c.version).filter(versions.c.stage == Stage.CHAMPION)
    columns = models.c
    query = (
        select(columns.name, columns.task, columns.purpose, columns.owner, columns.tier)
        .add_columns(func.coalesce(func.max(versions.c.version), 0), func.coalesce(champion, 0))
        .outerjoin(versions, versions.c.model == columns.name)
        .group_by(columns.name)
        .order_by(columns.name)
    )
    return [ModelRow(*row) for row in connection.execute(query)]


def _latest(connection: Connection, model: str) -> int:
    query = select(func.max(versions.c.version)).where(versions.c.model == model)
    return connection.execute(query).scalar_one() or 0


def _describe(unit: Unit, document: ModelDocument) -> None:
    """Describes the model as its newest version's document does."""
    described = {
        "task": document.task,
        "purpose": document.purpose,
        "owner": document.owner.person,
        "tier": document.tier,
    }
    changed = unit.connection.execute(update(models).where(models.c.name == document.name).values(described))
    if changed.rowcount == 0:
        unit.connection.execute(
            insert(models).values(name=document.name, created_at_ns=unit.now_ns, created_by=unit.actor, **described)
        )


def _versions() -> Select[Any]:
    return select(*(versions.c[name] for name in VersionRow._fields if name != "approved_by"))


def _rows(connection: Connection, query: Select[Any]) -> list[VersionRow]:
    found = [row._asdict() for row in connection.execute(query)]
    approved = _approvers(connection, {str(row["model"]) for row in found})
    return [
        VersionRow(
            **row | {"stage": Stage(row["stage"])},
            approved_by=approved.get((row["model"], row["version"], row["digest"]), ()),
        )
        for row in found
    ]


def _approvers(connection: Connection, names: Iterable[str]) -> dict[tuple[str, int, str], tuple[str, ...]]:
    """Who approved, by model, version and the digest that they approved."""
    columns = approvals.c
    query = (
        select(columns.model, columns.version, columns.digest, columns.decided_by)
        .where(columns.model.in_(sorted(names)), columns.decision == "approved")
        .order_by(columns.sequence)
    )
    found: dict[tuple[str, int, str], tuple[str, ...]] = {}
    for model, version, digest, who in connection.execute(query):
        found[model, version, digest] = (*found.get((model, version, digest), ()), who)
    return found
