"""Registering from a notebook: a file, a sample, and what the trained model said of it."""

from __future__ import annotations

import html
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from control.files import lineage
from control.notebook.golden import golden_text, profile_text
from control.notebook.sample import Sample
from control.services import ControlPlane
from control.v1 import registry_pb2
from gateway.contract.document import ModelDocument
from gateway.contract.schema import FeatureView


@dataclass(frozen=True, slots=True)
class Origin:
    """How a version was made, for its manifest."""

    lineage: Mapping[str, str | Path] = field(default_factory=dict)
    """Files that it was made from, by name: training_data, environment_lock, model_card; each is hashed whole."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    commit: str = ""
    """Of the code that trained it."""


class Registered(NamedTuple):
    """A version that was registered."""

    model: str
    version: int
    stage: str
    digest: str
    submitted_by: str
    warnings: list[str]
    document: str
    """The document that it was registered with, as YAML: to be kept beside the code."""

    @property
    def name(self) -> str:
        """As the other calls take it: churn/2."""
        return f"{self.model}/{self.version}"

    def __repr__(self) -> str:
        return "\n".join(self._lines())

    def _repr_html_(self) -> str:
        return "<br>".join(html.escape(line) for line in self._lines())

    def _lines(self) -> list[str]:
        return [
            f"{self.name} is {self.stage}, submitted by {self.submitted_by} (digest {self.digest[:12]})",
            *(f"! {warning}" for warning in self.warnings),
            f"next, by somebody other than {self.submitted_by}: interlock approval approve {self.name}",
        ]


class Submission(NamedTuple):
    """What is registered."""

    onnx: Path
    document_yaml: str
    document: ModelDocument
    sample: Sample
    expected: Any
    """What the trained model says of each row of the sample; None for the file's own answers."""


def register(control: ControlPlane, submission: Submission, views: Sequence[FeatureView], origin: Origin) -> Registered:
    """Uploads the file with golden rows and reference profile made from the sample, and registers a version."""
    onnx, text, document, sample, expected = submission
    golden = golden_text(onnx, document, sample, expected, views)
    profile = profile_text(onnx, document, sample, expected, views)
    request = registry_pb2.RegisterVersionRequest(
        document_yaml=text,
        model_sha256=control.upload(onnx),
        golden_sha256=_upload_text(control, golden),
        lineage=[*lineage({name: Path(path) for name, path in origin.lineage.items()}), _profile(control, profile)],
        code_commit=origin.commit,
        hyperparameters_json=json.dumps(dict(origin.hyperparameters)) if origin.hyperparameters else "",
        metrics_json=json.dumps({name: float(value) for name, value in origin.metrics.items()}),
    )
    answer = control.register(request)
    version, warnings = answer.version, list(answer.warnings)
    if expected is None:
        warnings.insert(0, "the golden rows are the file's own answers, so nothing shows that it was exported rightly")
    return Registered(
        version.model, version.version, version.stage, version.digest, version.submitted_by, warnings, text
    )


def _profile(control: ControlPlane, profile: str) -> registry_pb2.LineageEntry:
    from control.registry.profile import LINEAGE

    sha256, size_bytes = _upload_text(control, profile), len(profile.encode())
    return registry_pb2.LineageEntry(name=LINEAGE, sha256=sha256, size_bytes=size_bytes, uri=f"artifact:{sha256}")


def _upload_text(control: ControlPlane, text: str) -> str:
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        return control.upload(Path(file.name))
