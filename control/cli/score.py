"""`interlock score`: what callers get, from a shell."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from control.cli.arguments import read_lines, read_pairs
from control.cli.command import command
from control.cli.output import facts, span, table, text
from control.cli.session import Session

if TYPE_CHECKING:
    from rich.console import RenderableType

    from gateway.v1 import scoring_pb2

SHOWN: Final = 20
"""Rows of a file that are shown to people; --out and --json have all."""


def declare(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, "score")(score)


def score(  # noqa: PLR0913 - what a request is made of, each an option of the command
    session: Session,
    model: Annotated[str, typer.Argument(help="The model.")],
    *,
    entity: Annotated[
        list[str] | None,
        typer.Option("--entity", "-e", metavar="NAME=KEY", help="An entity's key. With --file: NAME of its column."),
    ] = None,
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="NAME=VALUE",
            help="A request-time input: 3 is int64, 3.0 float32. With --file: NAME of a column.",
        ),
    ] = None,
    types: Annotated[
        list[str] | None,
        typer.Option("--type", metavar="NAME=TYPE", help="An input's type, where its values do not show it."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Score the rows of a CSV file by the columns that --entity and --input name; without either, the "
            "first column holds the keys.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="With --file: write the answers there, as CSV.")] = None,
    version: Annotated[int, typer.Option(min=0, help="Ask this version; 0 leaves the choice to the route.")] = 0,
    timeout_s: Annotated[float, typer.Option(min=0.001, help="Seconds to wait for each answer.")] = 5.0,
) -> None:
    """Scores an entity, or every row of a file.

    interlock score churn --entity subscriber=S000017
    """
    from control.cli.score_rows import parse_types, row_request

    kinds = parse_types(read_pairs(types or [], "--type"))
    if file is None:
        request = row_request(
            model, version, read_pairs(entity or [], "--entity"), read_pairs(given or [], "--input"), kinds
        )
        answer = session.gateway.score(request, timeout_s)
        session.out.result(answer, *_one(answer))
        return
    from control.cli.score_rows import Columns, batch_requests, read_rows

    rows = read_rows(read_lines(file), file.name)
    entities = entity or ([] if given else [next(iter(rows.columns))])
    requests = batch_requests(model, version, rows, Columns(entities, given or []), kinds)
    keys = [{name: rows.columns[name][row] for name in entities} for row in range(rows.n)]
    answers = [key | answer for key, answer in zip(keys, _score_all(session, requests, rows.n, timeout_s), strict=True)]
    failed = sum("reason" in answer for answer in answers)
    if out is not None:
        _write(out, answers)
    session.out.result({"rows": answers, "failed": failed}, *_many(answers, failed, out))
    if failed:
        raise typer.Exit(1)


def _score_all(
    session: Session, requests: Iterator[scoring_pb2.ScoreBatchRequest], n: int, timeout_s: float
) -> list[dict[str, Any]]:
    from control.cli.score_rows import batch_answers

    answers: list[dict[str, Any]] = []
    with session.out.progress() as progress:
        task = progress.add_task(f"{n} rows", total=n) if progress else None
        for request in requests:
            answers += batch_answers(session.gateway.score_batch(request, timeout_s))
            if progress and task is not None:
                progress.update(task, completed=len(answers))
    return answers


def _one(answer: scoring_pb2.ScoreResponse) -> Iterator[RenderableType]:
    from control.cli.score_rows import flag_names
    from gateway.v1 import scoring_pb2

    arm = scoring_pb2.Arm.Name(answer.arm).removeprefix("ARM_").lower()
    pairs: list[tuple[str, object]] = [("score", f"{answer.score:.9g}")]
    if answer.decision:
        pairs.append(("decision", answer.decision))
    pairs += [("answered by", f"{answer.model}/{answer.version} ({arm}), revision {answer.revision}")]
    if answer.HasField("feature_age_ms"):
        pairs.append(("feature age", span(answer.feature_age_ms * 1_000_000)))
    if answer.defaulted:
        pairs.append(("defaulted", f"{answer.defaulted} stored features were missing or stale"))
    if answer.flags:
        pairs.append(("flags", text(", ".join(flag_names(answer.flags)), "yellow")))
    pairs.append(("prediction id", answer.prediction_id))
    yield facts(pairs)
    if answer.ranking:
        yield table(("label", "score"), ((item.label, f"{item.score:.9g}") for item in answer.ranking))


def _many(answers: Sequence[dict[str, Any]], failed: int, out: Path | None) -> Iterator[RenderableType]:
    columns = _columns(answers)
    yield table(columns, ([_cell(answer.get(column, "")) for column in columns] for answer in answers[:SHOWN]))
    more = f", the first {SHOWN} shown" if len(answers) > SHOWN else ""
    yield text(f"{len(answers) - failed} of {len(answers)} rows scored{more}.", "green" if not failed else "yellow")
    if out is not None:
        yield text(f"All answers are in {out}.")


def _write(path: Path, answers: Sequence[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _columns(answers))
        writer.writeheader()
        writer.writerows({name: _cell(value, 17) for name, value in answer.items()} for answer in answers)


def _columns(answers: Sequence[dict[str, Any]]) -> list[str]:
    """All columns that some row has, in the order of their first appearance."""
    return list(dict.fromkeys(name for answer in answers for name in answer))


def _cell(value: object, digits: int = 9) -> str:
    match value:
        case float():
            return f"{value:.{digits}g}"
        case list() if value and isinstance(value[0], dict):
            return "; ".join(f"{item['label']}={item['score']:.{digits}g}" for item in value)
        case list():
            return ", ".join(map(str, value))
    return str(value)
