"""Inference: a run's model on its inputs, and what becomes of rows that it fails on."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan
from typing import Final

import numpy as np

from gateway.contract.errors import Fault, Reason
from gateway.contract.tensors import Array, Results, interpret
from gateway.run import Inferred, Run

FAILED: Final = Fault(Reason.MODEL_FAILED, "the model failed on this row; the other rows of the call are not affected")
REJECTED: Final = Fault(
    Reason.OUTPUT_REJECTED, "what the model answered for this row is not what its document describes"
)
NOT_FINITE: Final = Fault(Reason.SCORE_NOT_FINITE, "the model answered NaN or infinity for this row")
TOO_SLOW: Final = Fault(Reason.MODEL_TOO_SLOW, "the version took longer than the call could wait for it")


def infer(run: Run, inputs: dict[str, Array], until_ns: int = 0) -> Inferred:
    """Runs the model; where that fails, row by row, so that one poisoned row fails alone.

    `until_ns` is the monotonic time at which the run is ended, 0 for none: then its rows were not wrong, it was too
    slow with all of them, which is one failure and not as many as there are rows.
    """
    if run.servable.one_row and run.n > 1:
        return _row_by_row(run, inputs)
    found = _attempt(run, inputs, run.n, until_ns)
    if isinstance(found, Inferred):
        return found
    if found is TOO_SLOW:
        run.follows.update(range(1, run.n))
        run.errors.update(dict.fromkeys(range(run.n), TOO_SLOW))
    elif run.n == 1:
        run.errors.setdefault(0, found)
    else:
        return _row_by_row(run, inputs)
    return _joined(run, {})


def _attempt(run: Run, inputs: dict[str, Array], n: int, until_ns: int = 0, first: int = 0) -> Inferred | Fault:
    """One run of the graph for n rows, which are those of `run` from `first` on; whose fault it is where that fails."""
    servable = run.servable
    try:
        output, others = servable.run(inputs, run.outputs, until_ns)
    except TimeoutError:
        return TOO_SLOW
    except Exception as error:  # whatever the runtime raises: its exceptions have no common class
        servable.last_error = f"{type(error).__name__}: {error}"
        return FAILED
    try:
        results = interpret(servable.document, output, n)
        _require_rows(others, n)
    except (ValueError, IndexError) as error:
        servable.last_error = f"its outputs were refused: {error}"
        return REJECTED
    finite = np.isfinite(output)
    if np.count_nonzero(finite) != finite.size:
        for row in np.flatnonzero(~finite.reshape(n, -1).all(axis=1)).tolist():
            run.errors.setdefault(first + row, NOT_FINITE)
    return Inferred(results, others)


def _row_by_row(run: Run, inputs: dict[str, Array]) -> Inferred:
    inferred: dict[int, Inferred] = {}
    for row in range(run.n):
        one = {name: values[row : row + 1] for name, values in inputs.items()}
        found = _attempt(run, one, 1, first=row)
        if isinstance(found, Inferred):
            inferred[row] = found
        else:
            run.errors.setdefault(row, found)
    return _joined(run, inferred)


def _joined(run: Run, inferred: dict[int, Inferred]) -> Inferred:
    """What single rows gave, as of one run; rows without any have NaN, "", no ranking and empty outputs."""
    nothing = Results([nan], [""], [[]])
    first = next(iter(inferred.values()), Inferred(nothing, {}))
    failed = Inferred(nothing, {name: np.zeros_like(values) for name, values in first.outputs.items()})
    single = [inferred.get(row, failed) for row in range(run.n)]
    results = [one.results for one in single]
    return Inferred(
        Results(
            [result.scores[0] for result in results],
            None if first.results.decisions is None else [d for result in results for d in result.decisions or ()],
            None if first.results.rankings is None else [r for result in results for r in result.rankings or ()],
        ),
        {name: np.concatenate([one.outputs[name] for one in single]) for name in first.outputs},
    )


def _require_rows(outputs: Mapping[str, Array], n: int) -> None:
    for name, values in outputs.items():
        if not values.shape or values.shape[0] != n:
            raise ValueError(f"output {name} has shape {list(values.shape)} for {n} rows")
