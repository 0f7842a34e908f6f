"""What a notebook's calls are made of: samples in every form, profiles, documents, tables and comparisons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import yaml

from control.notebook.comparison import differences, side_by_side
from control.notebook.drafting import document_text
from control.notebook.golden import expected_scores, spread
from control.notebook.sample import cells, is_missing, match, read_sample
from control.notebook.scoring import requests
from control.notebook.table import Table
from control.registry.profile import make_profile
from gateway.contract.document import ModelDocument
from tests.control.planes import document_of

FRAME = pd.DataFrame(
    {"Amount": [1.5, None, 3.0], "Plan": ["a", "b", None], "Calls": [1, 2, 3], "Roams": [True, False, True]}
)
FIXTURES = Path(__file__).parents[1] / "exporters" / "fixtures"


def document(**changes: Any) -> ModelDocument:
    """A model of one input of each type."""
    kinds = {"amount": "float32", "plan": "string", "calls": "int64", "roams": "bool"}
    inputs = [{"request": name, "type": kind, "feeds": name} for name, kind in kinds.items()]
    return ModelDocument.model_validate({**json.loads(document_of("m").canonical()), "inputs": inputs, **changes})


def labelled() -> ModelDocument:
    """A model of three classes."""
    return document(task="multiclass", output={"score": "p", "labels": ["a", "b", "c"]}, decision={"kind": "argmax"})


@pytest.mark.parametrize(
    "given",
    [
        FRAME,
        {name: FRAME[name] for name in FRAME},
        {name: list(FRAME[name]) for name in FRAME},
        FRAME.to_dict("records"),
        FRAME.convert_dtypes(),
    ],
    ids=["frame", "series", "lists", "records", "nullable types"],
)
def test_a_sample_is_read_in_the_form_that_it_is_in(given: Any) -> None:
    """Names are matched as a document spells them, and what is missing is an empty cell."""
    assert cells(document(), read_sample(given), {}) == [
        {"amount": "1.5", "plan": "a", "calls": "1", "roams": "true"},
        {"amount": "", "plan": "b", "calls": "2", "roams": "false"},
        {"amount": "3.0", "plan": "", "calls": "3", "roams": "true"},
    ]


def test_rows_without_names_are_taken_in_order() -> None:
    """As many as the model takes, and no others."""
    two = document(inputs=[{"request": name, "type": "float32", "feeds": "x"} for name in ("a", "b")])
    assert match(two, read_sample([[1, 2], [3, 4]])) == ["1", "2"]
    assert cells(two, read_sample(np.array([[1, 2]], np.float32)), {}) == [{"a": "1.0", "b": "2.0"}]
    with pytest.raises(ValueError, match="3 columns without names, and m takes 2: a, b"):
        match(two, read_sample([[1, 2, 3]]))


def test_other_names_are_refused_with_a_way_out() -> None:
    """A frame in another order would give scores that look right."""
    two = document(inputs=[{"request": name, "type": "float32", "feeds": "x"} for name in ("a", "b")])
    with pytest.raises(ValueError, match=r"no column for a, b of m; it has c, d; to give them by their order"):
        match(two, read_sample({"c": [1], "d": [2]}))


@pytest.mark.parametrize("given", [[1, 2, 3], "text", 7])
def test_what_is_no_sample_is_told_what_one_is(given: Any) -> None:
    """With the forms that are taken."""
    with pytest.raises(TypeError, match="a sample is a DataFrame"):
        read_sample(given)


def test_columns_of_several_lengths_are_no_sample() -> None:
    """Nor is one without rows."""
    with pytest.raises(ValueError, match=r"\[1, 2\] values"):
        read_sample({"a": [1], "b": [1, 2]})
    with pytest.raises(ValueError, match="no rows"):
        read_sample(FRAME[:0])


def test_a_value_of_another_type_names_its_column() -> None:
    """Instead of a refusal that counts cells."""
    with pytest.raises(ValueError, match=r"column calls has 1\.5, which is no int64"):
        cells(document(), read_sample({**FRAME.iloc[0].to_dict(), "Calls": 1.5}), {})


@pytest.mark.parametrize("value", [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT])
def test_every_way_to_write_nothing_is_nothing(value: Any) -> None:
    """Of Python, numpy and pandas."""
    assert is_missing(value)
    assert not is_missing(0)
    assert not is_missing("")


def test_a_document_takes_the_names_of_the_sample_in_its_order() -> None:
    """Where the graph has one tensor of as many columns; missing values make it take NaN."""
    sample = read_sample({"Age": [1.0, None], "Net Income": [1, 2], "debt": [1, 2], "Seniority": [1, 2]})
    given = {"purpose": "x", "owner": {"person": "ann"}, "tier": "low"}
    drafted = yaml.safe_load(document_text(FIXTURES / "lightgbm.onnx", sample, "credit", given))
    assert [item["request"] for item in drafted["inputs"]] == ["age", "net_income", "debt", "seniority"]
    assert (drafted["name"], drafted["tier"], drafted["nan"]) == ("credit", "low", "allow")
    plain = yaml.safe_load(document_text(FIXTURES / "lightgbm.onnx", read_sample([[1, 2, 3, 4]]), "", given))
    assert [item["request"] for item in plain["inputs"]] == [f"input_{place}" for place in range(1, 5)]
    assert (plain["name"], plain["nan"]) == ("lightgbm", "reject")


def test_a_profile_has_shares_and_deciles_and_no_row() -> None:
    """A text that few rows have is counted, and not named."""
    plans: list[str | None] = ["basic"] * 60 + ["plus"] * 38 + ["somebody's own"] + [None]
    profile = json.loads(make_profile({"plan": plans, "minutes": list(range(100))}, {"score": np.linspace(0, 1, 100)}))
    assert profile["features"]["plan"] == {
        "missing_bps": 100,
        "distinct": 3,
        "shares_bps": {"basic": 6061, "plus": 3838},
    }
    assert profile["features"]["minutes"]["deciles"] == pytest.approx([9.9 * place for place in range(11)])
    assert len(profile["scores"]["score"]["deciles"]) == 11
    assert profile["rows"] == 100


def test_results_are_taken_as_models_give_them() -> None:
    """A list, or a matrix with a column per class, of which the document names one."""
    one = document(output={"score": "p", "column": 1})
    assert expected_scores(one, [0.1, 0.2], 2).tolist() == [[0.1], [0.2]]
    assert expected_scores(one, [[0.9, 0.1], [0.8, 0.2]], 2).tolist() == [[0.1], [0.2]]
    assert expected_scores(labelled(), [[0.1, 0.2, 0.7]], 1).tolist() == [[0.1, 0.2, 0.7]]
    with pytest.raises(ValueError, match="has 3 labels"):
        expected_scores(labelled(), [[0.1, 0.9]], 1)
    with pytest.raises(ValueError, match="predict_proba"):
        expected_scores(document(), [[0.9, 0.1]], 1)


def test_golden_rows_are_spread_over_the_sample() -> None:
    """From the first to the last, each once."""
    assert spread(3, 200) == [0, 1, 2]
    assert (spread(1000, 200)[0], spread(1000, 200)[-1], len(spread(1000, 200))) == (0, 999, 200)


def test_rows_become_calls_of_256() -> None:
    """In lists of the declared types; what is missing takes its default, or is said to be missing."""
    sample = read_sample({"amount": [1] * 300, "plan": ["a"] * 300, "calls": [2] * 300, "roams": [True] * 300})
    first, second = requests(document(), 0, sample)
    lists = [
        (column.name, len(column.numbers or column.integers or column.texts or column.flags)) for column in first.inputs
    ]
    assert lists == [("amount", 256), ("plan", 256), ("calls", 256), ("roams", 256)]
    assert len(second.inputs[0].numbers) == 44
    with pytest.raises(ValueError, match="row 3 has no plan, and its document declares no default"):
        list(requests(document(), 0, read_sample(FRAME)))


def test_differences_name_what_differs_and_nothing_else() -> None:
    """Metrics with their difference; inputs, tensors and lineage by their names."""
    one = {
        "document": {"tier": "low", "inputs": [{"request": "a", "type": "float32", "feeds": "x", "default": None}]},
        "metrics": {"auc": 0.8, "n": 5},
        "signature": {"inputs": [{"name": "x", "type": "tensor(float)", "shape": [None, 1]}], "outputs": []},
        "lineage": [{"name": "training_data", "sha256": "a" * 64}],
    }
    other = {**one, "metrics": {"auc": 0.9, "n": 5}, "lineage": [{"name": "training_data", "sha256": "b" * 64}]}
    other["document"] = {**one["document"], "inputs": [{"request": "b", "type": "int64", "feeds": "x"}]}  # type: ignore[dict-item]  # a manifest is JSON
    found = {row["what"]: row for row in differences("m/1", "m/2", one, other)}
    assert list(found) == ["metrics.auc", "input a", "lineage training_data", "input b"]
    assert found["metrics.auc"]["difference"] == pytest.approx(0.1)
    assert found["input b"]["m/1"] == ""


def test_versions_are_compared_row_by_row() -> None:
    """Scores by correlation and difference, decisions by who flipped; what differs most comes first."""
    decided = document(decision={"kind": "threshold", "threshold": 0.5, "hit": "call", "otherwise": "leave"})
    found = side_by_side(("m/1", "m/2"), (decided, decided), ([[0.1], [0.4], [0.9]], [[0.2], [0.6], [0.9]]))
    assert (found.flips, found.decided) == ([1], True)
    assert (found.mean_difference, found.max_difference) == (pytest.approx(0.1), pytest.approx(0.2))
    assert found.correlation == pytest.approx(np.corrcoef([0.1, 0.4, 0.9], [0.2, 0.6, 0.9])[0, 1])
    assert [row["row"] for row in found.table] == [2, 1, 3]
    assert "1 decided differently" in repr(found)
    constant = side_by_side(("m/1", "m/2"), (labelled(), labelled()), ([[1, 0, 0]], [[0, 1, 0]]))
    assert constant.flips == [0]


def test_a_table_reads_well_and_gives_a_frame() -> None:
    """As text, as HTML without the values' own markup, row by row, and in pandas."""
    table = Table(("name", "score"), [("<b>", 0.123456789), ("x", None)], "Two rows")
    assert repr(table) == "Two rows\nname  score\n<b>   0.123457\nx"
    assert "&lt;b&gt;" in table._repr_html_()
    assert (table[1]["name"], len(table), list(table.frame().columns)) == ("x", 2, ["name", "score"])
    assert "(5 more rows)" in repr(Table(("n",), [(n,) for n in range(25)]))


def test_example_rows_come_from_what_the_graph_knows(tmp_path: Path) -> None:
    """Trees say what they split at; an encoder says which texts it knows."""
    from control.registry.example import example_rows

    trees = onnx.load(str(FIXTURES / "lightgbm.onnx"))
    inputs = [{"request": f"f{place}", "type": "float32", "feeds": "input"} for place in range(4)]
    rows = example_rows(trees, document(inputs=inputs))
    assert len({row["f0"] for row in rows}) > 1
    nodes = [
        onnx.helper.make_node("OneHotEncoder", ["plan"], ["y"], domain="ai.onnx.ml", cats_strings=["basic", "max"])
    ]
    plan = onnx.helper.make_tensor_value_info("plan", onnx.TensorProto.STRING, [None, 1])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None, 1, 2])
    encoder = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [plan], [out]))
    rows = example_rows(encoder, document(inputs=[{"request": "plan", "type": "string", "feeds": "plan"}]))
    assert [row["plan"] for row in rows] == ["basic", "max"]
    columns = onnx.load(str(FIXTURES / "sklearn_columns.onnx"))
    kinds = {"tariff": "string", "calls": "int64", "spend": "float32"}
    inputs = [{"request": name, "type": kind, "feeds": name} for name, kind in kinds.items()]
    assert [row["tariff"] for row in example_rows(columns, document(inputs=inputs))][:3] == ["basic", "max", "plus"]
