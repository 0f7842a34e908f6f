"""An installation, as a notebook has it: connect to it, and register, score, list and compare."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from control import places
from control.connection import Unreachable, is_loopback
from control.notebook import scoring
from control.notebook.checking import Checked, check
from control.notebook.comparison import Comparison, differences, side_by_side
from control.notebook.drafting import document_text, needs_extra
from control.notebook.golden import pinned_views, stored_types
from control.notebook.registration import Origin, Registered, Submission, register
from control.notebook.sample import Sample, cells, read_sample
from control.notebook.scoring import Scores
from control.notebook.table import Table
from control.services import ControlPlane, Gateway
from gateway.contract.document import ModelDocument
from gateway.contract.schema import FeatureView, view_from_json


class Installation:
    """A control plane and a gateway, as one person may use them. `connect` makes one."""

    def __init__(self, control: ControlPlane, gateway: Gateway | None) -> None:
        self.control = control
        self._gateway = gateway

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        gateway = f"a gateway at {self._gateway.address}" if self._gateway else "no gateway"
        return f"a control plane at {self.control.address} and {gateway}"

    def close(self) -> None:
        """Ends the connections."""
        self.control.close()
        if self._gateway:
            self._gateway.close()

    def check(self, onnx: str | Path, sample: Any = None, expected: Any = None, **described: Any) -> Checked:
        """As `control.client.check`, with the views that this installation stores."""
        return check(onnx, sample, expected, views=self._views(), **described)

    def register(
        self,
        onnx: str | Path,
        sample: Any,
        expected: Any = None,
        *,
        document: str | Path | Mapping[str, Any] | None = None,
        name: str = "",
        origin: Origin | None = None,
    ) -> Registered:
        """Registers a version with golden rows and a reference profile made from the sample.

        `expected` is what the trained model says of each row, such as `model.predict_proba(sample)`. `document` is the
        path of a model.yaml, or a mapping of what to say beside what can be read from the graph: purpose and owner at
        least. Raises Fault or Refused saying what is wrong.
        """
        needs_extra("register")
        from control.registry.document import read_model

        path, read = Path(onnx), read_sample(sample)
        text = document_text(path, read, name, document)
        submission = Submission(path, text, read_model(text), read, expected)
        return register(self.control, submission, self._views(), origin or Origin())

    def score(self, model: str, rows: Any, version: int = 0) -> Scores:
        """Scores rows: a DataFrame, an array, or a mapping, with a column per entity and request-time input."""
        if self._gateway is None:
            raise Unreachable("UNAVAILABLE", "NOT_RUNNING", "no gateway is known; give connect(gateway='HOST:PORT')")
        return scoring.score(self._gateway, self._document(model, version), version, read_sample(rows))

    def list(self, model: str = "") -> Table:
        """The models; or the versions of one, newest first."""
        if not model:
            columns = ("model", "task", "owner", "newest", "champion", "purpose")
            found = self.control.models()
            rows = [(m.name, m.task, m.owner, m.latest_version, m.champion_version or None, m.purpose) for m in found]
            return Table(columns, rows)
        versions = self.control.versions(model)
        shown = [
            (f"{v.model}/{v.version}", v.stage, v.status, v.submitted_by, list(v.approved_by), v.digest[:12])
            for v in versions
        ]
        return Table(("version", "stage", "status", "submitted by", "approved by", "digest"), shown)

    def compare(self, first: str, second: str, sample: Any = None) -> Comparison:
        """What differs between two versions (churn/1, churn/2), and with a sample what they say of its rows.

        The versions need not be served: their files are fetched and run here, in a disposable process.
        """
        manifests = (self._manifest(first), self._manifest(second))
        scores = None
        if sample is not None:
            needs_extra("compare with a sample")
            read = read_sample(sample)
            documents = tuple(ModelDocument.model_validate(manifest["document"]) for manifest in manifests)
            answers = tuple(self._answers(m, d, read) for m, d in zip(manifests, documents, strict=True))
            scores = side_by_side((first, second), (documents[0], documents[1]), (answers[0], answers[1]))
        return Comparison(first, second, differences(first, second, *manifests), scores)

    def _answers(
        self, manifest: Mapping[str, Any], document: ModelDocument, sample: Sample
    ) -> Sequence[Sequence[float]]:
        from control.registry.admission.ask import ask
        from control.registry.admission.report import Refused

        views = pinned_views(document, self._views() if document.views else [])
        rows = cells(document, sample, stored_types(document, views))
        artifact = manifest["artifacts"]["model"]
        with tempfile.TemporaryDirectory() as directory:
            onnx = Path(directory) / "model.onnx"
            self.control.download(artifact["sha256"], artifact["size_bytes"], onnx)
            try:
                return ask(onnx, document, views, rows)
            except Refused as refused:
                raise ValueError(f"{document.name} does not answer to the sample: {refused.message}") from None

    def _document(self, model: str, version: int) -> ModelDocument:
        """The document of the version that will answer."""
        if not version:
            found = self.control.status(model).models[0]
            version = found.champion_version or found.trial_version
            if not version:
                raise ValueError(f"nobody answers for {model}; `interlock model promote {model}/VERSION` changes that")
        return ModelDocument.model_validate(self._manifest(f"{model}/{version}")["document"])

    def _manifest(self, name: str) -> dict[str, Any]:
        model, _, number = name.rpartition("/")
        if not model or not number.isdecimal():
            raise ValueError(f"{name!r} is not MODEL/VERSION, such as churn/2; list(MODEL) shows them")
        manifest: dict[str, Any] = json.loads(self.control.version(model, int(number)).manifest_json)
        return manifest

    def _views(self) -> Sequence[FeatureView]:
        return [view_from_json(view.definition_json) for view in self.control.views()]


def connect(
    data: str | Path | None = None,
    *,
    control: str = "",
    gateway: str = "",
    token: str = "",
    token_file: str | Path | None = None,
) -> Installation:
    """Connects to the installation whose data directory is `data` on this host, or to HOST:PORT of its services.

    What is not given is taken from the environment, as the command line does (INTERLOCK_DATA, INTERLOCK_CONTROL,
    INTERLOCK_GATEWAY, INTERLOCK_TOKEN), or from `.interlock`. Without a token, on this host, the one that
    `interlock up` made for a submitter is used.
    """
    directory = Path(data or os.environ.get("INTERLOCK_DATA") or places.DEFAULT_DATA)
    here = places.control_place(directory)
    address = control or _named("INTERLOCK_CONTROL", data) or (here.address if here else "")
    if not address:
        raise Unreachable(
            "UNAVAILABLE",
            "NOT_RUNNING",
            f"no control plane runs in {directory}; start one (`interlock up`), or give connect(control='HOST:PORT')",
        )
    serving = gateway or _named("INTERLOCK_GATEWAY", data)
    if not serving and (found := places.gateway_place(directory)):
        serving = found.address
    given = token or _read(token_file) or os.environ.get("INTERLOCK_TOKEN", "")
    plane = ControlPlane(address, given or _local_token(directory, address))
    return Installation(plane, Gateway(serving, given or None) if serving else None)


def _named(variable: str, data: object) -> str:
    return "" if data else os.environ.get(variable, "")


def _read(path: str | Path | None) -> str:
    """The token in a file that was named; one that cannot be read is an error, and not another token."""
    return Path(path).read_text(encoding="utf-8").strip() if path else ""


def _local_token(directory: Path, address: str) -> str:
    if not is_loopback(address):
        return ""
    found = ""
    for path in (directory / "people" / "submitter.token", places.operator_token_path(directory)):
        with suppress(OSError):
            found = found or path.read_text(encoding="utf-8").strip()
    return found
