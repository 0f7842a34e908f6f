"""The manifest: everything that a version is, named by digest. Its own digest is what an approval is bound to. Pure."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from control.registry.admission.report import Report
from gateway.contract.document import ModelDocument
from gateway.contract.errors import Fault, Reason

FORMAT: Final = 1
MAX_LINEAGE: Final = 256
MAX_TEXT: Final = 2048
MAX_JSON_BYTES: Final = 64 << 10
SHA256: Final = re.compile(r"[0-9a-f]{64}")
NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")


class Artifact(NamedTuple):
    """Stored bytes, by their digest."""

    sha256: str
    size_bytes: int


class Files(NamedTuple):
    """The artifacts of a version."""

    model: Artifact
    """What gateways serve."""
    golden: Artifact
    uploaded: Artifact | None = None
    """The model as it came, where it had to be rewritten."""


class Lineage(NamedTuple):
    """Something that the version was made from."""

    name: str
    sha256: str
    size_bytes: int
    uri: str


class Origin(NamedTuple):
    """How the version was made, as its trainer says."""

    lineage: tuple[Lineage, ...]
    code_commit: str
    hyperparameters: dict[str, Any]
    metrics: dict[str, float]


class Manifest(NamedTuple):
    """Canonical JSON, and its SHA-256."""

    text: str
    digest: str


def make_manifest(
    document: ModelDocument,
    files: Files,
    origin: Origin,
    report: Report,
) -> Manifest:
    """The manifest of a version that was admitted. What was measured is no part of it: it differs from run to run."""
    content = {
        "format": FORMAT,
        "document": document.model_dump(mode="json"),
        "document_sha256": document.digest(),
        "artifacts": {name: file._asdict() for name, file in files._asdict().items() if file is not None},
        "views": dict(document.views),
        "signature": {
            "inputs": [tensor._asdict() for tensor in report.inputs],
            "outputs": [tensor._asdict() for tensor in report.outputs],
        },
        "lineage": [entry._asdict() for entry in sorted(origin.lineage)],
        "code_commit": origin.code_commit,
        "hyperparameters": origin.hyperparameters,
        "metrics": origin.metrics,
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Manifest(text, hashlib.sha256(text.encode()).hexdigest())


def check_origin(lineage: Sequence[Lineage], code_commit: str, hyperparameters_json: str, metrics_json: str) -> Origin:
    """Reads what a trainer says of a version; raises a fault naming the field that is wrong."""
    if len(lineage) > MAX_LINEAGE:
        raise _invalid("lineage", f"{len(lineage)} entries; {MAX_LINEAGE} are taken")
    names: set[str] = set()
    for index, entry in enumerate(lineage):
        _check_lineage(f"lineage[{index}]", entry, names)
        names.add(entry.name)
    if len(code_commit) > MAX_TEXT or not code_commit.isprintable():
        raise _invalid("code_commit", "is too long, or has characters that do not print")
    metrics = _json_object("metrics_json", metrics_json)
    for name, value in metrics.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise _invalid("metrics_json", f"{name!r:.80} is {value!r:.80}, which is not a finite number")
    return Origin(tuple(lineage), code_commit, _json_object("hyperparameters_json", hyperparameters_json), metrics)


def check_sha256(field: str, value: str) -> str:
    """Returns the digest; raises a fault naming the field where it is none."""
    if not SHA256.fullmatch(value):
        raise _invalid(field, f"{value!r:.80} is not a SHA-256; 64 lower-case hexadecimal digits are taken")
    return value


def _check_lineage(where: str, entry: Lineage, names: set[str]) -> None:
    if not NAME.fullmatch(entry.name):
        raise _invalid(f"{where}.name", f"{entry.name!r:.80} is no name: lower-case letters, digits and _ are taken")
    if entry.name in names:
        raise _invalid(f"{where}.name", f"{entry.name} is there twice")
    check_sha256(f"{where}.sha256", entry.sha256)
    if entry.size_bytes < 0:
        raise _invalid(f"{where}.size_bytes", "is negative")
    if len(entry.uri) > MAX_TEXT or not entry.uri.isprintable():
        raise _invalid(f"{where}.uri", "is too long, or has characters that do not print")


def _json_object(field: str, text: str) -> dict[str, Any]:
    if not text:
        return {}
    if len(text.encode()) > MAX_JSON_BYTES:
        raise _invalid(field, f"is larger than {MAX_JSON_BYTES >> 10} KiB")
    try:
        value = json.loads(text, object_pairs_hook=_without_doubles, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _invalid(field, f"is no JSON that is taken: {error!s:.200}") from None
    if not isinstance(value, dict):
        raise _invalid(field, "must be a JSON object")
    return value


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _invalid(field: str, message: str) -> Fault:
    return Fault(Reason.ARGUMENT_INVALID, f"{field}: {message}", field=field)
