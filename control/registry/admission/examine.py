"""The checks one after the other: cheapest first, and none that trusts what an earlier one has not looked at."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import onnx
from onnx.shape_inference import InferenceError

from control.registry.admission.behaviour import load, observe
from control.registry.admission.formats import check_format
from control.registry.admission.graph import check_graph, operators, parse
from control.registry.admission.report import Check, Limits, Refused, Report, said
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


def examine(upload: Upload, limits: Limits) -> Report:
    """Returns what was measured, or raises Refused."""
    if len(upload.model) > limits.model_bytes:
        raise Refused(Check.SIZE, f"the model has more than {limits.model_bytes} bytes; make it smaller")
    if len(upload.golden) > limits.golden_bytes:
        raise Refused(Check.GOLDEN_FILE, f"the golden rows have more than {limits.golden_bytes} bytes; send fewer")
    for name, data, digest in (
        ("model", upload.model, upload.model_sha256),
        ("golden rows", upload.golden, upload.golden_sha256),
    ):
        if hashlib.sha256(data).hexdigest() != digest:
            raise Refused(Check.DIGEST, f"the stored bytes of the {name} are not those of their digest; upload again")
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
    check_format(data)
    check_wire(data, limits.metadata_entries + 64)
    model = parse(data)
    check_graph(model, limits)
    check_tensors(model, limits)
    check_tabular(model, limits)
    counts = operators(model)
    del model  # the runtime needs the memory
    _check_standard(data)
    return counts


def _check_standard(data: bytes) -> None:
    try:
        onnx.checker.check_model(data, full_check=True)
    except (onnx.checker.ValidationError, InferenceError, ValueError, RuntimeError) as error:
        raise Refused(Check.CHECKER, f"onnx.checker: {said(error)}; export it again with current converters") from None
