"""Clients that we did not write, each in an environment of its own, against a real control plane and gateway.

`make conformance` makes the environments from the requirements beside this file, and runs this.
"""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from tests.conformance.plane import COLUMNS, served
from tests.gateway.gateways import Gateway

HERE: Final = Path(__file__).parent
ENVIRONMENTS: Final = HERE.parents[1] / ".venv-conformance"
DATATYPES: Final = {
    "flag": "BOOL",
    "small": "INT32",
    "whole": "INT64",
    "single": "FP32",
    "double": "FP64",
    "word": "BYTES",
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with served(tmp_path_factory.mktemp("conformance")) as running:
        yield running


def report(gateway: Gateway, client: str, script: str) -> Any:
    """What the script says, run where the client is installed."""
    python = ENVIRONMENTS / client / "bin" / "python"
    command = [str(python), "-W", "ignore", str(HERE / script), gateway.supervisor()["address"]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def triton(request: pytest.FixtureRequest) -> Any:
    return _report_of(request, "tritonclient", "triton_report.py")


@pytest.fixture(scope="module")
def kserve(request: pytest.FixtureRequest) -> Any:
    return _report_of(request, "kserve", "kserve_report.py")


def _report_of(request: pytest.FixtureRequest, client: str, script: str) -> Any:
    if not (ENVIRONMENTS / f"{client}.ok").exists():
        pytest.skip(f"{client} has no environment here; `make conformance` makes it")
    return report(request.getfixturevalue("gateway"), client, script)


def assert_repeated(found: dict[str, Any]) -> None:
    """Holds what the graph repeats against what was sent: a number as a float32 where the column is one."""
    for datatype, (sent, got) in found.items():
        if datatype.startswith("FP"):
            assert np.array_equal(np.array(sent, np.float32), np.array(got, np.float32)), datatype
        else:
            assert got == sent, datatype


def assert_refused(errors: dict[str, Any], expected: dict[str, tuple[str, str]]) -> None:
    """Holds each error's status and reason against a table, and that there are no others."""
    assert [name for name, error in errors.items() if error["status"] == "OK"] == []
    found = {name: (error["status"].removeprefix("StatusCode."), _reason(error)) for name, error in errors.items()}
    assert found == expected
    assert all(error["message"] for error in errors.values())


def _reason(error: dict[str, str]) -> str:
    status, info = Status.FromString(base64.b64decode(error["details"])), ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (status.message, info.domain) == (error["message"], "interlock")
    return info.reason


def test_tritonclient_finds_the_server(triton: Any) -> None:
    """Liveness, readiness and metadata, as messages and as JSON, with headers of its own."""
    found = triton["server"]
    assert {"binary_tensor_data", "model_configuration", "statistics"} <= set(found.pop("extensions"))
    assert found == {"live": True, "ready": True, "name": "interlock", "json": "interlock", "headers": True}


def test_tritonclient_finds_the_models(triton: Any) -> None:
    """Readiness by number and label, metadata, configuration, index and statistics."""
    found = triton["models"]
    assert found["ready"] == [True, True, True]
    assert (found["versions"], found["platform"]) == (["1"], "onnxruntime_onnx")
    assert found["inputs"] == {f"{name}_in": [DATATYPES[name], [-1, 1]] for name in COLUMNS}
    assert found["outputs"] == {"y": "FP32", **{f"{name}_out": DATATYPES[name] for name in COLUMNS}}
    assert (found["max_batch_size"], found["decoupled"]) == (256, False)
    numbers = {"BOOL": 1, "INT32": 8, "INT64": 9, "FP32": 11, "FP64": 12, "BYTES": 13}
    assert found["config_inputs"] == {f"{name}_in": [numbers[DATATYPES[name]], [1]] for name in COLUMNS}
    assert (found["index"], found["index_json"]) == ([["columns", "1", "READY"], ["minutes", "2", "READY"]], 2)
    assert found["statistics"] == [["columns", "1"], ["minutes", "2"]]
    assert found["statistics_of_one"] == ["columns"]


@pytest.mark.parametrize("how", ["raw_by_name", "typed"])
def test_tritonclient_sends_every_datatype(triton: Any, how: str) -> None:
    """By the names of request-time inputs; the graph gets the values that were sent, the largest and smallest too."""
    assert len(triton[how]) == {"raw_by_name": 13, "typed": 12}[how]
    assert_repeated(triton[how])


def test_tritonclient_sends_the_graphs_own_tensors(triton: Any) -> None:
    """Every type that a graph may take, raw, comes back bit by bit, and the reply has the request's id."""
    found = triton["raw_by_graph"]
    assert (found["id"], found["version"]) == ("all", "1")
    assert found["outputs"] == {"y": "FP32", **{f"{name}_out": DATATYPES[name] for name in COLUMNS}}
    sent, got = found["values"]["double_in"]
    assert sent == got, "a double stays one"
    assert_repeated({DATATYPES[name.removesuffix("_in")]: pair for name, pair in found["values"].items()})


def test_tritonclient_asks_by_key_version_and_with_options(triton: Any) -> None:
    """Entity keys, labels as versions, compression, timeouts, priority, headers, parameters, and callbacks."""
    found = triton["answers"]
    assert found["values"] == [9.0, 7.0]
    assert (found["arm"], found["flags"], found["defaulted"]) == ("champion", ",entity_unknown", "0,1")
    assert {"interlock_prediction_id", "interlock_revision", "interlock_feature_age_ms"} <= set(found["names"])
    assert len(found["options"]) == 9
    assert all(values == [9.0] for values in found["options"].values()), found["options"]
    assert found["async"] == [[9.0], None]


def test_tritonclient_streams(triton: Any) -> None:
    """In order; an error has a message, the stream goes on, and who asks which answer is final is told."""
    found = triton["streaming"]
    assert found["values"] == [number % 10 + 2.0 for number in range(20)]
    assert found["ids"] == [str(number) for number in range(20)]
    assert "NOT_FOUND" in found["error"]
    assert "MODEL_UNKNOWN" in found["error"]
    assert (found["last"], found["final"]) == ("last", True)


def test_tritonclients_asyncio_form_works(triton: Any) -> None:
    """The same calls."""
    stream = [number + 2.0 for number in range(5)]
    assert triton["asynchronous"] == {
        "live": True,
        "ready": True,
        "metadata": "minutes",
        "value": [9.0],
        "stream": stream,
    }


BAD_INPUT: Final = ("INVALID_ARGUMENT", "INPUT_MISMATCH")
NO_SUCH_MODEL: Final = ("NOT_FOUND", "MODEL_UNKNOWN")
NO_SUCH_VERSION: Final = ("NOT_FOUND", "VERSION_NOT_SERVED")
NO_SUCH_METHOD: Final = ("UNIMPLEMENTED", "METHOD_UNKNOWN")
GOVERNED: Final = ("UNIMPLEMENTED", "LOADING_GOVERNED")


def test_tritonclients_mistakes_have_tritons_codes_and_our_reasons(triton: Any) -> None:
    """Everything that is not for a tabular server is refused, and nothing of it is quietly left out."""
    assert_refused(
        triton["errors"],
        {
            "unknown model": NO_SUCH_MODEL,
            "unknown model is not ready": NO_SUCH_MODEL,
            "metadata of an unknown model": NO_SUCH_MODEL,
            "config of an unknown model": NO_SUCH_MODEL,
            "statistics of an unknown model": NO_SUCH_MODEL,
            "a version that does not answer": NO_SUCH_VERSION,
            "canary without a rollout": NO_SUCH_VERSION,
            "word as a version": ("INVALID_ARGUMENT", "VERSION_INVALID"),
            "metadata of a version that does not answer": NO_SUCH_VERSION,
            "missing input": BAD_INPUT,
            "unexpected input": BAD_INPUT,
            "unknown output": BAD_INPUT,
            "empty key": ("INVALID_ARGUMENT", "ENTITY_MISMATCH"),
            "too many rows": ("INVALID_ARGUMENT", "BATCH_SIZE"),
            "half precision for a graph's float32": BAD_INPUT,
            "int32 for a graph's int64": BAD_INPUT,
            "bfloat16, which no model takes": BAD_INPUT,
            "an unsigned number above int64": BAD_INPUT,
            "texts for a number": BAD_INPUT,
            "bytes that are no text": BAD_INPUT,
            "input in shared memory": BAD_INPUT,
            "output in shared memory": BAD_INPUT,
            "classification": BAD_INPUT,
            "load": GOVERNED,
            "unload": GOVERNED,
            "system shared memory": NO_SUCH_METHOD,
            "cuda shared memory": NO_SUCH_METHOD,
            "trace settings": NO_SUCH_METHOD,
            "log settings": NO_SUCH_METHOD,
        },
    )
    messages = {name: error["message"] for name, error in triton["errors"].items()}
    assert "taken are BOOL, UINT8" in messages["bfloat16, which no model takes"]
    assert "is float16, but model 'columns' expects float32" in messages["half precision for a graph's float32"]
    assert "shared memory" in messages["input in shared memory"]
    assert "shared memory" in messages["output in shared memory"]
    assert "classification" in messages["classification"]


def test_kserves_client_finds_server_and_models(kserve: Any) -> None:
    """Liveness and readiness by its client, metadata by its stubs."""
    assert kserve["server"] == {
        "live": True,
        "ready": True,
        "model": True,
        "name": "interlock",
        "versions": ["1"],
        "inputs": {f"{name}_in": DATATYPES[name] for name in COLUMNS},
    }


@pytest.mark.parametrize("how", ["raw", "typed"])
def test_kserves_client_sends_every_datatype(kserve: Any, how: str) -> None:
    """Both of its forms; half precision has no typed one."""
    assert len(kserve[how]) == {"raw": 13, "typed": 12}[how]
    assert_repeated(kserve[how])


def test_kserves_client_asks_by_key_and_version(kserve: Any) -> None:
    """Keys raw and typed, labels as versions, and parameters of its own."""
    found = kserve["answers"]
    assert (found["id"], found["model"]) == ("r1", ["minutes", "2"])
    assert (found["values"], found["flags"]) == ([9.0, 7.0], ",entity_unknown")
    assert found["by_version"] == [[9.0, 7.0]] * 3
    assert found["typed_keys"] == [9.0]


def test_kserves_clients_mistakes_have_the_right_codes(kserve: Any) -> None:
    """None is UNAVAILABLE, which this client repeats by itself."""
    assert_refused(
        kserve["errors"],
        {
            "unknown model": NO_SUCH_MODEL,
            "unknown model is not ready": NO_SUCH_MODEL,
            "a version that does not answer": NO_SUCH_VERSION,
            "canary without a rollout": NO_SUCH_VERSION,
            "word as a version": ("INVALID_ARGUMENT", "VERSION_INVALID"),
            "missing input": BAD_INPUT,
            "raw and typed in one call": BAD_INPUT,
            "an unsigned number above int64": BAD_INPUT,
            "a number that is no INT8": BAD_INPUT,
            "load": GOVERNED,
            "unload": GOVERNED,
        },
    )
    assert "'minutes'" in kserve["errors"]["load"]["message"]
