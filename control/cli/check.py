"""`interlock model check`: what registration would say of a file, without a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from control.cli.arguments import ExistingFile, read_text
from control.cli.command import command
from control.cli.extras import needs_control
from control.cli.output import facts, size, text
from control.cli.session import Session

if TYPE_CHECKING:
    from rich.console import RenderableType

    from control.registry.rehearsal import Rehearsal
    from gateway.contract.tensors import GraphTensor


def declare(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, "check")(check)


def check(
    session: Session,
    onnx: ExistingFile,
    document: Annotated[
        Path | None,
        typer.Argument(exists=True, dir_okay=False, help="Its document; drafted from the graph where there is none."),
    ] = None,
    *,
    golden: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Its golden rows; without them, nothing is compared."),
    ] = None,
    view: Annotated[
        list[Path] | None,
        typer.Option(exists=True, dir_okay=False, help="The definition of a view that the document pins; repeatable."),
    ] = None,
) -> None:
    """Examines a model as registration would, on this host and without a server; exit code 1 where it is refused."""
    needs_control("`interlock model check`")
    from control.registry.document import read_view
    from control.registry.rehearsal import rehearse

    views = [read_view(read_text(path)) for path in view or []]
    found = rehearse(onnx, read_text(document) if document else "", read_text(golden) if golden else "", views)
    session.out.result(found.as_json(), *_shown(onnx, found))
    if not found.ok:
        raise typer.Exit(1)
    session.out.note(_next(onnx, document, golden, session.same_flags))


def _shown(onnx: Path, found: Rehearsal) -> Iterator[RenderableType]:
    rows: list[tuple[str, object]] = []
    if found.passed:
        rows.append(("passed", "; ".join(found.passed)))
    rows += [("rewritten", text(change, "yellow")) for change in found.changes]
    if report := found.report:
        rows += [("inputs", _tensors(report.inputs)), ("outputs", _tensors(report.outputs))]
        rows.append(("size", f"{size(report.model_bytes)}, loaded in {report.load_ms:.0f} ms"))
        rows.append(("one row", f"{report.run_us_p50:.0f} µs of processor time"))
        if not found.own_golden:
            rows.append(("golden rows", f"{report.golden_rows}, at most {report.max_golden_difference:.2g} off"))
    rows += [("warning", text(warning, "yellow")) for warning in found.warnings]
    if found.ok:
        yield text(f"{onnx.name} would be admitted.", "bold green")
    else:
        yield text(f"{onnx.name} would be refused.", "bold red")
        rows.append((f"refused ({found.refused})", text(found.message, "red")))
    yield facts(rows)


def _tensors(tensors: Sequence[GraphTensor]) -> str:
    return "; ".join(f"{t.name}: {t.type} {_shape(t.shape)}" for t in tensors)


def _shape(shape: Sequence[object]) -> str:
    """The shape with open dimensions named: `rows` the first, `any` the others."""
    sizes = (str(n) if isinstance(n, int) else "any" if place else "rows" for place, n in enumerate(shape))
    return f"[{', '.join(sizes)}]"


def _next(onnx: Path, document: Path | None, golden: Path | None, flags: str) -> str:
    if document is None:
        return f"Next: interlock up {onnx}{flags}, to try it at once, or interlock model init {onnx}, to describe it"
    rows = golden or "GOLDEN.csv"
    return f"Next: interlock model register {document} --onnx {onnx} --golden {rows} --token-file NAME.token{flags}"
