"""Trains a small model of each kind and writes what its exporter gives by default, with the framework's predictions.

Run in an environment of its own, with what requirements.txt pins: python make.py [KIND ...]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd

HERE = Path(__file__).parent
FIXTURES = HERE / "fixtures"
ROWS = 12
"""Rows of each fixture: some of those that the model was trained on."""

random = np.random.default_rng(7)
X = random.normal(size=(300, 4)).astype(np.float32)
CHURN = (X[:, 0] - 0.5 * X[:, 1] + random.normal(scale=0.3, size=300) > 0).astype(np.int64)
PLANS = np.digitize(X[:, 2], [-0.5, 0.5])
SPEND = (20 + 5 * X[:, 0] - 3 * X[:, 3]).astype(np.float32)


def write(kind: str, model: onnx.ModelProto | Path, inputs: pd.DataFrame, expected: Any) -> None:
    """Writes NAME.onnx and NAME.json: the inputs, column by column, and what the framework itself predicts."""
    FIXTURES.mkdir(exist_ok=True)
    if isinstance(model, Path):
        forget_places(model)
    else:
        (FIXTURES / f"{kind}.onnx").write_bytes(model.SerializeToString())
    columns = {name: inputs[name].tolist()[:ROWS] for name in inputs}
    predicted = np.asarray(expected, np.float64)[:ROWS].reshape(min(ROWS, len(inputs)), -1).tolist()
    lines = json.dumps({"inputs": columns, "expected": predicted}, ensure_ascii=False)
    (FIXTURES / f"{kind}.json").write_text(lines + "\n")


def forget_places(path: Path) -> None:
    """Removes where on the machine that made it each node of torch's comes from."""
    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        kept = [entry for entry in node.metadata_props if not entry.key.endswith("stack_trace")]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    path.write_bytes(model.SerializeToString())


def frame(values: Any) -> pd.DataFrame:
    """The columns by position."""
    return pd.DataFrame(values, columns=[f"c{index}" for index in range(values.shape[1])])


def pickle() -> None:
    """What a notebook saves when nobody told it otherwise."""
    import pickle as module

    from sklearn.linear_model import LogisticRegression

    (FIXTURES / "pickle.onnx").write_bytes(module.dumps(LogisticRegression().fit(X, CHURN)))


def sklearn_columns() -> None:
    """A pipeline over a data frame: one graph input per column, of text, int64 and float64."""
    from sklearn.preprocessing import StandardScaler

    fitted = column_pipeline([("calls", StandardScaler(), ["calls"]), ("spend", "passthrough", ["spend"])])
    write("sklearn_columns", *fitted)


def sklearn_mixed_columns() -> None:
    """The same with the numbers scaled together, which skl2onnx makes a graph of that no runtime loads."""
    from sklearn.preprocessing import StandardScaler

    write("sklearn_mixed_columns", *column_pipeline([("numbers", StandardScaler(), ["calls", "spend"])]))


def column_pipeline(numbers: list[Any]) -> tuple[onnx.ModelProto, pd.DataFrame, Any]:
    """A classifier of texts and numbers, converted, with its rows and its probabilities."""
    from skl2onnx import to_onnx
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    data = pd.DataFrame(
        {
            "tariff": np.array(["basic", "plus", "max"], object)[PLANS],
            "calls": random.integers(0, 50, 300),
            "spend": SPEND.astype(np.float64),
        }
    )
    encode = ColumnTransformer([("text", OneHotEncoder(handle_unknown="ignore"), ["tariff"]), *numbers])
    model = make_pipeline(encode, LogisticRegression()).fit(data, CHURN)
    return to_onnx(model, data[:1]), data, model.predict_proba(data)[:, 1]


def sklearn_float64() -> None:
    """A regression over a matrix of float64, as numpy makes it."""
    from skl2onnx import to_onnx
    from sklearn.linear_model import LinearRegression

    values = X.astype(np.float64)
    model = LinearRegression().fit(values, SPEND)
    write("sklearn_float64", to_onnx(model, values[:1]), frame(values), model.predict(values))


def sklearn_opset9() -> None:
    """The oldest operator set that is still met."""
    sklearn_opset("sklearn_opset9", 9)


def sklearn_opset26() -> None:
    """The newest operator set."""
    sklearn_opset("sklearn_opset26", 26)


def sklearn_opset(kind: str, version: int) -> None:
    """A classifier for an operator set."""
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression().fit(X, CHURN)
    write(kind, to_onnx(model, X[:1], target_opset=version), frame(X), model.predict_proba(X)[:, 1])


def sklearn_text_labels() -> None:
    """A multiclass forest with text labels, zipped into dictionaries."""
    from skl2onnx import to_onnx
    from sklearn.ensemble import RandomForestClassifier

    labels = np.array(["basic", "plus", "max"])[PLANS]
    model = RandomForestClassifier(n_estimators=8, max_depth=4, random_state=0).fit(X, labels)
    write("sklearn_text_labels", to_onnx(model, X[:1]), frame(X), model.predict_proba(X))


def sklearn_regression() -> None:
    """A regression."""
    from skl2onnx import to_onnx
    from sklearn.ensemble import GradientBoostingRegressor

    model = GradientBoostingRegressor(n_estimators=10, random_state=0).fit(X, SPEND)
    write("sklearn_regression", to_onnx(model, X[:1]), frame(X), model.predict(X))


def sklearn_isolation_forest() -> None:
    """An anomaly score."""
    from skl2onnx import to_onnx
    from sklearn.ensemble import IsolationForest

    model = IsolationForest(n_estimators=10, random_state=0).fit(X)
    opsets = {"": 15, "ai.onnx.ml": 3}  # its converter takes no newer one
    write("sklearn_isolation_forest", to_onnx(model, X[:1], target_opset=opsets), frame(X), model.decision_function(X))


def sklearn_multi_output() -> None:
    """Two numbers a row, side by side in one output."""
    from skl2onnx import to_onnx
    from sklearn.linear_model import LinearRegression

    model = LinearRegression().fit(X, np.stack([SPEND, X[:, 1] * 2], axis=1))
    write("sklearn_multi_output", to_onnx(model, X[:1]), frame(X), model.predict(X)[:, 0])


def sklearn_multi_regression() -> None:
    """A model for each of three numbers, side by side in one output."""
    from skl2onnx import to_onnx
    from sklearn.ensemble import GradientBoostingRegressor
    from sklearn.multioutput import MultiOutputRegressor

    targets = np.stack([SPEND, X[:, 1] * 2, X[:, 2] * 3], axis=1)
    model = MultiOutputRegressor(GradientBoostingRegressor(n_estimators=5, random_state=0)).fit(X, targets)
    write("sklearn_multi_regression", to_onnx(model, X[:1]), frame(X), model.predict(X)[:, 0])


def sklearn_multi_forest() -> None:
    """A forest of two numbers, whose converter says that its output has one column."""
    from skl2onnx import to_onnx
    from sklearn.ensemble import RandomForestRegressor

    model = RandomForestRegressor(4, max_depth=3, random_state=0).fit(X, np.stack([SPEND, X[:, 1]], axis=1))
    write("sklearn_multi_forest", to_onnx(model, X[:1]), frame(X), model.predict(X)[:, 0])


def sklearn_multi_classifier() -> None:
    """Two classifiers in one: a sequence of probabilities."""
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression
    from sklearn.multioutput import MultiOutputClassifier

    model = MultiOutputClassifier(LogisticRegression()).fit(X, np.stack([CHURN, (PLANS > 0).astype(int)], axis=1))
    write("sklearn_multi_classifier", to_onnx(model, X[:1]), frame(X), model.predict_proba(X)[0][:, 1])


def lightgbm() -> None:
    """A LightGBM classifier, as onnxmltools converts it by default."""
    import onnxmltools
    from lightgbm import LGBMClassifier
    from onnxmltools.convert.common.data_types import FloatTensorType

    model = LGBMClassifier(n_estimators=10, num_leaves=8, verbose=-1).fit(X, CHURN)
    converted = onnxmltools.convert_lightgbm(model, initial_types=[("input", FloatTensorType([None, 4]))])
    write("lightgbm", converted, frame(X), model.predict_proba(X)[:, 1])


def lightgbm_categories() -> None:
    """A LightGBM classifier of a data frame with a categorical column, whose codes the graph takes."""
    import onnxmltools
    from lightgbm import LGBMClassifier
    from onnxmltools.convert.common.data_types import FloatTensorType

    tariff = pd.Categorical(np.array(["basic", "plus", "max"])[PLANS], ["basic", "max", "plus"])
    data = pd.DataFrame({"tariff": tariff, "spend": SPEND, "calls": random.integers(0, 50, 300)})
    churn = (CHURN + (PLANS == 1)) % 2
    model = LGBMClassifier(n_estimators=10, num_leaves=8, min_child_samples=5, verbose=-1).fit(data, churn)
    converted = onnxmltools.convert_lightgbm(model, initial_types=[("input", FloatTensorType([None, 3]))])
    codes = data.assign(tariff=tariff.codes).astype(np.float64)
    write("lightgbm_categories", converted, codes, model.predict_proba(data)[:, 1])


def lightgbm_ranker() -> None:
    """A LightGBM ranking model: one score for each offer."""
    import onnxmltools
    from lightgbm import LGBMRanker
    from onnxmltools.convert.common.data_types import FloatTensorType

    model = LGBMRanker(n_estimators=10, num_leaves=8, verbose=-1).fit(X, PLANS, group=[10] * 30)
    converted = onnxmltools.convert_lightgbm(model.booster_, initial_types=[("input", FloatTensorType([None, 4]))])
    write("lightgbm_ranker", converted, frame(X), model.predict(X))


def xgboost() -> None:
    """An XGBoost classifier, as onnxmltools converts it by default."""
    import onnxmltools
    from onnxmltools.convert.common.data_types import FloatTensorType
    from xgboost import XGBClassifier

    model = XGBClassifier(n_estimators=10, max_depth=3).fit(X, CHURN)
    converted = onnxmltools.convert_xgboost(model, initial_types=[("input", FloatTensorType([None, 4]))])
    write("xgboost", converted, frame(X), model.predict_proba(X)[:, 1])


def torch_ranking() -> None:
    """A PyTorch network that scores three offers at once, for any number of rows."""
    import torch

    network = torch_network(3)
    path = FIXTURES / "torch_ranking.onnx"
    rows = torch.export.Dim("rows")
    torch.onnx.export(network, (torch.from_numpy(X[:2]),), path, dynamic_shapes=({0: rows},), external_data=False)
    write("torch_ranking", path, frame(X), network(torch.from_numpy(X)).detach().numpy())


def torch_flat() -> None:
    """A network that answers a number for each row, not a column of them."""
    import torch

    network = torch.nn.Sequential(torch_network(1), torch.nn.Flatten(0)).eval()
    path = FIXTURES / "torch_flat.onnx"
    rows = torch.export.Dim("rows")
    torch.onnx.export(network, (torch.from_numpy(X[:2]),), path, dynamic_shapes=({0: rows},), external_data=False)
    write("torch_flat", path, frame(X), network(torch.from_numpy(X)).detach().numpy())


def torch_listed() -> None:
    """The older exporter, told to list the weights among the inputs, as all exporters once did."""
    import torch

    network = torch_network(1)
    path = FIXTURES / "torch_listed.onnx"
    torch.onnx.export(
        network,
        (torch.from_numpy(X[:2]),),
        path,
        dynamo=False,
        keep_initializers_as_inputs=True,
        opset_version=9,
        input_names=["features"],
        output_names=["score"],
        dynamic_axes={"features": {0: "rows"}, "score": {0: "rows"}},
    )
    write("torch_listed", path, frame(X), network(torch.from_numpy(X)).detach().numpy())


def torch_int32() -> None:
    """A network over counts of int32, looked up in a table, and amounts of float64."""
    import torch

    class Embedded(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(50, 3)
            self.last = torch.nn.Linear(4, 1, dtype=torch.float64)

        def forward(self, calls: Any, spend: Any) -> Any:
            return self.last(torch.cat([self.table(calls[:, 0]).double(), spend / 20], dim=1))

    torch.manual_seed(0)
    network = Embedded().eval()
    calls, spend = random.integers(0, 50, (300, 1)).astype(np.int32), SPEND.astype(np.float64)[:, None]
    given = torch.from_numpy(calls), torch.from_numpy(spend)
    path = FIXTURES / "torch_int32.onnx"
    rows = torch.export.Dim("rows")
    shapes = ({0: rows}, {0: rows})
    torch.onnx.export(network, tuple(x[:2] for x in given), path, dynamic_shapes=shapes, external_data=False)
    rows_given = pd.DataFrame({"calls": calls[:, 0], "spend": spend[:, 0]})
    write("torch_int32", path, rows_given, network(*given).detach().numpy())


def torch_one_row() -> None:
    """A PyTorch network exported with one row as its example, which fixes the batch at one."""
    import torch

    network = torch_network(1)
    path = FIXTURES / "torch_one_row.onnx"
    torch.onnx.export(network, (torch.from_numpy(X[:1]),), path, external_data=False)
    write("torch_one_row", path, frame(X), network(torch.from_numpy(X)).detach().numpy())


def torch_external() -> None:
    """The same network with the exporter's defaults, which keep the weights in a second file."""
    import torch

    path = FIXTURES / "torch_external.onnx"
    torch.onnx.export(torch_network(1, hidden=512), (torch.from_numpy(X[:1]),), path)
    forget_places(path)
    path.with_suffix(".onnx.data").unlink()  # it would be refused with its data beside it just the same


def torch_network(outputs: int, hidden: int = 8) -> Any:
    """A small network."""
    import torch

    torch.manual_seed(0)
    layers = torch.nn.Linear(4, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, outputs), torch.nn.Sigmoid()
    return torch.nn.Sequential(*layers).eval()


KINDS: dict[str, Callable[[], None]] = {
    function.__name__: function
    for function in (
        pickle,
        sklearn_columns,
        sklearn_mixed_columns,
        sklearn_float64,
        sklearn_opset9,
        sklearn_opset26,
        sklearn_text_labels,
        sklearn_regression,
        sklearn_isolation_forest,
        sklearn_multi_output,
        sklearn_multi_regression,
        sklearn_multi_forest,
        sklearn_multi_classifier,
        lightgbm,
        lightgbm_categories,
        lightgbm_ranker,
        xgboost,
        torch_ranking,
        torch_flat,
        torch_listed,
        torch_int32,
        torch_one_row,
        torch_external,
    )
}

if __name__ == "__main__":
    for chosen in sys.argv[1:] or KINDS:
        KINDS[chosen]()
