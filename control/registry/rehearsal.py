"""A rehearsal: what admission will say of a file, found out without a server, in the same disposable process."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import yaml

from control.registry.admission.ask import ask, expected_columns, scores_of, to_csv
from control.registry.admission.gate import Admission, Candidate
from control.registry.admission.graph import parse
from control.registry.admission.report import Check, Refused, Report
from control.registry.admission.rewrite import rewrite
from control.registry.document import read_model
from control.registry.example import example_rows
from control.registry.init import draft
from gateway.contract.document import ModelDocument
from gateway.contract.errors import Fault, Reason
from gateway.contract.schema import FeatureView

WORDS: Final[Mapping[Check, str]] = MappingProxyType(
    {
        Check.DIGEST: "the bytes are those that were read",
        Check.SIZE: "not too large",
        Check.FORMAT: "an ONNX file",
        Check.WIRE: "exactly one model in it",
        Check.PARSE: "its graph can be read",
        Check.EXTERNAL_DATA: "whole, with no weights in other files",
        Check.LIMITS: "within the limits of size and depth",
        Check.NAMES: "plain names",
        Check.OPERATORS: "known operators",
        Check.SUBGRAPHS: "no hidden graphs",
        Check.FUNCTIONS: "no functions of its own",
        Check.TENSORS: "sound tensors",
        Check.TABULAR: "sound trees and encoders",
        Check.CHECKER: "valid ONNX",
        Check.LOAD: "loads",
        Check.SIGNATURE: "fits its document",
        Check.GOLDEN_FILE: "golden rows can be read",
        Check.RUN: "runs",
        Check.GOLDEN_ROWS: "gives the golden rows' results",
        Check.OUTPUT: "one finite score a row",
        Check.DETERMINISM: "the same score each time",
        Check.ROWS_APART: "no row depends on those beside it",
        Check.LATENCY: "quick enough",
    }
)
"""What each check makes sure of, in the order in which they are made."""
GOLDEN: Final = (Check.GOLDEN_FILE, Check.GOLDEN_ROWS)
"""Checks that say nothing where the rows are the model's own."""
DOCUMENT: Final = "document"
"""Stands for a check where the document itself is wrong."""


class Rehearsal(NamedTuple):
    """What admission said, or would have said had it come so far."""

    document: ModelDocument | None
    document_yaml: str
    golden: str
    """The golden rows, CSV; the model's own answers where none were given."""
    own_golden: bool
    """Whether the results in `golden` are the model's own, so that they prove nothing but that it answers."""
    changes: tuple[str, ...]
    """What registration rewrites of the graph."""
    report: Report | None
    refused: str = ""
    """The check that was not passed; empty where all were."""
    message: str = ""
    """What was wrong, and what to do."""

    @property
    def ok(self) -> bool:
        """Whether it would be admitted."""
        return not self.refused

    @property
    def passed(self) -> list[str]:
        """What was made sure of, in words."""
        if self.refused == DOCUMENT:
            return []
        order = [check for check in WORDS if not (self.own_golden and check in GOLDEN)]
        stop = order.index(Check(self.refused)) if self.refused in order else len(order)
        return [WORDS[check] for check in order[: stop if self.refused else len(order)]]

    @property
    def warnings(self) -> list[str]:
        """What a person should know, beside what is rewritten."""
        found = [warning for warning in self.report.warnings if warning not in self.changes] if self.report else []
        if self.own_golden and self.ok:
            found.insert(0, "no golden rows were given: nothing shows that the file answers as the trained model does")
        return found

    def as_json(self) -> dict[str, Any]:
        """What a program is told."""
        refused = None if self.ok else {"check": self.refused, "message": self.message}
        return {
            "ok": self.ok,
            "refused": refused,
            "passed": self.passed,
            "rewritten": list(self.changes),
            "warnings": self.warnings,
            "report": json.loads(self.report.to_json()) if self.report else None,
        }


def rehearse(
    onnx: Path,
    document_yaml: str = "",
    golden: str = "",
    views: Sequence[FeatureView] = (),
    *,
    name: str = "",
    person: str = "nobody",
) -> Rehearsal:
    """Has the file examined as registration would; a missing document is drafted, missing golden rows are made.

    `views` are the definitions of those that the document pins; `name` and `person` are for a drafted document.
    """
    found = Rehearsal(None, document_yaml, golden, not golden, (), None)
    try:
        text = document_yaml or trial_document(onnx, name, person)
        document = read_model(text)
        found = found._replace(document=document, document_yaml=text, changes=_changes(onnx))
        pinned = _pinned(document, views)
        found = found._replace(golden=golden or own_golden(onnx, document, pinned))
        return found._replace(report=_admit(onnx, document, found.golden, pinned))
    except Refused as refused:
        return found._replace(refused=refused.check.value, message=refused.message)
    except Fault as fault:
        if fault.reason is Reason.ADMISSION_REFUSED:
            message = fault.message.removeprefix(f"refused by the check `{fault.facts['check']}`: ")
            return found._replace(refused=fault.facts["check"], message=message)
        if fault.reason is Reason.DOCUMENT_INVALID:
            return found._replace(refused=DOCUMENT, message=fault.message)
        raise


def trial_document(onnx: Path, name: str, person: str) -> str:
    """A document that is complete, with what only a person knows made up: for trials."""
    drafted: dict[str, Any] = yaml.safe_load(draft(onnx, name))
    drafted["purpose"] = f"On trial: drafted from {onnx.name}, and described by nobody yet."
    drafted["owner"] = {"person": person}
    drafted["nan"] = "allow"  # trees take missing values, and a score that is not finite is refused anyway
    return yaml.safe_dump(drafted, sort_keys=False, allow_unicode=True)


def own_golden(onnx: Path, document: ModelDocument, views: Mapping[str, FeatureView]) -> str:
    """Golden rows with the model's own answers, from rows that its graph suggests; Refused where it takes none."""
    rows = example_rows(rewrite(parse(onnx.read_bytes())).model, document)
    try:
        answers = ask(onnx, document, views, rows)
    except Refused:
        rows = rows[:1]  # the others may be what the model refuses
        answers = ask(onnx, document, views, rows)
    results = expected_columns(document)
    lines = [
        {**row, **dict(zip(results, map(repr, scores_of(document, given)), strict=True))}
        for row, given in zip(rows, answers, strict=True)
    ]
    return to_csv([*(item.column for item in document.inputs), *results], lines)


def _admit(onnx: Path, document: ModelDocument, golden: str, views: Mapping[str, FeatureView]) -> Report:
    data = golden.encode()
    with onnx.open("rb") as model, tempfile.TemporaryFile() as rows, tempfile.TemporaryFile() as rewritten:
        rows.write(data)
        rows.seek(0)
        model_sha256 = hashlib.file_digest(model, "sha256").hexdigest()
        model.seek(io.SEEK_SET)
        digests = (model_sha256, hashlib.sha256(data).hexdigest())
        return Admission().admit(Candidate(model, rows, document, views, *digests, rewritten))


def _changes(onnx: Path) -> tuple[str, ...]:
    try:
        return rewrite(parse(onnx.read_bytes())).changes
    except Refused:
        return ()  # admission says what is wrong


def _pinned(document: ModelDocument, views: Sequence[FeatureView]) -> dict[str, FeatureView]:
    by_hash = {view.digest(): view for view in views}
    absent = [name for name, view_hash in document.views.items() if view_hash not in by_hash]
    if absent:
        raise Fault(
            Reason.DOCUMENT_INVALID,
            f"the model document pins view {absent[0]} ({document.views[absent[0]][:12]}), whose definition is not at "
            "hand; name its file (--view FILE, or views=[...])",
        )
    return {name: by_hash[view_hash] for name, view_hash in document.views.items()}
