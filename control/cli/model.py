"""`interlock model`: versions, from the trainer's files to retirement."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from control.cli.arguments import ExistingFile, VersionArgument, read_pairs, read_text
from control.cli.command import command, group
from control.cli.extras import needs_control
from control.cli.features import find_view
from control.cli.history import sentence
from control.cli.output import facts, moment, short, size, table, text
from control.cli.rollout_lines import headline, next_command, place
from control.cli.session import Session
from gateway.contract.errors import Fault, Reason

if TYPE_CHECKING:
    from rich.console import RenderableType

    from control.v1 import registry_pb2
    from gateway.contract.schema import FeatureView

app = group("Describe, register, promote and retire model versions.")


@command(app, "init")
def init(
    session: Session,
    onnx: ExistingFile,
    *,
    view: Annotated[
        list[str] | None,
        typer.Option(help="A view whose features feed inputs of their names: a stored one or a file; repeatable."),
    ] = None,
    name: Annotated[str, typer.Option(help="The model's name; otherwise the file's.")] = "",
    out: Annotated[Path, typer.Option(help="Where to write the document.")] = Path("model.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the document if it exists.")] = False,
) -> None:
    """Writes a model document from an ONNX file's graph, to be completed by hand."""
    needs_control("`interlock model init`")
    from control.registry.init import draft

    if out.exists() and not force:
        raise Fault(Reason.ARGUMENT_INVALID, f"{out} exists; write elsewhere with --out, or over it with --force")
    document = draft(onnx, name, [_view(session, given) for given in view or []])
    out.write_text(document)
    session.out.result({"document": str(out)}, text(f"{out} is drafted from {onnx.name}."))
    flag = session.same_flags
    session.out.note(
        f"Fill in what it marks as REQUIRED, check what it marks as GUESSED. Then, with the token of a data scientist\n"
        f"(interlock token create NAME --role data_scientist{flag} > NAME.token):\n"
        f"interlock model register {out} --onnx {onnx} --golden GOLDEN.csv --token-file NAME.token{flag}"
    )


@command(app, "register")
def register(  # noqa: PLR0913 - what a version is made of, each an option of the command
    session: Session,
    document: ExistingFile,
    *,
    onnx: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="The model's ONNX file.")],
    golden: Annotated[
        Path,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Golden rows: a CSV file with a column per input and the result expected of the model.",
        ),
    ],
    lineage: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="A file that the version was made from; hashed whole. Repeat for more."),
    ] = None,
    commit: Annotated[str, typer.Option(help="Commit of the code that trained it.")] = "",
    hyperparameters: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="JSON file with an object of hyper-parameters.")
    ] = None,
    metrics: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="JSON file with an object of evaluation metrics.")
    ] = None,
) -> None:
    """Uploads a model with its golden rows and registers it as a new version."""
    from control.files import lineage as lineage_entries
    from control.registry.document import read_model
    from control.v1 import registry_pb2

    yaml = read_text(document)
    name = read_model(yaml).name
    entries = lineage_entries(_lineage_files(lineage or []))
    request = registry_pb2.RegisterVersionRequest(
        document_yaml=yaml,
        lineage=entries,
        code_commit=commit,
        hyperparameters_json=_json_object(hyperparameters),
        metrics_json=_json_object(metrics),
    )
    request.model_sha256 = _upload(session, onnx)
    request.golden_sha256 = _upload(session, golden)
    session.out.note(f"The control plane checks {onnx.name} and runs it on its golden rows ...")
    answer = session.control.register(request)
    version = answer.version
    shown = f"{name}/{version.version} is {version.stage}, submitted by {version.submitted_by}."
    warnings = (text(f"Warning: {warning}", "yellow") for warning in answer.warnings)
    session.out.result(answer, text(shown, "green"), facts([("digest", version.digest)]), *warnings)
    session.out.note(
        f"Next, by somebody other than {version.submitted_by}: "
        f"interlock approval approve {name}/{version.version}{session.same_flags}"
    )


@command(app, "list")
def list_models(
    session: Session,
    model: Annotated[str, typer.Argument(help="List this model's versions instead.")] = "",
) -> None:
    """Lists models, or the versions of one."""
    if model:
        versions = session.control.versions(model)
        rollouts = session.control.rollouts(model)
        tried = (text(f"{headline(rollout)}. {rollout.reason}".rstrip()) for rollout in rollouts)
        session.out.result({"versions": versions, "rollouts": rollouts}, _versions_table(versions), *tried)
        if rollouts:
            session.out.note(f"Next: {next_command(rollouts[0])}{session.same_flags}")
        return
    models, rollouts = session.control.models(), session.control.rollouts()
    tries: dict[str, list[str]] = {}
    for rollout in rollouts:
        tries.setdefault(rollout.model, []).append(f"{rollout.challenger}: {place(rollout)}")
    rows = (
        (
            m.name,
            m.task,
            m.tier,
            m.owner,
            m.latest_version,
            m.champion_version or "none",
            "; ".join(tries.get(m.name, ())),
            m.purpose,
        )
        for m in models
    )
    columns = ("model", "task", "tier", "owner", "newest", "champion", "tried", "purpose")
    shown = table(columns, rows) if models else text("No model is registered.")
    session.out.result({"models": models, "rollouts": rollouts}, shown)
    if not models:
        session.out.note("Next: interlock model init MODEL.onnx")


@command(app, "show")
def show(session: Session, version: VersionArgument) -> None:
    """Shows everything that is known of a version: its stage, its manifest, what admission measured."""
    found = session.control.version(*version)
    v = found.version
    head = facts(
        (
            ("version", version),
            ("stage", f"{v.stage} ({v.status}), by audit entry {v.stage_sequence}"),
            ("task", v.task),
            ("submitted", f"by {v.submitted_by}, {moment(v.submitted_at_ns)}"),
            ("approved by", ", ".join(v.approved_by) or "nobody"),
            ("digest", v.digest),
        )
    )
    manifest, admission = (_indented(part) for part in (found.manifest_json, found.admission_json))
    parts = [text("\nmanifest", "bold"), text(manifest), text("\nadmission", "bold"), text(admission)]
    session.out.result(found, head, *parts)


@command(app, "promote")
def promote(
    session: Session,
    version: VersionArgument,
    wait_s: Annotated[float, typer.Option(min=0, help="Seconds to wait for the gateways to confirm.")] = 30.0,
) -> None:
    """Makes an approved version the one that answers, and waits until the gateways confirm it."""
    answer = session.control.promote(*version, wait_s=wait_s)
    words = text(f"{version} answers by revision {answer.revision}.", "green")
    session.out.result(answer, words, text(confirmation(answer.confirmed, answer.pending, wait_s)))
    session.out.note(f"Next: interlock status {version.model}{session.same_flags}")
    if answer.pending and wait_s:
        raise typer.Exit(1)


@command(app, "retire")
def retire(
    session: Session,
    version: VersionArgument,
    reason: Annotated[str, typer.Option(help="Why, for the audit trail.")],
) -> None:
    """Takes a version that does not answer out of use, for good."""
    sequence = session.control.retire(*version, reason=reason)
    session.out.result({"sequence": sequence}, text(f"{version} is retired, by audit entry {sequence}."))


@command(app, "history")
def history(
    session: Session,
    model: Annotated[str, typer.Argument(help="The model, or one version of it.", show_default=False)],
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many of the newest entries.")] = 100,
) -> None:
    """Tells what happened to a model, oldest first, from the audit trail."""
    found = list(reversed(session.control.audit(model, limit)))
    rows = ((moment(e.time_ns), sentence(e.actor, e.action, e.subject, e.details_json), e.sequence) for e in found)
    nothing = text(f"Nothing is recorded about {model}; `interlock model list` shows the models.")
    session.out.result({"entries": found}, table(("when", "what", "entry"), rows) if found else nothing)
    if not found:
        raise typer.Exit(1)


def _view(session: Session, given: str) -> FeatureView:
    from control.registry.document import read_view
    from gateway.contract.schema import view_from_json

    if Path(given).is_file():
        return read_view(read_text(Path(given)))
    return view_from_json(find_view(session, given).definition_json)


def _upload(session: Session, path: Path) -> str:
    n_bytes = path.stat().st_size
    with session.out.progress() as progress:
        if progress is None:
            return session.control.upload(path)
        task = progress.add_task(f"{path.name} ({size(n_bytes)})", total=n_bytes)
        return session.control.upload(path, lambda sent: progress.advance(task, sent))


def _lineage_files(given: list[str]) -> dict[str, Path]:
    found = {name: Path(path) for name, path in read_pairs(given, "--lineage").items()}
    for name, path in found.items():
        if not path.is_file():
            raise Fault(Reason.ARGUMENT_INVALID, f"--lineage {name}={path}: there is no such file")
    return found


def _json_object(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        found = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise Fault(Reason.ARGUMENT_INVALID, f"{path}, line {error.lineno}: not JSON: {error.msg}") from None
    if not isinstance(found, dict):
        raise Fault(Reason.ARGUMENT_INVALID, f"{path}: must hold a JSON object, such as {{'auc': 0.91}}")
    return json.dumps(found)


def _versions_table(versions: Sequence[registry_pb2.Version]) -> RenderableType:
    rows = (
        (
            f"{v.model}/{v.version}",
            v.stage,
            v.status,
            v.submitted_by,
            moment(v.submitted_at_ns),
            ", ".join(v.approved_by),
            short(v.digest),
        )
        for v in versions
    )
    return table(("version", "stage", "status", "submitted by", "when", "approved by", "digest"), rows)


def confirmation(confirmed: Sequence[str], pending: Sequence[str], wait_s: float) -> str:
    """Which gateways confirm a change of who answers, in words."""
    if pending:
        return f"Not confirmed within {wait_s:g} s by {', '.join(pending)}; `interlock status` says what keeps them."
    return f"Confirmed by {', '.join(confirmed)}." if confirmed else "No gateway is connected to confirm it."


def _indented(canonical_json: str) -> str:
    return json.dumps(json.loads(canonical_json), indent=2, ensure_ascii=False) if canonical_json else "none"
