"""What a model does when it is loaded and run: the only place in the control plane that imports onnxruntime."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from statistics import median
from typing import Any, Final, NamedTuple

import numpy as np
import onnxruntime

from control.registry.admission.report import Check, Limits, Refused, said
from gateway.contract.document import ModelDocument
from gateway.contract.golden import Golden, check_golden, golden_inputs, read_golden
from gateway.contract.schema import FeatureView
from gateway.contract.tensors import (
    Array,
    Feed,
    GraphTensor,
    interpret,
    plan_inputs,
    row_by_row,
    takes_one_row,
)

BATCH: Final = 256
"""Rows of the largest batch that a gateway runs."""
SINGLES: Final = 16
"""Golden rows that are run one by one too."""
TIMED_RUNS: Final = 51
TIMED_S: Final = 0.5
"""Runs of one row that are timed: so many, or as many as fit."""

ONE_ROW: Final = (
    "the graph was exported with a fixed batch of one, so the rows of a batch are run one by one; a free first "
    "dimension (skl2onnx: FloatTensorType([None, columns]), torch: dynamic_shapes) makes large batches faster"
)

Inputs = Mapping[str, Array]


class Loaded(NamedTuple):
    """A model in the runtime."""

    session: Any
    load_ms: float
    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]


class Observed(NamedTuple):
    """What was seen of a model that behaves."""

    golden_rows: int
    max_golden_difference: float
    run_us_p50: float
    warnings: tuple[str, ...]


def load(model: bytes) -> Loaded:
    """Loads the model from its bytes, with the settings that gateways use."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    started = time.perf_counter()
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise Refused(Check.LOAD, f"onnxruntime {onnxruntime.__version__} does not load it: {said(error)}") from None
    load_ms = (time.perf_counter() - started) * 1000
    return Loaded(session, load_ms, _tensors(session.get_inputs()), _tensors(session.get_outputs()))


def observe(
    loaded: Loaded, document: ModelDocument, views: Mapping[str, FeatureView], golden_text: str, limits: Limits
) -> Observed:
    """Runs the model as gateways will, and refuses one that does not do what its document says."""
    feeds = signature(loaded, document, views)
    golden = _golden(golden_text, document, views)
    run, one_row = runner(loaded.session, document), takes_one_row(loaded.inputs)
    if one_row:
        run = partial(row_by_row, run)
    inputs = golden_inputs(feeds, golden)
    first = _check_output(document, run(inputs), golden.n)
    if not one_row:
        _check_declared(loaded, document, first)
    try:
        difference = check_golden(document, feeds, golden, run)
    except ValueError as error:
        raise Refused(Check.GOLDEN_ROWS, f"{error}; were the rows made with this very file?") from None
    check_same(first, run(inputs))
    run_us_p50 = _timed(inputs, run, limits)
    _check_rows_apart(document, inputs, first, run)
    warnings = [ONE_ROW] if one_row else []
    warnings += _extremes(document, inputs, golden.n, run)
    return Observed(golden.n, difference, run_us_p50, tuple(warnings))


def check_same(first: Array, again: Array) -> None:
    """Refuses two outputs of one input that differ in any bit."""
    if first.shape != again.shape or first.tobytes() != again.tobytes():
        raise Refused(Check.DETERMINISM, "the same rows got other scores the second time; remove what is random")


def _tensors(values: list[Any]) -> tuple[GraphTensor, ...]:
    return tuple(GraphTensor(value.name, value.type, tuple(value.shape or ())) for value in values)


def signature(loaded: Loaded, document: ModelDocument, views: Mapping[str, FeatureView]) -> tuple[Feed, ...]:
    """How the document's inputs feed the graph's; refuses where they do not fit together."""
    try:
        feeds = plan_inputs(document, views, loaded.inputs)
    except (ValueError, KeyError) as error:
        raise Refused(Check.SIGNATURE, f"{error}; the document's inputs and the graph's must agree") from None
    for tensor in loaded.inputs:
        if isinstance(tensor.shape[0], int) and tensor.shape[0] != 1:
            raise Refused(
                Check.SIGNATURE,
                f"graph input {tensor.name} takes {tensor.shape[0]} rows at a time; export it with a free first "
                "dimension (skl2onnx: FloatTensorType([None, columns]); torch: dynamic_shapes)",
            )
    names = [tensor.name for tensor in loaded.outputs]
    if document.output.score not in names:
        raise Refused(
            Check.SIGNATURE, f"output.score is {document.output.score!r}, but the graph has {', '.join(names)}"
        )
    kind = loaded.outputs[names.index(document.output.score)].type
    if kind not in ("tensor(float)", "tensor(double)", "tensor(int64)", "tensor(int32)"):
        raise Refused(Check.SIGNATURE, f"the output {document.output.score} is a {kind}, which is no score")
    return feeds


def _golden(text: str, document: ModelDocument, views: Mapping[str, FeatureView]) -> Golden:
    try:
        golden = read_golden(text, document, views)
    except (ValueError, KeyError, OverflowError) as error:
        raise Refused(Check.GOLDEN_FILE, str(error)) from None
    if not np.isfinite(golden.expected).all():
        raise Refused(Check.GOLDEN_FILE, "golden rows: an expected result is not a finite number")
    return golden


def runner(session: Any, document: ModelDocument) -> Callable[[Inputs], Array]:
    """What runs the model's score output; refuses a model that fails."""

    def run(inputs: Inputs) -> Array:
        try:
            return np.asarray(session.run([document.output.score], dict(inputs))[0])
        except Exception as error:
            raise Refused(Check.RUN, f"it fails on {_rows(inputs)} rows: {said(error)}") from None

    return run


def _check_output(document: ModelDocument, output: Array, n: int) -> Array:
    """Refuses an output that is not one row of finite scores for each row given."""
    if output.ndim not in (1, 2) or output.shape[0] != n:
        raise Refused(
            Check.OUTPUT,
            f"output {document.output.score} has the shape {list(output.shape)} for {n} rows; one row each",
        )
    try:
        results = interpret(document, output, n)
    except ValueError as error:
        raise Refused(Check.OUTPUT, str(error)) from None
    if not np.isfinite(results.scores).all():
        row = int((~np.isfinite(results.scores)).argmax())
        raise Refused(Check.OUTPUT, f"golden row {row + 1} gets the score {results.scores[row]}; scores must be finite")
    return output


def _check_declared(loaded: Loaded, document: ModelDocument, output: Array) -> None:
    """Refuses an output that has other columns than the graph declares: the runtime binds it as it is declared."""
    declared = next(tensor.shape for tensor in loaded.outputs if tensor.name == document.output.score)
    pairs = zip(declared[1:], output.shape[1:], strict=False)
    if declared and (len(declared) != output.ndim or any(isinstance(size, int) and size != got for size, got in pairs)):
        raise Refused(
            Check.OUTPUT,
            f"output {document.output.score} is declared as {list(declared)}, but has the shape {list(output.shape)}: "
            f"correct its shape in the graph (dim[1].dim_value = {output[0].size}) and save it",
        )


def _check_rows_apart(document: ModelDocument, inputs: Inputs, whole: Array, run: Callable[[Inputs], Array]) -> None:
    """Refuses a model in which a row's score depends on who else is in the batch, or how many."""
    n = _rows(inputs)
    batches = [np.array([row]) for row in range(min(n, SINGLES))]
    batches += [np.arange(BATCH) % n, np.arange(n)[::-1]]
    for rows in batches:
        output = run(_take(inputs, rows))
        if output.shape[1:] != whole.shape[1:] or output.shape[0] != len(rows):
            raise Refused(Check.OUTPUT, f"{len(rows)} rows get the shape {list(output.shape)}, {n} {list(whole.shape)}")
        expected = whole[rows].astype(np.float64)
        far = ~(np.abs(output - expected) <= document.tolerance * np.maximum(1.0, np.abs(expected)))
        if far.any():
            row = int(rows[np.argwhere(far)[0][0]])
            raise Refused(
                Check.ROWS_APART,
                f"golden row {row + 1} gets another score in a batch of {len(rows)} than in one of {n}; "
                "a row's score must not depend on the rows beside it",
            )


def _extremes(document: ModelDocument, inputs: Inputs, n: int, run: Callable[[Inputs], Array]) -> Iterator[str]:
    """Runs what lies beyond the golden rows, and says what the model makes of it."""
    not_finite = []
    for what, changed in extreme_inputs(inputs):
        try:
            output = run(changed)
        except Refused as refused:
            yield f"with {what} in every input of that type {refused.message}"
            continue
        if output.shape[0] != n:
            raise Refused(Check.OUTPUT, f"with {what} in every input: {output.shape[0]} rows of output for {n}")
        try:
            finite = np.isfinite(interpret(document, output, n).scores).all()
        except ValueError as error:
            raise Refused(Check.OUTPUT, f"with {what} in every input: {error}") from None
        if not finite:
            not_finite.append(what)
    if not_finite:
        yield (
            f"with {', '.join(not_finite)} in every input of that type the score is not finite, so such a row is "
            "answered SCORE_NOT_FINITE"
        )


def extreme_inputs(inputs: Inputs) -> Iterator[tuple[str, dict[str, Array]]]:
    """The golden rows with all values of one type replaced by one that is at the edge of it."""
    for kind, name, value in EXTREMES:
        changed = {
            key: np.full_like(array, value) if array.dtype.kind in kind else array for key, array in inputs.items()
        }
        if any(array.dtype.kind in kind for array in inputs.values()):
            yield name, changed


EXTREMES: Final[tuple[tuple[str, str, Any], ...]] = (
    ("f", "NaN", np.nan),
    ("f", "infinity", np.inf),
    ("f", "minus infinity", -np.inf),
    ("f", "minus zero", -0.0),
    ("f", "the largest float32", np.finfo(np.float32).max),
    ("i", "the largest int32", np.iinfo(np.int32).max),
    ("i", "the smallest int32", np.iinfo(np.int32).min),
    ("O", "the empty text", ""),
    ("O", "a text never seen", "\U0001f9ea never seen before"),
)
"""By numpy's letter of the type: what to put there, and what to call it."""


def _timed(inputs: Inputs, run: Callable[[Inputs], Array], limits: Limits) -> float:
    """Processor time of one run of one row, in microseconds: the median. Other work on this machine does not count."""
    one = _take(inputs, np.array([0]))
    taken: list[int] = []
    until = time.perf_counter() + TIMED_S
    while len(taken) < TIMED_RUNS and (not taken or time.perf_counter() < until):
        started = time.thread_time_ns()
        run(one)
        taken.append(time.thread_time_ns() - started)
    if min(taken) > limits.run_ms * 1_000_000:
        raise Refused(
            Check.LATENCY,
            f"one row takes {min(taken) / 1e6:.0f} ms; {limits.run_ms} ms are taken: make the model smaller",
        )
    return median(taken) / 1000


def _take(inputs: Inputs, rows: Array) -> dict[str, Array]:
    return {name: np.ascontiguousarray(array[rows]) for name, array in inputs.items()}


def _rows(inputs: Inputs) -> int:
    return len(next(iter(inputs.values())))
