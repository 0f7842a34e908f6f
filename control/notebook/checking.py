"""What admission will say of a file, before anything is sent anywhere."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from control.notebook.drafting import document_text, needs_extra
from control.notebook.golden import golden_text
from control.notebook.sample import Sample, read_sample

if TYPE_CHECKING:
    from control.registry.rehearsal import Rehearsal
    from gateway.contract.schema import FeatureView


class Checked(NamedTuple):
    """What was found of a file; true where it would be admitted."""

    file: str
    rehearsal: Rehearsal

    def __bool__(self) -> bool:
        return self.rehearsal.ok

    @property
    def document(self) -> str:
        """The document that it was checked with, as YAML: to be kept and completed where it was drafted."""
        return self.rehearsal.document_yaml

    @property
    def warnings(self) -> list[str]:
        """What a person should know."""
        return self.rehearsal.warnings

    def __repr__(self) -> str:
        return "\n".join(f"{mark} {line}" for mark, line in self._lines())

    def _repr_html_(self) -> str:
        lines = "".join(f"<li>{mark} {html.escape(line)}</li>" for mark, line in self._lines())
        return f"<ul style='list-style: none; padding-left: 0'>{lines}</ul>"

    def _lines(self) -> Iterator[tuple[str, str]]:
        found = self.rehearsal
        if found.ok:
            yield "✓", f"{self.file} would be admitted"
        else:
            yield "✗", f"{self.file} would be refused by the check `{found.refused}`: {found.message}"
        if found.passed:
            yield "✓", "passed: " + "; ".join(found.passed)
        yield from (("~", f"rewritten at registration: {change}") for change in found.changes)
        yield from (("!", warning) for warning in found.warnings)
        if report := found.report:
            agreement = "" if found.own_golden else f", at most {report.max_golden_difference:.2g} off its golden rows"
            yield "·", f"{report.model_bytes:,} bytes, {report.run_us_p50:.0f} µs a row{agreement}"


def check(
    onnx: str | Path,
    sample: Any = None,
    expected: Any = None,
    *,
    document: str | Path | Mapping[str, Any] | None = None,
    name: str = "",
    views: Sequence[FeatureView] = (),
) -> Checked:
    """Examines an ONNX file as registration would, in a disposable process on this host and without a server.

    `sample` holds rows of inputs and `expected` what the trained model answers to them; without them the model is run
    on rows that its graph suggests. `document` is the path of a model.yaml, or a mapping of what to change of a
    drafted one.
    """
    needs_extra("check")
    from control.registry.rehearsal import rehearse

    path = Path(onnx)
    read = None if sample is None else read_sample(sample)
    if document is None and read is None:
        return Checked(path.name, rehearse(path, views=views, name=name))
    text = document_text(path, read, name, _with_what_is_required(document))
    return Checked(path.name, rehearse(path, text, _golden(path, text, read, expected, views), views))


def _golden(path: Path, text: str, sample: Sample | None, expected: Any, views: Sequence[FeatureView]) -> str:
    from control.registry.document import read_model
    from gateway.contract.errors import Fault

    if sample is None:
        return ""
    try:
        document = read_model(text)
    except Fault:
        return ""  # the rehearsal says what is wrong with it
    return golden_text(path, document, sample, expected, views)


def _with_what_is_required(document: str | Path | Mapping[str, Any] | None) -> str | Path | Mapping[str, Any]:
    """A check is made before anybody has thought of an owner."""
    made_up = {"purpose": "Checked, and not described yet.", "owner": {"person": "nobody"}}
    return {**made_up, **(document or {})} if document is None or isinstance(document, Mapping) else document
