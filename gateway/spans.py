"""From the journal to spans: one for each call that is traced, with a child for each stage of its run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from gateway.contract.tracing import NOBODY, Span, TraceContext, chosen, digest, parse
from gateway.journal import STAGES, Block
from gateway.totals import ARMS, RESULTS

PREVIOUS: Final = ("record", "reply")
"""Stages whose times a block has of the batch before its own."""
BEFORE_RECORD: Final = STAGES.index(PREVIOUS[0])


def spans_of(block: Block, share_bps: int) -> Iterator[Span]:
    """The spans of calls that bear a sampled trace context, and of a share of the rows that bear none."""
    bearing: set[int] = set()
    for start, stop, traceparent in json.loads(block.notes).get("traces", ()) if block.notes else ():
        bearing.update(range(start, stop))
        context = parse(traceparent)
        if context is not None and context.sampled:
            yield from _call(block, start, stop, context)
    for row in range(len(block.rows)) if share_bps else ():
        name = prediction_id(block, row)
        if row not in bearing and chosen(name, share_bps):
            yield from _call(block, row, row + 1, TraceContext(digest(name, 16), NOBODY, sampled=True))


def prediction_id(block: Block, row: int) -> str:
    """As the reply had it."""
    return f"{block.prefix}{block.first_row + row:012x}"


def _call(block: Block, start: int, stop: int, context: TraceContext) -> Iterator[Span]:
    """The call's span, whose times are those of the batch that answered it, and below it one for each stage."""
    name = prediction_id(block, start)
    own_id = digest(name, 8)
    begin_ns = block.time_ns - sum(block.stages_ns[:BEFORE_RECORD])
    times_ns = [begin_ns, *accumulate(block.stages_ns, initial=begin_ns)][1:]
    attributes, error = _attributes(block, start, stop)
    title = f"score {block.model}" if block.model else "refuse"
    yield Span(context.trace_id, own_id, context.span_id, title, True, times_ns[0], times_ns[-1], attributes, error)
    for stage, start_ns, end_ns in zip(STAGES, times_ns, times_ns[1:], strict=False):
        of_batch: dict[str, str | int | float | bool] = {"interlock.batch_rows": len(block.rows)}
        if stage in PREVIOUS:
            of_batch["interlock.of_previous_batch"] = True
        stage_id = digest(f"{name} {stage}", 8)
        yield Span(context.trace_id, stage_id, own_id, stage, False, start_ns, end_ns, of_batch)


def _attributes(block: Block, start: int, stop: int) -> tuple[dict[str, str | int | float | bool], str]:
    """What is known of the call, and the reason of its first row that failed."""
    rows = block.rows[start:stop]
    first = rows[0]
    attributes: dict[str, str | int | float | bool] = {
        "rpc.system.name": "grpc",
        "interlock.prediction_id": prediction_id(block, start),
        "interlock.rows": stop - start,
        "interlock.revision": block.revision,
    }
    if block.model:
        attributes |= {
            "interlock.model": block.model,
            "interlock.version": block.version,
            "interlock.arm": ARMS[min(int(first["arm"]), len(ARMS) - 1)],
            "interlock.feature_sequence": block.feature_sequence,
            "interlock.defaulted": int(rows["defaulted"].sum()),
        }
        if (age_ms := int(rows["feature_age_ms"].max())) >= 0:
            attributes["interlock.feature_age_ms"] = age_ms
    failed = rows["reason"][rows["reason"] > 0]
    error = str(RESULTS[min(int(failed[0]), len(RESULTS) - 1)]) if len(failed) else ""
    return attributes | ({"error.type": error} if error else {}), error
