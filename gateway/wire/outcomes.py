"""The messages of RecordOutcomes: read into records for the outcome log, and answered."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from math import isfinite
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from gateway.contract.errors import Fault, Reason
from gateway.v1 import outcome_log_pb2 as log_pb
from gateway.v1 import scoring_pb2 as pb

METHOD: Final = "/gateway.v1.ScoringService/RecordOutcomes"
MAX_ROWS: Final = 256
MAX_ID: Final = 128
MAX_KEY_BYTES: Final = 256
MAX_TEXT: Final = 256
MAX_KPIS: Final = 32
MAX_ENTITIES: Final = 8
AHEAD_NS: Final = 3_600_000_000_000
"""How far an event may lie in the future: clocks differ, and a unit that was mistaken is further off."""
PREDICTION_ID: Final = re.compile(r"[0-9a-f]{28}")
NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")

Assigning = Callable[[str], str | None]
"""The entity that assigns the arms of a model; None for a model that is not served here. Raises Fault for one that has
no entity."""


class Rows(NamedTuple):
    """What a call's rows are."""

    records: Sequence[bytes]
    """For the log: the good rows."""
    errors: Sequence[tuple[int, Fault]]
    """The bad ones, by place."""

    def reply(self) -> bytes:
        """What the call is answered once the records are kept."""
        errors = [
            pb.RowError(row=row, code=fault.code, reason=fault.reason, message=fault.message)
            for row, fault in self.errors
        ]
        return pb.RecordOutcomesResponse(recorded=len(self.records), errors=errors).SerializeToString()


def read(request: bytes, now_ns: int, assigning: Assigning) -> Rows:
    """Reads a RecordOutcomesRequest; raises Fault where the call as a whole is wrong."""
    try:
        outcomes = pb.RecordOutcomesRequest.FromString(request).outcomes
    except DecodeError:
        raise Fault(
            Reason.MALFORMED_REQUEST,
            f"the {len(request)} bytes are no {pb.RecordOutcomesRequest.DESCRIPTOR.full_name}; "
            "compile the protos of this release",
        ) from None
    if not 0 < len(outcomes) <= MAX_ROWS:
        raise Fault(Reason.BATCH_SIZE, f"the call has {len(outcomes)} outcomes; send 1 to {MAX_ROWS}")
    records: list[bytes] = []
    errors: list[tuple[int, Fault]] = []
    for row, outcome in enumerate(outcomes):
        try:
            check(outcome, now_ns, assigning)
        except Fault as fault:
            errors.append((row, fault))
        else:
            records.append(record(outcome, now_ns))
    return Rows(records, errors)


def check(outcome: pb.Outcome, now_ns: int, assigning: Assigning) -> None:
    """Raises Fault where the row is not an outcome."""
    _require(0 < len(outcome.id) <= MAX_ID, f"`id` has {len(outcome.id)} characters; it takes 1 to {MAX_ID}")
    _require(
        0 < outcome.event_time_ns <= now_ns + AHEAD_NS,
        f"`event_time_ns` is {outcome.event_time_ns}; it takes when the event happened, in nanoseconds since 1970, UTC",
    )
    if outcome.prediction_id:
        both = outcome.model or outcome.entities
        _require(not both, "`prediction_id` is set, and `model` or `entities` too; send one or the other")
        good = PREDICTION_ID.fullmatch(outcome.prediction_id)
        _require(bool(good), "`prediction_id` is none that a reply has named: those are 28 hexadecimal digits")
    else:
        _check_entities(outcome, assigning)
    _check_results(outcome)


def _check_entities(outcome: pb.Outcome, assigning: Assigning) -> None:
    named = NAME.fullmatch(outcome.model) and outcome.entities
    _require(bool(named), "the row says of no prediction; set `prediction_id`, or `model` and `entities`")
    _require(len(outcome.entities) <= MAX_ENTITIES, f"`entities` has {len(outcome.entities)}; {MAX_ENTITIES} at most")
    for entity, key in outcome.entities.items():
        size = len(key.encode())
        _require(bool(NAME.fullmatch(entity)), f"`entities`: {entity[:64]!r} is no name of an entity")
        _require(
            0 < size <= MAX_KEY_BYTES, f"`entities`: the key of {entity} has {size} bytes, not 1 to {MAX_KEY_BYTES}"
        )
    needed = assigning(outcome.model)
    if needed is not None and needed not in outcome.entities:
        raise Fault(
            Reason.ENTITY_MISMATCH,
            f"predictions of model {outcome.model} are found by the entity {needed}; add its key to `entities`",
        )


def _check_results(outcome: pb.Outcome) -> None:
    kind = outcome.WhichOneof("label")
    _require(kind is not None or bool(outcome.kpis), "the row has neither a label nor a KPI")
    _require(kind != "number" or isfinite(outcome.number), "`number` is NaN or infinite")
    size = len(outcome.text)
    _require(kind != "text" or 0 < size <= MAX_TEXT, f"`text` has {size} characters; it takes 1 to {MAX_TEXT}")
    _require(len(outcome.kpis) <= MAX_KPIS, f"`kpis` has {len(outcome.kpis)}; {MAX_KPIS} at most")
    for name, value in outcome.kpis.items():
        _require(bool(NAME.fullmatch(name)), f"`kpis`: {name[:64]!r} is no name: lower-case letters, digits and _")
        _require(isfinite(value), f"`kpis`: {name} is NaN or infinite")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise Fault(Reason.ARGUMENT_INVALID, message)


def record(outcome: pb.Outcome, recorded_ns: int) -> bytes:
    """The log's record of an outcome: what the caller sent, with hashes for entity keys."""
    hashes = {entity: entity_hash(key.encode()) for entity, key in outcome.entities.items()}
    kept = log_pb.OutcomeRecord(outcome=outcome, recorded_ns=recorded_ns, entity_hashes=hashes)
    kept.outcome.ClearField("entities")
    return kept.SerializeToString()


def entity_hash(key: bytes) -> int:
    """What stands for an entity key, in the journal as here."""
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little")


class Recorded(NamedTuple):
    """An outcome as the log has it."""

    outcome_id: str
    recorded_ns: int
    prediction_id: str | None
    model: str | None
    entity_hashes: Mapping[str, int]
    event_time_ns: int
    label_number: float | None
    label_text: str | None
    kpis: Mapping[str, float]


def recorded(raw: bytes) -> Recorded:
    """Reads a record of the log."""
    kept = log_pb.OutcomeRecord.FromString(raw)
    outcome, kind = kept.outcome, kept.outcome.WhichOneof("label")
    return Recorded(
        outcome_id=outcome.id,
        recorded_ns=kept.recorded_ns,
        prediction_id=outcome.prediction_id or None,
        model=outcome.model or None,
        entity_hashes=dict(kept.entity_hashes),
        event_time_ns=outcome.event_time_ns,
        label_number=outcome.number if kind == "number" else None,
        label_text=outcome.text if kind == "text" else None,
        kpis=dict(outcome.kpis),
    )
