"""Rows to score: request-time values typed by how they are written or by --type, and batches from a CSV file. Pure."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from control.cli.feature_rows import parse_value
from gateway.contract.errors import Fault, Reason
from gateway.contract.schema import Dtype
from gateway.v1 import scoring_pb2

BATCH_ROWS: Final = 256
"""As many as a gateway takes in one call."""
VALUES: Final[Mapping[Dtype, str]] = {
    Dtype.FLOAT32: "number",
    Dtype.INT64: "integer",
    Dtype.STRING: "text",
    Dtype.BOOL: "flag",
}
"""The field of a Value, and with an s the list of an InputColumn, that takes each type."""


class RowsFile(NamedTuple):
    """A CSV file, read: its columns by name."""

    columns: Mapping[str, Sequence[str]]
    n: int


class Columns(NamedTuple):
    """Which columns of the file are sent."""

    entities: Sequence[str]
    inputs: Sequence[str]


def parse_types(given: Mapping[str, str]) -> dict[str, Dtype]:
    """Reads --type options."""
    for name, dtype in given.items():
        if dtype not in list(Dtype):
            raise Fault(Reason.ARGUMENT_INVALID, f"--type {name}={dtype}: float32, int64, string or bool is wanted")
    return {name: Dtype(dtype) for name, dtype in given.items()}


def guess(cells: Iterable[str]) -> Dtype:
    """The narrowest type that all cells can be read as: 3 is int64, 3.0 float32, true bool, anything else string."""
    found = set(map(_kind, cells))
    if found <= {Dtype.INT64, Dtype.FLOAT32}:
        return Dtype.FLOAT32 if Dtype.FLOAT32 in found else Dtype.INT64
    return found.pop() if len(found) == 1 else Dtype.STRING


def row_request(
    model: str, version: int, entities: Mapping[str, str], inputs: Mapping[str, str], types: Mapping[str, Dtype]
) -> scoring_pb2.ScoreRequest:
    """The request that scores one row."""
    request = scoring_pb2.ScoreRequest(model=model, version=version, entities=entities)
    for name, cell in inputs.items():
        dtype = types.get(name) or guess([cell])
        setattr(request.inputs[name], VALUES[dtype], _read(dtype, name, cell))
    return request


def read_rows(lines: Iterable[str], source: str) -> RowsFile:
    """Reads a CSV file with a header."""
    try:
        records = [record for record in csv.reader(lines, strict=True) if record]
    except csv.Error as error:
        raise Fault(Reason.ARGUMENT_INVALID, f"{source} is no CSV: {error}") from None
    if len(records) < 2:
        raise Fault(Reason.ARGUMENT_INVALID, f"{source} has no rows: its first line must name the columns")
    header, *rows = records
    for line, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise Fault(
                Reason.ARGUMENT_INVALID, f"{source}, row {line}: has {len(row)} cells, the header has {len(header)}"
            )
    return RowsFile(dict(zip(header, zip(*rows, strict=True), strict=True)), len(rows))


def batch_requests(
    model: str, version: int, rows: RowsFile, wanted: Columns, types: Mapping[str, Dtype]
) -> Iterator[scoring_pb2.ScoreBatchRequest]:
    """Requests of at most BATCH_ROWS rows."""
    for option, names in (("--entity", wanted.entities), ("--input", wanted.inputs)):
        if absent := [name for name in names if name not in rows.columns]:
            have = ", ".join(rows.columns)
            raise Fault(Reason.ARGUMENT_INVALID, f"{option} {absent[0]}: the file has no such column; it has {have}")
    kinds = {name: types.get(name) or guess(rows.columns[name]) for name in wanted.inputs}
    values = {name: [_read(kinds[name], name, cell) for cell in rows.columns[name]] for name in wanted.inputs}
    for start in range(0, rows.n, BATCH_ROWS):
        part = slice(start, start + BATCH_ROWS)
        request = scoring_pb2.ScoreBatchRequest(model=model, version=version)
        for name in wanted.entities:
            request.entities.add(entity=name, keys=rows.columns[name][part])
        for name in wanted.inputs:
            getattr(request.inputs.add(name=name), f"{VALUES[kinds[name]]}s").extend(values[name][part])
        yield request


def batch_answers(response: scoring_pb2.ScoreBatchResponse) -> list[dict[str, Any]]:
    """The answers row by row, each with its score or its error."""
    errors = {error.row: error for error in response.errors}
    flags = {found.row: found.flags for found in response.flags}
    answers: list[dict[str, Any]] = []
    for row, prediction_id in enumerate(response.prediction_ids):
        if row in errors:
            answers.append({"reason": errors[row].reason, "message": errors[row].message})
            continue
        answer: dict[str, Any] = {"score": response.scores[row], "version": response.versions[row]}
        if response.decisions:
            answer["decision"] = response.decisions[row]
        if response.rankings:
            answer["ranking"] = [{"label": r.label, "score": r.score} for r in response.rankings[row].ranking]
        if response.feature_ages_ms:
            answer |= {"defaulted": response.defaulted[row], "feature_age_ms": response.feature_ages_ms[row]}
        answer |= {"flags": flag_names(flags.get(row, ())), "prediction_id": prediction_id}
        answers.append(answer)
    return answers


def flag_names(flags: Iterable[int]) -> list[str]:
    """Flags as people read them."""
    return [scoring_pb2.Flag.Name(flag).removeprefix("FLAG_").lower() for flag in flags]  # type: ignore[arg-type]  # numbers


def _kind(cell: str) -> Dtype:
    for dtype in (Dtype.INT64, Dtype.FLOAT32):
        try:
            parse_value(dtype, cell)
        except ValueError:
            continue
        # 3.0 is whole, but who writes the point means a number that need not be.
        return Dtype.FLOAT32 if "." in cell else dtype
    return Dtype.BOOL if cell.lower() in ("true", "false") else Dtype.STRING


def _read(dtype: Dtype, name: str, cell: str) -> Any:
    try:
        return parse_value(dtype, cell)
    except ValueError as error:
        raise Fault(Reason.INPUT_MISMATCH, f"input {name}: {error} ({dtype} wanted)") from None
