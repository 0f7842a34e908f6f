"""The checks one after the other: cheapest first, and none that trusts what an earlier one has not looked at."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

import onnx
from onnx import ModelProto
from onnx.shape_inference import InferenceError

from control.registry.admission.behaviour import load, observe
from control.registry.admission.formats import check_format
from control.registry.admission.graph import check_graph, check_limits, operators, parse
from control.registry.admission.report import Check, Limits, Refused, Report, said
from control.registry.admission.rewrite import rewrite
from control.registry.admission.tabular import check_tabular
from control.registry.admission.tensors import check_tensors
from control.registry.admission.wire import check_wire
from gateway.contract.document import ModelDocument
from gateway.contract.schema import FeatureView


class Upload(NamedTuple):
    """What was uploaded, and what it is said to be."""

    model: bytes
    golden: bytes
    model_sha256: str
    golden_sha256: str
    document: ModelDocument
    views: Mapping[str, FeatureView]


class Mended(NamedTuple):
    """A model as it is served, and what had to be rewritten for that, in sentences; nothing where it came so."""

    model: bytes
    changes: tuple[str, ...]


class Examined(NamedTuple):
    """What was found, and the model where it had to be rewritten."""

    report: Report
    rewritten: bytes | None


def mend_and_examine(upload: Upload, limits: Limits) -> Examined:
    """Examines the upload as it is served."""
    _check_sizes(upload, limits)
    _check_digests(upload)
    model, changes = mend(upload.model, limits)
    report = examine(upload._replace(model=model, model_sha256=hashlib.sha256(model).hexdigest()), limits)
    return Examined(report._replace(warnings=(*changes, *report.warnings)), model if changes else None)


def mend(data: bytes, limits: Limits) -> Mended:
    """Rewrites what exporters write by default and gateways cannot serve; the result is yet to be examined."""
    given = _parsed(data, limits)
    check_limits(given, limits)
    model, changes = rewrite(given)
    return Mended(model.SerializeToString(deterministic=True) if changes else data, changes)


def examine(upload: Upload, limits: Limits) -> Report:
    """Returns what was measured, or raises Refused."""
    _check_sizes(upload, limits)
    _check_digests(upload)
    counts = check_statically(upload.model, limits)
    try:
        golden = upload.golden.decode()
    except UnicodeDecodeError:
        raise Refused(Check.GOLDEN_FILE, "the golden rows are not UTF-8 text; a CSV file is taken") from None
    loaded = load(upload.model)
    observed = observe(loaded, upload.document, upload.views, golden, limits)
    return Report(
        load_ms=round(loaded.load_ms, 3),
        model_bytes=len(upload.model),
        inputs=loaded.inputs,
        outputs=loaded.outputs,
        operators=counts,
        **observed._asdict(),
    )


def check_statically(data: bytes, limits: Limits) -> dict[str, int]:
    """Makes every check that does not run the model, and returns how often each operator occurs."""
    model = _parsed(data, limits)
    check_graph(model, limits)
    check_tensors(model, limits)
    check_tabular(model, limits)
    counts = operators(model)
    del model  # the runtime needs the memory
    _check_standard(data)
    return counts


def _parsed(data: bytes, limits: Limits) -> ModelProto:
    check_format(data)
    check_wire(data, limits.metadata_entries + 64)
    return parse(data)


def _check_sizes(upload: Upload, limits: Limits) -> None:
    if len(upload.model) > limits.model_bytes:
        raise Refused(Check.SIZE, f"the model has more than {limits.model_bytes} bytes; make it smaller")
    if len(upload.golden) > limits.golden_bytes:
        raise Refused(Check.GOLDEN_FILE, f"the golden rows have more than {limits.golden_bytes} bytes; send fewer")


def _check_digests(upload: Upload) -> None:
    for name, data, digest in (
        ("model", upload.model, upload.model_sha256),
        ("golden rows", upload.golden, upload.golden_sha256),
    ):
        if hashlib.sha256(data).hexdigest() != digest:
            raise Refused(Check.DIGEST, f"the stored bytes of the {name} are not those of their digest; upload again")


def _check_standard(data: bytes) -> None:
    try:
        onnx.checker.check_model(data, full_check=True)
    except (onnx.checker.ValidationError, InferenceError, ValueError, RuntimeError) as error:
        mend = ONE_TYPE if MIXED.search(str(error)) else "export it again with current converters"
        raise Refused(Check.CHECKER, f"onnx.checker: {said(error)}; {mend}") from None


MIXED: Final = re.compile(r"tensor\(double\)|elem type|Type parameter|inconsistent type")
"""What onnx.checker says of a graph in which float32 and float64 meet."""
ONE_TYPE: Final = (
    "the graph mixes types, as converters do with columns of float64 beside others: make them float32 before fitting "
    '(frame.astype({"COLUMN": "float32"})) and convert with the same frame, or with FloatTensorType in initial_types'
)
