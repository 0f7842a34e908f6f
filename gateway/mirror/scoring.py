"""One run of one version on one row, timed."""

from __future__ import annotations

import math
import time
from typing import Final

import numpy as np

from gateway.contract.errors import Reason
from gateway.contract.tensors import interpret
from gateway.mirror.divergence import Scored
from gateway.mirror.inputs import Inputs
from gateway.servable import Servable

LONGEST_RUN_NS: Final = 2_000_000_000
"""After how long a run is ended, on the wall's clock."""
SLOW_NS: Final = 1_000_000_000
"""How much of the processor's time it must have had by then to count as too slow: as long as a call waits by default.
With less it was the machine that was busy."""


def attempt(servable: Servable, inputs: Inputs, row: int) -> Scored | None:
    """What a version says of one row of a block; None where the machine left it no time.

    Time is the processor's: the mirror runs when nobody else wants a core, and would measure how often somebody does.
    """
    if (fault := inputs.errors.get(row)) is not None:
        return _failed(fault.reason)
    one = inputs.row(row)
    outputs = (servable.document.output.score,) if inputs.sent else None  # bound buffers have one shape
    began_ns = time.thread_time_ns()
    try:
        output, _ = servable.run(one, outputs, time.monotonic_ns() + LONGEST_RUN_NS)
    except TimeoutError:
        return _failed(Reason.MODEL_TOO_SLOW) if time.thread_time_ns() - began_ns >= SLOW_NS else None
    except Exception as error:  # whatever the runtime raises: its exceptions have no common class
        servable.last_error = f"{type(error).__name__}: {error}"
        return _failed(Reason.MODEL_FAILED)
    run_ns = time.thread_time_ns() - began_ns
    try:
        results = interpret(servable.document, output, 1)
    except (ValueError, IndexError) as error:
        servable.last_error = f"its outputs were refused: {error}"
        return _failed(Reason.OUTPUT_REJECTED)
    if not np.isfinite(output).all():
        return _failed(Reason.SCORE_NOT_FINITE)
    return Scored(results.scores[0], results.decisions[0] if results.decisions else "", None, run_ns)


def _failed(reason: Reason) -> Scored:
    return Scored(math.nan, "", reason, 0)
