"""What admission says: which check refused a model and how to mend it, or what was measured. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple

from gateway.contract.tensors import GraphTensor


class Check(StrEnum):
    """The checks, in the order in which they are made."""

    DIGEST = "digest"
    SIZE = "size"
    FORMAT = "format"
    WIRE = "wire"
    PARSE = "parse"
    EXTERNAL_DATA = "external_data"
    LIMITS = "limits"
    NAMES = "names"
    OPERATORS = "operators"
    SUBGRAPHS = "subgraphs"
    FUNCTIONS = "functions"
    TENSORS = "tensors"
    TABULAR = "tabular"
    CHECKER = "checker"
    LOAD = "load"
    SIGNATURE = "signature"
    GOLDEN_FILE = "golden_file"
    RUN = "run"
    GOLDEN_ROWS = "golden_rows"
    OUTPUT = "output"
    DETERMINISM = "determinism"
    ROWS_APART = "rows_apart"
    LATENCY = "latency"
    TIME = "time"
    MEMORY = "memory"
    CRASH = "crash"


class Refused(Exception):  # noqa: N818 - the model is refused; that is no error of ours
    """A model does not pass a check. The message says what was found and how to mend it."""

    def __init__(self, check: Check, message: str) -> None:
        super().__init__(message)
        self.check = check
        self.message = message


PATH: Final = re.compile(r"(?:/[\w.+-]+){2,}(?::\d+)?")


def said(error: Exception) -> str:
    """The first line of what a library says, bounded, without the paths of the machine that it was built on."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return PATH.sub("…", lines[0])[:300]


class Limits(NamedTuple):
    """What one admission may take, and what a model may be."""

    wall_s: float = 60.0
    cpu_s: int = 40
    memory_bytes: int = 3 << 30
    model_bytes: int = 256 << 20
    golden_bytes: int = 16 << 20
    nodes: int = 20_000
    messages: int = 500_000
    """Parts of the file in all: nodes, attributes, tensors, types."""
    inputs: int = 4096
    outputs: int = 64
    name_chars: int = 256
    attribute_values: int = 5_000_000
    text_bytes: int = 1 << 20
    metadata_entries: int = 1000
    tensor_bytes: int = 512 << 20
    tree_nodes: int = 10_000_000
    run_ms: int = 250
    """Processor time of one run of one row."""


class Report(NamedTuple):
    """What admission measured of a model that passed."""

    load_ms: float
    model_bytes: int
    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]
    golden_rows: int
    max_golden_difference: float
    run_us_p50: float
    """Processor time of one run of one row, the median."""
    operators: Mapping[str, int]
    """How often each operator occurs."""
    warnings: tuple[str, ...]
    """What a person should know."""

    def to_json(self) -> str:
        """Canonical JSON."""
        fields = self._asdict()
        for side in ("inputs", "outputs"):
            fields[side] = [{**tensor._asdict(), "shape": list(tensor.shape)} for tensor in fields[side]]
        fields["warnings"] = list(self.warnings)
        return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def report_from_json(text: str) -> Report:
    """Reads a report; raises ValueError, KeyError or TypeError where it is none."""
    fields: dict[str, Any] = json.loads(text)
    for side in ("inputs", "outputs"):
        fields[side] = tuple(GraphTensor(str(t["name"]), str(t["type"]), tuple(t["shape"])) for t in fields[side])
    fields["warnings"] = tuple(str(warning) for warning in fields["warnings"])
    return Report(**fields)
