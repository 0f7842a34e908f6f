"""What is trained, exported and written down is what the registry and the gateway will compute."""

from __future__ import annotations

import csv
import io
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import sklearn

from control.training.classifier import Hyperparameters, evaluate, fit, probability
from control.training.data import Split, column_dtype, representable, split
from control.training.export import SCORE_OUTPUT, export_onnx, golden_rows
from control.training.lineage import code_commit, environment_lock
from gateway.contract.schema import Dtype

GRAPH_DTYPES: Mapping[Dtype, type] = {
    Dtype.FLOAT32: np.float32,
    Dtype.INT64: np.int64,
    Dtype.STRING: np.object_,
    Dtype.BOOL: np.bool_,
}


class Trained(NamedTuple):
    """A small model on made-up rows, with its table."""

    parts: Split
    pipeline: Any
    onnx: bytes


def table(rows: int = 2000) -> pd.DataFrame:
    """Rows whose numbers have decimals that float32 cannot hold, and texts, integers and truths beside them."""
    random = np.random.default_rng(5)
    minutes = np.round(random.normal(180, 50, rows), 1)
    calls = random.integers(0, 9, rows)
    plan = random.choice(["basic", "plus", "extra"], rows)
    return pd.DataFrame(
        {
            "plan": plan,
            "minutes": minutes,
            "calls": calls,
            "roaming": random.random(rows) < 0.3,
            "churn": ((minutes > 220) & (calls > 3)) | (random.random(rows) < 0.05),
        }
    )


@pytest.fixture(scope="module")
def trained() -> Trained:
    """One model for the whole module: training takes a second."""
    frame = representable(table())
    parts = split(frame, "churn", held_out_rows=400, seed=3)
    features = ["plan", "minutes", "calls", "roaming"]
    pipeline = fit(parts.train, features, parts.train["churn"], Hyperparameters(trees=40))
    return Trained(parts, pipeline, export_onnx(pipeline, parts.train))


def run(model: bytes, frame: pd.DataFrame) -> np.ndarray[Any, Any]:
    """Scores the rows as a gateway does: one tensor per graph input, of the type that the column has there."""
    session = onnxruntime.InferenceSession(model)
    feeds = {
        item.name: frame[[item.name]].to_numpy().astype(GRAPH_DTYPES[column_dtype(frame, item.name)])
        for item in session.get_inputs()
    }
    return np.asarray(session.run([SCORE_OUTPUT], feeds)[0])[:, 1]


def test_the_graph_scores_unseen_rows_as_scikit_learn_does_in_float64(trained: Trained) -> None:
    """The parity that a registry may demand: 1e-5 on every row."""
    held_out = trained.parts.held_out
    assert np.abs(run(trained.onnx, held_out) - probability(trained.pipeline, held_out)).max() <= 1e-5


def test_no_row_flips_at_a_threshold(trained: Trained) -> None:
    """Values beside and on each split of the trees are scored alike: rounding to float32 moves none across."""
    edges = np.unique(
        np.concatenate(
            [tree.tree_.threshold[tree.tree_.feature >= 0] for tree in trained.pipeline[-1].estimators_.ravel()]
        ).astype(np.float32)
    )
    near = np.concatenate([edges, np.nextafter(edges, np.float32(np.inf)), np.nextafter(edges, np.float32(-np.inf))])
    rows = trained.parts.held_out.iloc[[0]].loc[lambda frame: frame.index.repeat(len(near))]
    rows = rows.assign(minutes=near.astype(np.float64))
    assert np.abs(run(trained.onnx, rows) - probability(trained.pipeline, rows)).max() <= 1e-5


def test_a_value_that_was_not_trained_on_is_no_error(trained: Trained) -> None:
    """A tariff that comes up after training is encoded as none of the known ones, in both worlds."""
    rows = trained.parts.held_out.head(3).assign(plan="unheard of")
    assert np.abs(run(trained.onnx, rows) - probability(trained.pipeline, rows)).max() <= 1e-5


def test_graph_inputs_have_the_columns_names_and_types(trained: Trained) -> None:
    """A model document can then name a graph input by the column."""
    inputs = {item.name: item.type for item in onnxruntime.InferenceSession(trained.onnx).get_inputs()}
    assert inputs == {
        "plan": "tensor(string)",
        "minutes": "tensor(float)",
        "calls": "tensor(int64)",
        "roaming": "tensor(bool)",
    }


def test_outputs_are_plain_tensors(trained: Trained) -> None:
    """A ZipMap would make every reply a list of dictionaries, which the registry refuses."""
    outputs = {item.name: item.type for item in onnxruntime.InferenceSession(trained.onnx).get_outputs()}
    assert outputs[SCORE_OUTPUT] == "tensor(float)"


def test_training_twice_gives_the_same_bytes(trained: Trained) -> None:
    """Same rows, same hyper-parameters, same digest: a version can be proved back to its training set."""
    train = trained.parts.train
    features = list(trained.pipeline.feature_names_in_)
    again = fit(train, features, train["churn"], Hyperparameters(trees=40))
    assert export_onnx(again, train) == trained.onnx


def test_split_is_repeatable_shares_no_row_and_keeps_the_rate() -> None:
    """The rows held out are never trained on, and are as many and as positive as they should be."""
    frame = table()
    parts = split(frame, "churn", held_out_rows=400, seed=3)
    assert len(parts.held_out) == 400
    assert set(parts.train.index) | set(parts.held_out.index) == set(frame.index)
    assert not set(parts.train.index) & set(parts.held_out.index)
    assert abs(parts.train["churn"].mean() - parts.held_out["churn"].mean()) < 0.002
    assert parts.held_out.equals(split(frame, "churn", held_out_rows=400, seed=3).held_out)


def test_representable_floats_survive_float32() -> None:
    """After rounding once, the online store's float32 holds exactly what scikit-learn is given."""
    rounded = representable(table())["minutes"].to_numpy()
    assert (rounded.astype(np.float32).astype(np.float64) == rounded).all()


def test_a_column_that_no_feature_type_keeps_is_named() -> None:
    """A date has to become a number or a text first, and the message says which column it is."""
    with pytest.raises(ValueError, match="column since is datetime64"):
        column_dtype(pd.DataFrame({"since": pd.to_datetime(["2026-01-01"])}), "since")


def test_golden_rows_name_columns_as_the_document_does_and_hold_exact_values(trained: Trained) -> None:
    """What is read back from the file is the value that was scored, to the last bit."""
    rows = trained.parts.held_out.head(20)
    scores = probability(trained.pipeline, rows)
    text = golden_rows(rows, {"plan": "usage.plan", "minutes": "usage.minutes"}, scores)
    records = list(csv.DictReader(io.StringIO(text)))
    assert list(records[0]) == ["usage.plan", "usage.minutes", "expected"]
    assert [float(r["usage.minutes"]) for r in records] == rows["minutes"].tolist()
    assert [float(r["expected"]) for r in records] == scores.tolist()


def test_evaluation_ranks_a_perfect_model_first() -> None:
    """Metrics are plain numbers that JSON can carry."""
    truth = np.array([0, 0, 1, 1])
    assert evaluate(truth, np.array([0.1, 0.2, 0.8, 0.9]))["roc_auc"] == 1.0
    assert evaluate(truth, np.array([0.9, 0.8, 0.2, 0.1]))["roc_auc"] == 0.0


def test_the_environment_lock_pins_what_is_installed() -> None:
    """The file can be installed again with pip."""
    assert f"scikit-learn=={sklearn.__version__}\n" in environment_lock()


def test_the_code_commit_is_that_of_the_checkout_which_tracks_the_file(tmp_path: Path) -> None:
    """A file that git does not track has no commit, even where it lies inside a checkout."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "tracked.py").write_text("1")
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "tracked.py"], check=True)
    subprocess.run([*git, "commit", "-qm", "one"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    (tmp_path / "stray.py").write_text("2")
    assert code_commit(tmp_path / "tracked.py") == head
    assert code_commit(tmp_path / "stray.py") == ""
    (tmp_path / "tracked.py").write_text("3")
    assert code_commit(tmp_path / "tracked.py") == f"{head}-dirty"
