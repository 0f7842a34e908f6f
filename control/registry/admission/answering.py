"""The other disposable process: runs a model on rows that nobody knows the results of, and says what it answers.

As hostile as admission's: the same limits are in force, and the same static checks come first.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from control.registry.admission.report import Check, Limits, Refused
from control.registry.admission.sandbox import OUTPUT_BYTES, isolate, limit


def main() -> None:
    """Answers one request on what stdout was."""
    # Of the module that is not run as __main__ here, so that importing it starts nothing.
    from control.registry.admission.__main__ import answer_file

    request: dict[str, Any] = json.load(sys.stdin)
    limits = Limits(**request["limits"])
    with answer_file() as answer:
        limit(limits.memory_bytes, limits.cpu_s, OUTPUT_BYTES)
        answer.write(_outcome(request, limits))
    os._exit(0)  # tidying up would run code that hostile bytes may have reached


def _outcome(request: Mapping[str, Any], limits: Limits) -> bytes:
    try:
        return json.dumps({"answers": _answers(request, limits)}).encode()
    except Refused as refused:
        return json.dumps({"refused": refused.check, "message": refused.message}).encode()
    except MemoryError:
        message = "it takes more memory than an examination has; a smaller model will not"
        return json.dumps({"refused": Check.MEMORY, "message": message}).encode()


def _answers(request: Mapping[str, Any], limits: Limits) -> list[list[float]]:
    # Here, because limits must be in force before the first library is loaded.
    import numpy as np
    import numpy.ma  # numpy loads it at its first `unique`, and after isolate() nothing can be loaded

    from control.registry.admission.behaviour import load, runner, signature
    from control.registry.admission.examine import check_statically, mend
    from gateway.contract.document import document_from_json
    from gateway.contract.golden import golden_inputs, read_golden
    from gateway.contract.schema import view_from_json
    from gateway.contract.tensors import row_by_row, takes_one_row

    with os.fdopen(request["model"], "rb") as file:
        model = file.read(limits.model_bytes + 1)
    document = document_from_json(request["document"])
    views = {name: view_from_json(text) for name, text in request["views"].items()}
    isolate()
    if len(model) > limits.model_bytes:
        raise Refused(Check.SIZE, f"the model has more than {limits.model_bytes} bytes; make it smaller")
    model = mend(model, limits).model
    check_statically(model, limits)
    loaded = load(model)
    feeds, run = signature(loaded, document, views), runner(loaded.session, document)
    try:
        rows = read_golden(request["rows"], document, views)
    except (ValueError, KeyError, OverflowError) as error:
        raise Refused(Check.GOLDEN_FILE, str(error).replace("golden rows", "the rows")) from None
    one_by_one = partial(row_by_row, run) if takes_one_row(loaded.inputs) else run
    output = np.asarray(one_by_one(golden_inputs(feeds, rows)), np.float64)
    if output.ndim not in (1, 2) or output.shape[0] != rows.n:
        raise Refused(Check.OUTPUT, f"output {document.output.score} has the shape {list(output.shape)}")
    answers: list[list[float]] = output.reshape(rows.n, -1).tolist()
    return answers


if __name__ == "__main__":
    main()
