"""The disposable process: reads a request from stdin, examines the model, writes its answer to stdout."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

from control.registry.admission.report import Check, Limits, Refused, Report
from control.registry.admission.sandbox import OUTPUT_BYTES, isolate, limit


def main() -> None:
    """Examines one model and answers on what stdout was; whatever libraries print there goes nowhere."""
    request: dict[str, Any] = json.load(sys.stdin)
    limits = Limits(**request["limits"])
    with answer_file() as answer:
        limit(limits.memory_bytes, limits.cpu_s, max(limits.model_bytes, OUTPUT_BYTES))
        answer.write(outcome(lambda: _examine(request, limits)))
    os._exit(0)  # tidying up would run code that hostile bytes may have reached


def outcome(examination: Callable[[], Report]) -> bytes:
    """The answer: a report, or which check refused the model."""
    try:
        return json.dumps({"report": json.loads(examination().to_json())}).encode()
    except Refused as refused:
        return json.dumps({"refused": refused.check, "message": refused.message}).encode()
    except MemoryError:
        message = "it takes more memory than an examination has; a smaller model will not"
        return json.dumps({"refused": Check.MEMORY, "message": message}).encode()


def _examine(request: dict[str, Any], limits: Limits) -> Report:
    # Here, because limits must be in force before the first library is loaded.
    import numpy.ma  # noqa: F401 - numpy loads it at its first `unique`, and after isolate() nothing can be loaded

    from control.registry.admission.examine import Upload, examine, mend_and_examine
    from gateway.contract.document import document_from_json
    from gateway.contract.schema import view_from_json

    upload = Upload(
        model=_read(request["model"], limits.model_bytes),
        golden=_read(request["golden"], limits.golden_bytes),
        model_sha256=request["model_sha256"],
        golden_sha256=request["golden_sha256"],
        document=document_from_json(request["document"]),
        views={name: view_from_json(text) for name, text in request["views"].items()},
    )
    isolate()
    if request["rewritten"] is None:
        return examine(upload, limits)
    report, rewritten = mend_and_examine(upload, limits)
    if rewritten is not None:
        with os.fdopen(request["rewritten"], "wb", closefd=False) as file:
            file.write(rewritten)
    return report


def _read(descriptor: int, max_bytes: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        return file.read(max_bytes + 1)


def answer_file() -> BinaryIO:
    """Keeps what stdout was for the answer alone."""
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    return os.fdopen(kept, "wb")


if __name__ == "__main__":
    main()
