"""The messages of gateway.v1.ScoringService: parsed into columns, and columns made into replies."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from google.protobuf.message import DecodeError

from gateway.contract.errors import Fault, Reason
from gateway.contract.schema import Dtype
from gateway.request import Answers, Mark, Request, Slice
from gateway.transport import Call, Reply
from gateway.v1 import scoring_pb2 as pb
from gateway.wire import Method
from gateway.wire.status import refuse

DOUBLE: Final = struct.Struct("<d")
LAST_DIGITS: Final = tuple(f"{number:03x}" for number in range(4096))
ENTITY_UNKNOWN: Final = pb.FLAG_ENTITY_UNKNOWN
FEATURES_STALE: Final = pb.FLAG_FEATURES_STALE
MARKS: Final[Mapping[int, Any]] = MappingProxyType(
    {
        Mark.UNAPPROVED: pb.FLAG_UNAPPROVED,
        Mark.STEPPED_BACK: pb.FLAG_STEPPED_BACK,
        Mark.FALLBACK: pb.FLAG_FALLBACK,
    }
)
"""The flag that says each mark."""
KINDS: Final[Mapping[str, Dtype]] = MappingProxyType(
    {"number": Dtype.FLOAT32, "integer": Dtype.INT64, "text": Dtype.STRING, "flag": Dtype.BOOL}
)
"""The type that each kind of a Value stands for."""


def decode_score(call: Call) -> Request:
    """Reads a ScoreRequest; raises Fault where it is none."""
    return _row(_parse(pb.ScoreRequest, call), call.deadline_ns)


def decode_stream(call: Call) -> Request:
    """Reads a ScoreStreamRequest; raises Fault where it is none."""
    message = _parse(pb.ScoreStreamRequest, call)
    return _row(message.row, call.deadline_ns)._replace(id=message.id)


def decode_batch(call: Call) -> Request:
    """Reads a ScoreBatchRequest; raises Fault where it is none."""
    message = _parse(pb.ScoreBatchRequest, call)
    entities = {column.entity: column.keys for column in message.entities}
    inputs = {column.name: _typed(column) for column in message.inputs}
    if len(entities) < len(message.entities):
        raise Fault(Reason.ENTITY_MISMATCH, "an entity has two columns; send one per entity")
    if len(inputs) < len(message.inputs):
        raise Fault(Reason.INPUT_MISMATCH, "an input has two columns; send one per input")
    return Request(message.model, _version(message), call.deadline_ns, entities, inputs)


def encode_score(part: Slice) -> bytes:
    """Writes a ScoreResponse for a row that has a score.

    What every reply has is put together from bytes, a quarter of the cost of a message object; what few have is
    appended as a message of its own, since messages merge when they are concatenated.
    """
    answers, row = part.answers, part.start
    encoded = (
        _score_head(answers.model, answers.version, answers.revision, answers.arm, answers.marks)
        + b"\x22\x1c%s%012x\x31" % (answers.raw_prefix, answers.first_row + row)
        + DOUBLE.pack(answers.scores[row])
    )
    if answers.decisions:
        encoded += _score_decision(answers.decisions[row])
    if answers.ages_ms is not None and answers.ages_ms[row] >= 0:
        encoded += b"\x50" + varint(answers.ages_ms[row])
    if answers.rankings is not None or answers.defaulted is not None or answers.unknown is not None:
        encoded += pb.ScoreResponse(
            ranking=_labelled(answers.rankings[row]) if answers.rankings else None,
            defaulted=answers.defaulted[row] if answers.defaulted else 0,
            flags=_flags(answers, row),
        ).SerializeToString()
    return encoded


@lru_cache(maxsize=1024)
def _score_head(model: str, version: int, revision: int, arm: int, marks: int) -> bytes:
    head = pb.ScoreResponse(model=model, version=version, revision=revision, arm=arm, flags=_marks(marks))  # type: ignore[arg-type]  # same numbers, other enum
    return head.SerializeToString()


@lru_cache(maxsize=1024)
def _score_decision(decision: str) -> bytes:
    return pb.ScoreResponse(decision=decision).SerializeToString()


def varint(value: int) -> bytes:
    """A number that is not negative, as protobuf writes it."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def encode_batch(part: Slice) -> bytes:
    """Writes a ScoreBatchResponse."""
    _, answers, start, stop = part
    n, rows = stop - start, range(start, stop)
    failed = {row - start: answers.errors[row] for row in rows if row in answers.errors} if answers.errors else {}
    mixed = answers.mixed
    versions = mixed.versions if mixed else [answers.version] * n
    response = pb.ScoreBatchResponse(
        model=answers.model,
        revision=answers.revision,
        versions=[0 if row in failed else version for row, version in enumerate(versions)] if failed else versions,
        arms=mixed.arms if mixed else [answers.arm] * n,  # type: ignore[arg-type, list-item]  # same numbers, other enum
        prediction_ids=mixed.prediction_ids if mixed else _prediction_ids(answers, start, n),
        scores=answers.scores[start:stop],
        decisions=answers.decisions[start:stop] if answers.decisions else None,
        errors=[
            pb.RowError(row=row, code=fault.code, reason=fault.reason, message=fault.message)
            for row, fault in sorted(failed.items())
        ],
    )
    if answers.rankings is not None:
        response.rankings.extend(pb.Ranking(ranking=_labelled(answers.rankings[row])) for row in rows)
    if answers.ages_ms is not None:
        response.feature_ages_ms.extend(answers.ages_ms[start:stop])
        response.defaulted.extend(answers.defaulted[start:stop] if answers.defaulted else [0] * n)
    if answers.unknown is not None or answers.stale is not None or answers.marks:
        marks = _marks(answers.marks)
        for row in rows:
            if flags := [*_flags(answers, row), *marks]:
                response.flags.append(pb.RowFlags(row=row - start, flags=flags))
    return response.SerializeToString()


def _prediction_ids(answers: Answers, start: int, n: int) -> list[str]:
    """The ids of n rows: their last digits come from a table, since formatting each would cost more than its score."""
    ids: list[str] = []
    while len(ids) < n:
        high, low = divmod(answers.first_row + start + len(ids), len(LAST_DIGITS))
        head = f"{answers.raw_prefix.decode()}{high:09x}"
        ids += [head + digits for digits in LAST_DIGITS[low : low + n - len(ids)]]
    return ids


def encode_stream(part: Slice) -> bytes:
    """Writes a ScoreStreamResponse for a row that has a score."""
    score = encode_score(part)
    return pb.ScoreStreamResponse(id=part.request.id).SerializeToString() + b"\x12" + varint(len(score)) + score


def refuse_stream(request: Request | None, fault: Fault) -> Reply:
    """The message that says why a row of a stream has no score."""
    error = pb.RowError(code=fault.code, reason=fault.reason, message=fault.message)
    return Reply(pb.ScoreStreamResponse(id=request.id if request else "", error=error).SerializeToString())


METHODS: Final[Mapping[str, Method]] = MappingProxyType(
    {
        "/gateway.v1.ScoringService/Score": Method(decode_score, encode_score, refuse, whole=True),
        "/gateway.v1.ScoringService/ScoreBatch": Method(decode_batch, encode_batch, refuse, whole=False),
        "/gateway.v1.ScoringService/ScoreStream": Method(
            decode_stream, encode_stream, refuse_stream, whole=True, streams=True
        ),
    }
)


def _row(message: pb.ScoreRequest, deadline_ns: int) -> Request:
    inputs: dict[str, tuple[Dtype, Sequence[Any]]] = {}
    for name, value in message.inputs.items():
        kind = value.WhichOneof("kind")
        if kind is None:
            raise Fault(Reason.INPUT_MISMATCH, f"input {name!r} has no value; leave it out to get its default")
        inputs[name] = KINDS[kind], (getattr(value, kind),)
    entities = {name: (key,) for name, key in message.entities.items()}
    return Request(message.model, _version(message), deadline_ns, entities, inputs, single=True)


def _version(message: pb.ScoreRequest | pb.ScoreBatchRequest) -> str:
    return str(message.version) if message.version else ""


def _parse(kind: Any, call: Call) -> Any:
    try:
        return kind.FromString(call.request)
    except DecodeError:
        raise Fault(
            Reason.MALFORMED_REQUEST,
            f"the {len(call.request)} bytes are no {kind.DESCRIPTOR.full_name}; compile the protos of this release",
        ) from None


def _typed(column: pb.InputColumn) -> tuple[Dtype, Sequence[Any]]:
    lists = (
        (Dtype.FLOAT32, column.numbers),
        (Dtype.INT64, column.integers),
        (Dtype.STRING, column.texts),
        (Dtype.BOOL, column.flags),
    )
    given = [(dtype, values) for dtype, values in lists if values]
    if len(given) != 1:
        raise Fault(
            Reason.INPUT_MISMATCH,
            f"input {column.name!r} has values in {len(given)} lists; fill exactly the one that fits its type",
        )
    return given[0]


def _labelled(ranking: Sequence[tuple[str, float]]) -> list[pb.LabelledScore]:
    return [pb.LabelledScore(label=label, score=score) for label, score in ranking]


def _marks(marks: int) -> list[Any]:
    return [flag for mark, flag in MARKS.items() if mark & marks]


def _flags(answers: Answers, row: int) -> list[Any]:
    flags: list[Any] = []
    if answers.unknown is not None and answers.unknown[row]:
        flags.append(ENTITY_UNKNOWN)
    if answers.stale is not None and answers.stale[row]:
        flags.append(FEATURES_STALE)
    return flags
