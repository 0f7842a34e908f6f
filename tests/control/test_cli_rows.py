"""How CSV files become feature rows and batches to score."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.cli.feature_rows import MAX_ROWS, Layout, feature_chunks, parse_time
from control.cli.score_rows import BATCH_ROWS, Columns, batch_answers, batch_requests, guess, read_rows, row_request
from control.v1 import features_pb2
from gateway.contract.errors import Fault
from gateway.contract.schema import Dtype, FeatureView
from gateway.v1 import scoring_pb2

VIEW = FeatureView.model_validate(
    {
        "name": "usage",
        "entity": "subscriber",
        "timezone": "Africa/Nairobi",
        "features": [
            {"name": "minutes", "type": "float32"},
            {"name": "calls", "type": "int64", "default": 0},
            {"name": "plan", "type": "string", "default": ""},
            {"name": "roaming", "type": "bool", "default": False},
        ],
    }
)
HEADER = "subscriber,event_time,minutes,calls,plan,roaming"
LAYOUT = Layout("subscriber", "event_time")


def chunks(*lines: str, layout: Layout = LAYOUT) -> list[features_pb2.FeatureRows]:
    return list(feature_chunks([f"{line}\n" for line in lines], VIEW, layout, "rows.csv"))


def problem(*lines: str, layout: Layout = LAYOUT) -> str:
    with pytest.raises(Fault) as caught:
        chunks(*lines, layout=layout)
    return caught.value.message


def test_cells_are_read_in_the_types_of_the_view() -> None:
    """Each feature fills the one list of its type; whole numbers may be written as pandas writes them."""
    (chunk,) = chunks(HEADER, "S1,2026-01-31T12:00:00Z,1.5,3,gold,TRUE", "S2,2026-01-31T12:00:01Z,2,4.0,,0")
    minutes, calls, plan, roaming = chunk.columns
    assert list(chunk.keys) == ["S1", "S2"]
    assert (list(minutes.numbers), list(calls.integers)) == ([1.5, 2.0], [3, 4])
    assert (list(plan.texts), list(plan.nulls), list(roaming.flags)) == (["gold", ""], [1], [True, False])
    assert chunk.event_times_ns[1] - chunk.event_times_ns[0] == 1_000_000_000


def test_columns_are_found_by_name_and_others_are_passed_over() -> None:
    """The order of columns is free, and a file may hold more than the view takes."""
    (chunk,) = chunks("note,roaming,plan,calls,minutes,when,id", "x,1,a,1,1,2026-01-01,S1", layout=Layout("id", "when"))
    assert [column.name for column in chunk.columns] == ["minutes", "calls", "plan", "roaming"]


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ("S1,2026-01-01,x,1,a,1", "rows.csv, line 2: column minutes: 'x' is not a number (float32 wanted)"),
        ("S1,2026-01-01,nan,1,a,1", "column minutes: 'nan' is not finite; leave the cell empty"),
        ("S1,2026-01-01,1e39,1,a,1", "column minutes: '1e39' is too large for float32"),
        ("S1,2026-01-01,1,1.5,a,1", "column calls: '1.5' is not a whole number (int64 wanted)"),
        ("S1,2026-01-01,1,9223372036854775808,a,1", "column calls: '9223372036854775808' is too large for int64"),
        ("S1,2026-01-01,1,1,a,yes", "column roaming: 'yes' is not a bool: write true or false"),
        (",2026-01-01,1,1,a,1", "column subscriber: the entity key is empty"),
        ("S1,yesterday,1,1,a,1", "column event_time: 'yesterday' is neither an ISO 8601 time"),
        ("S1,1769860800,1,1,a,1", "column event_time: '1769860800' is too small for UTC nanoseconds"),
        ("S1,2026-01-01,1,1,a", "line 2: has 5 cells, the header has 6"),
        ('S1,2026-01-01,1,1,"a"b,1', "line 2: is no CSV"),
    ],
)
def test_a_bad_cell_is_named_by_line_and_column(cells: str, said: str) -> None:
    """Whoever reads the message can go to the cell."""
    assert said in problem(HEADER, cells)


def test_the_line_named_is_that_of_the_file() -> None:
    """Blank lines and quoted line ends count as an editor counts them."""
    good = 'S1,2026-01-01,1,1,"two\nlines",1'
    text = f"{HEADER}\n\n{good}\nS2,2026-01-01,oops,1,a,1\n"
    with pytest.raises(Fault, match=r"line 5: column minutes"):
        list(feature_chunks(text.splitlines(keepends=True), VIEW, LAYOUT, "rows.csv"))


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("", "rows.csv is empty: its first line must name the columns"),
        ("id,event_time,minutes,calls,plan,roaming", "no column subscriber for the entity keys; name it with --key"),
        ("subscriber,minutes,calls,plan,roaming", "no column event_time for the event times; name it with --time"),
        ("subscriber,event_time,calls,plan", "no column minutes, roaming, which the view usage has"),
        ("subscriber,event_time,minutes,minutes,calls,plan,roaming", "column minutes is there twice"),
    ],
)
def test_a_wrong_header_says_which_option_mends_it(header: str, said: str) -> None:
    """The message lists what the file has instead."""
    assert said in problem(*([header] if header else []))


def test_a_time_without_zone_is_of_the_views_zone() -> None:
    """A day means what the definition says it means."""
    zone = dt.timezone(dt.timedelta(hours=3))
    assert parse_time("2026-01-31", zone) == parse_time("2026-01-30T21:00:00Z", dt.UTC)
    assert parse_time("1769860800123456789", zone) == 1769860800123456789


@given(st.datetimes(min_value=dt.datetime(1990, 1, 1), max_value=dt.datetime(2100, 1, 1)))  # noqa: DTZ001 - given UTC below
def test_a_time_is_kept_to_the_microsecond(moment: dt.datetime) -> None:
    """No float stands between the text and the nanoseconds."""
    exact = parse_time(moment.isoformat(timespec="microseconds") + "+00:00", dt.UTC)
    assert exact % 1_000_000_000 == moment.microsecond * 1000


def test_one_time_for_all_rows_needs_no_column() -> None:
    """A snapshot has one time."""
    (chunk,) = chunks("subscriber,minutes,calls,plan,roaming", "S1,1,1,a,1", layout=Layout("subscriber", None, 7))
    assert list(chunk.event_times_ns) == [7]


def test_chunks_have_at_most_ten_thousand_rows_and_few_bytes() -> None:
    """A chunk is one message, which the server takes whole."""

    def lines(n: int, plan: str) -> Iterator[str]:
        yield HEADER
        for index in range(n):
            yield f"S{index},2026-01-01,1,1,{plan},1"

    assert [len(chunk.keys) for chunk in feature_chunks(lines(MAX_ROWS + 1, "a"), VIEW, LAYOUT, "f")] == [MAX_ROWS, 1]
    wide = list(feature_chunks(lines(50, "a" * 100_000), VIEW, LAYOUT, "f"))
    assert max(chunk.ByteSize() for chunk in wide) < 5 << 20
    assert sum(len(chunk.keys) for chunk in wide) == 50


@pytest.mark.parametrize(
    ("cells", "dtype"),
    [
        (["3", "-4"], Dtype.INT64),
        (["3", "4.5"], Dtype.FLOAT32),
        (["3.0"], Dtype.FLOAT32),
        (["1e3"], Dtype.FLOAT32),
        (["true", "False"], Dtype.BOOL),
        (["3", "true"], Dtype.STRING),
        (["gold"], Dtype.STRING),
        ([""], Dtype.STRING),
    ],
)
def test_the_type_of_an_input_is_read_off_how_it_is_written(cells: list[str], dtype: Dtype) -> None:
    """3 is a whole number and 3.0 is not; who means otherwise says --type."""
    assert guess(cells) is dtype


def test_a_row_request_has_each_value_in_the_field_of_its_type() -> None:
    """--type is over what the writing shows."""
    inputs = {"amount": "3", "n": "4", "plan": "7", "flag": "true"}
    request = row_request("m", 2, {"subscriber": "S1"}, inputs, {"amount": Dtype.FLOAT32, "plan": Dtype.STRING})
    assert (request.inputs["amount"].number, request.inputs["n"].integer) == (3.0, 4)
    assert (request.inputs["plan"].text, request.inputs["flag"].flag) == ("7", True)
    assert (request.version, dict(request.entities)) == (2, {"subscriber": "S1"})


def test_a_file_becomes_batches_that_a_gateway_takes() -> None:
    """Inputs are typed by all of their cells, so that no batch differs from the others; other columns stay behind."""
    lines = ["subscriber,amount,note", *(f"S{i},{i if i else 0.5},x" for i in range(BATCH_ROWS + 3))]
    requests = list(batch_requests("m", 0, read_rows(lines, "f.csv"), Columns(["subscriber"], ["amount"]), {}))
    assert [len(request.entities[0].keys) for request in requests] == [BATCH_ROWS, 3]
    assert [len(request.inputs[0].numbers) for request in requests] == [BATCH_ROWS, 3]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["subscriber"], "f.csv has no rows"),
        ([], "f.csv has no rows"),
        (["subscriber,a", "S1"], "f.csv, row 2: has 1 cells, the header has 2"),
        (["key", "S1"], "--entity subscriber: the file has no such column; it has key"),
    ],
)
def test_a_file_that_cannot_be_scored_says_why(lines: list[str], said: str) -> None:
    """Before anything is sent."""
    with pytest.raises(Fault) as caught:
        list(batch_requests("m", 0, read_rows(lines, "f.csv"), Columns(["subscriber"], []), {}))
    assert said in caught.value.message


def test_the_answers_of_a_batch_are_rows_with_a_score_or_an_error() -> None:
    """The reply is columnar; people and programs read rows."""
    response = scoring_pb2.ScoreBatchResponse(
        versions=[3, 0],
        scores=[0.25, math.nan],
        prediction_ids=["a", "b"],
        decisions=["stay", ""],
        defaulted=[1, 0],
        feature_ages_ms=[5, -1],
        flags=[scoring_pb2.RowFlags(row=0, flags=[scoring_pb2.FLAG_FEATURES_STALE])],
        errors=[scoring_pb2.RowError(row=1, code=9, reason="FEATURE_MISSING", message="no minutes")],
    )
    scored, failed = batch_answers(response)
    assert (scored["score"], scored["version"], scored["decision"], scored["flags"]) == (
        0.25,
        3,
        "stay",
        ["features_stale"],
    )
    assert failed == {"reason": "FEATURE_MISSING", "message": "no minutes"}
