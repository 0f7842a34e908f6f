"""`model init`: what is guessed of each exporter's graph, and what it says to files that are no ONNX model."""

from __future__ import annotations

import io
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from onnx import ModelProto, TensorProto
from skl2onnx import to_onnx
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from control.registry.document import read_model
from control.registry.init import draft
from gateway.contract.document import Task
from gateway.contract.errors import Fault
from tests.control.hostile_models import changed, good, model_of
from tests.exporters.kinds import FIXTURES

GUESSED: Final[dict[str, tuple[Task, int | None, tuple[str, ...]]]] = {
    "lightgbm": (Task.BINARY, 1, ()),
    "lightgbm_categories": (Task.BINARY, 1, ()),
    "lightgbm_ranker": (Task.REGRESSION, None, ()),
    "sklearn_columns": (Task.BINARY, 1, ()),
    "sklearn_float64": (Task.REGRESSION, None, ()),
    "sklearn_isolation_forest": (Task.ANOMALY, None, ()),
    "sklearn_mixed_columns": (Task.BINARY, 1, ()),
    "sklearn_multi_classifier": (Task.BINARY, 1, ()),
    "sklearn_multi_forest": (Task.REGRESSION, 0, ()),
    "sklearn_multi_output": (Task.REGRESSION, 0, ()),
    "sklearn_multi_regression": (Task.REGRESSION, 0, ()),
    "sklearn_text_labels": (Task.MULTICLASS, None, ("basic", "max", "plus")),
    "torch_flat": (Task.REGRESSION, None, ()),
    "torch_ranking": (Task.MULTICLASS, None, ("class_0", "class_1", "class_2")),
    "xgboost": (Task.BINARY, 1, ()),
}
"""The task, the output's column and its labels."""


def drafted(path: Path, model: bytes) -> str:
    """The draft of a model."""
    file = path / "model.onnx"
    file.write_bytes(model)
    return draft(file)


def completed(text: str) -> Any:
    """The draft as somebody fills it in."""
    return read_model(text.replace('purpose: ""', "purpose: A test.").replace('person: ""', "person: ana"))


@pytest.mark.parametrize("kind", GUESSED)
def test_each_exporters_default_is_guessed(kind: str) -> None:
    """Whatever it calls its outputs."""
    document = completed(draft(FIXTURES / f"{kind}.onnx"))
    assert (document.task, document.output.column, document.output.labels) == GUESSED[kind]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("lightgbm_ranker", "ranking, if its score is only there to sort by"),
        ("torch_ranking", "ranking, if its columns are offers to choose among"),
        ("sklearn_multi_output", "which of its 2 columns"),
        ("sklearn_multi_classifier", "which of its columns"),
        ("sklearn_mixed_columns", "Registration will change the graph: 1 of its nodes"),
    ],
)
def test_a_draft_says_what_it_cannot_know(kind: str, says: str) -> None:
    """Beside the line that it concerns."""
    assert says in draft(FIXTURES / f"{kind}.onnx")


def test_the_labels_are_those_of_the_scores(tmp_path: Path) -> None:
    """Not those of the classifiers that it is made of, which know of two each."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 3)).astype(np.float32)
    labels = np.array(["basic", "max", "plus"])[np.digitize(x[:, 0], [-0.5, 0.5])]
    model = OneVsRestClassifier(LogisticRegression()).fit(x, labels)
    document = completed(drafted(tmp_path, to_onnx(model, x[:1]).SerializeToString()))
    assert document.output.labels == ("basic", "max", "plus")


def test_a_forest_of_several_classifications_is_told_to_be_several_models(tmp_path: Path) -> None:
    """Its converter makes a list of cubes, in which no row has a place of its own."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 3)).astype(np.float32)
    model = RandomForestClassifier(3).fit(x, (x[:, :2] > 0).astype(int))
    with pytest.raises(Fault, match="a model for each target"):
        drafted(tmp_path, to_onnx(model, x[:1]).SerializeToString())


def archive(name: str) -> bytes:
    """A zip archive with one file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as entries:
        entries.writestr(name, b"\0" * 100)
    return file.getvalue()


MODEL: Final = LogisticRegression().fit([[0.0], [1.0]], [0, 1])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        *((pickle.dumps(MODEL, protocol), r"a pickle.*skl2onnx\.to_onnx\(model, X\[:1\]\)") for protocol in range(6)),
        (b"\x80\x04\x95clightgbm.sklearn\nLGBMClassifier", r"a pickle.*onnxmltools\.convert_lightgbm"),
        (b"\x80\x04\x95cxgboost.sklearn\nXGBClassifier", r"a pickle.*onnxmltools\.convert_xgboost"),
        (zlib.compress(pickle.dumps(MODEL)), "as joblib compresses its pickles; export the model"),
        (archive("net/data.pkl"), r"a zip archive.*torch\.onnx\.export\(.*external_data=False\)"),
        (archive("weights.npz"), "a zip archive.*export the model with skl2onnx"),
        (b"tree\nversion=v4\nnum_class=1\n", r"a LightGBM model as text.*onnxmltools\.convert_lightgbm"),
        (b'{"learner":{"attributes":{}}}', r"an XGBoost model as JSON.*onnxmltools\.convert_xgboost"),
        (b"{L\0\0\0\0\0\0\0\x07learner{L", r"an XGBoost model as UBJSON.*onnxmltools\.convert_xgboost"),
        (b"CBM1\x08\0\0\0", r'a CatBoost model.*format="onnx"'),
    ],
)
def test_each_librarys_own_file_is_told_how_it_becomes_a_model(tmp_path: Path, data: bytes, says: str) -> None:
    """By the library that it names."""
    with pytest.raises(Fault, match=f"(?s){says}") as caught:
        drafted(tmp_path, data)
    assert caught.value.facts["check"] == "format"


def test_an_input_of_a_type_that_no_column_has_is_named(tmp_path: Path) -> None:
    """With the types that there are."""

    def halve(model: ModelProto) -> None:
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16

    with pytest.raises(Fault, match=r"'X' is a tensor of float16.*float32, float64"):
        drafted(tmp_path, changed(halve))


def test_a_name_in_the_graph_adds_no_line_to_the_draft(tmp_path: Path) -> None:
    """It is refused, as registration would."""
    node_output = model_of(outputs=("score\nname: other",))
    with pytest.raises(Fault, match="do not print"):
        drafted(tmp_path, node_output.SerializeToString())


def test_a_column_of_categories_is_marked(tmp_path: Path) -> None:
    """LightGBM's categorical features are codes in the graph; which column that is cannot be seen from its name."""
    lines = draft(FIXTURES / "lightgbm_categories.onnx").splitlines()
    marked = [line.partition("type")[0].strip() for line in lines if "category's code" in line]
    assert marked == ["- {request: input_1,"]
    assert "category" not in drafted(tmp_path, good())
