"""Every upload is hostile: each of the corpus is refused by the check named, and good models are not."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import psutil
import pytest
from onnx import ModelProto, NodeProto
from skl2onnx import to_onnx
from sklearn.ensemble import GradientBoostingClassifier, IsolationForest, RandomForestClassifier, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from sklearn.svm import SVR

from control.registry.admission.behaviour import check_same
from control.registry.admission.examine import Upload
from control.registry.admission.gate import AT_ONCE, WAITING, Admission, Candidate, Ended, verdict
from control.registry.admission.report import Check, Limits, Refused, report_from_json
from gateway.contract.document import ModelDocument
from gateway.contract.errors import Fault, Reason
from tests.control.hostile import CORPUS
from tests.control.hostile_models import DOCUMENT, GOLDEN, Case, good, slow
from tests.control.hostile_runner import Examiner
from tests.support import STRESS, until


@pytest.fixture(scope="module")
def examiner() -> Iterator[Examiner]:
    """One process for all of the corpus."""
    with Examiner() as running:
        yield running


def test_the_model_that_every_case_departs_from_is_admitted(examiner: Examiner) -> None:
    """So each refusal is of what the case changes."""
    assert examiner.examine(Case(good(), Check.SIZE).upload, Limits()) == ("", "")


def test_the_corpus_is_large_and_uses_every_check() -> None:
    """All checks that a model can run into are shown at work, but those of our own mishaps."""
    assert len(CORPUS) >= 200
    mishaps = {Check.DIGEST, Check.CRASH, Check.MEMORY, Check.DETERMINISM}
    assert {case.check for case in CORPUS.values()} == set(Check) - mishaps


@pytest.mark.parametrize("name", CORPUS)
def test_each_hostile_model_is_refused_by_its_check(examiner: Examiner, name: str) -> None:
    """By that check and no other, with a message that says more than its name."""
    case = CORPUS[name]
    answer = examiner.examine(case.upload, case.limits)
    assert answer.check == case.check, answer.message
    assert len(answer.message) > 20
    assert str(Path(__file__).parents[2]) not in answer.message
    assert "Traceback" not in answer.message


def test_a_model_cut_off_anywhere_is_refused(examiner: Examiner) -> None:
    """At each 64th of its length."""
    whole = good()
    for part in range(64):
        cut = whole[: len(whole) * part // 64]
        assert examiner.examine(Case(cut, Check.WIRE).upload, Limits()).check in {"format", "wire", "parse"}


def test_bytes_that_are_not_those_of_their_digest_are_refused(examiner: Examiner) -> None:
    """What was approved by digest is what is examined."""
    upload = Case(good(), Check.DIGEST).upload
    for changed in (upload._replace(model=upload.model + b"\0"), upload._replace(golden=GOLDEN + b"\n")):
        assert examiner.examine(changed, Limits()).check == "digest"


@pytest.mark.stress
def test_mutated_models_never_do_more_than_end_their_own_process(examiner: Examiner) -> None:
    """Whatever bytes and attributes are changed to, there is an answer, and the next model is examined."""
    seed = random.Random(7)
    models = [ModelProto.FromString(CORPUS[name].model) for name in SEEDS] + [ModelProto.FromString(good())]
    for _ in range(2000 if STRESS else 200):
        data = mutant(seed, seed.choice(models))
        answer = examiner.examine(Case(data, Check.WIRE).upload, Limits(cpu_s=5, wall_s=20))
        assert answer.check == "" or answer.check in set(Check)
        assert "died with code" not in answer.message, data.hex()
    assert examiner.examine(Case(good(), Check.SIZE).upload, Limits()) == ("", "")


SEEDS = (
    "tree-classifier-no-labels",
    "tree-newer-target-past-targets",
    "tabular-svm-classifier-rho",
    "tabular-linear-classifier",
    "tabular-label-encoder",
    "tabular-one-hot-both",
)
"""Cases to mutate: one of each kind of operator."""


def mutant(seed: random.Random, model: ModelProto) -> bytes:
    """The model with one attribute changed, or with some of its bytes changed."""
    changed = ModelProto()
    changed.CopyFrom(model)
    if seed.random() < 0.7:
        mutate_attribute(seed, seed.choice(changed.graph.node))
        return changed.SerializeToString()
    data = bytearray(changed.SerializeToString())
    for _ in range(seed.randint(1, 4)):
        at = seed.randrange(len(data))
        match seed.randrange(3):
            case 0:
                data[at] = seed.randrange(256)
            case 1:
                del data[at : at + seed.randint(1, 8)]
            case _:
                data[at:at] = seed.randbytes(seed.randint(1, 8))
        data = data or bytearray(b"\0")
    return bytes(data)


def mutate_attribute(seed: random.Random, node: NodeProto) -> None:
    """Changes a number, a length or a text of one attribute to something at the edge."""
    edges = (-1, 0, 1, 2**31 - 1, 2**31, 2**32, 2**63 - 1, -(2**63))
    attribute: Any = seed.choice(node.attribute)
    for values, choices in (
        (attribute.ints, edges),
        (attribute.floats, (float("nan"), float("inf"), -1e38, 0.0)),
        (attribute.strings, (b"", b"LEAF", b"BRANCH_EQ", b"\xff")),
    ):
        if not values:
            continue
        match seed.randrange(3):
            case 0:
                values[seed.randrange(len(values))] = seed.choice(choices)
            case 1:
                values.pop()
            case _:
                values.append(seed.choice(choices))
        return
    attribute.i = seed.choice(edges)


def test_models_of_common_kinds_are_admitted(examiner: Examiner) -> None:
    """What scikit-learn users export passes every check, within the tolerance of float32."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, 4)).astype(np.float32)
    two, three = (x[:, 0] > 0).astype(int), np.digitize(x[:, 0], [-0.5, 0.5])
    models: list[tuple[Any, str, Any]] = [
        (GradientBoostingClassifier(n_estimators=5), "binary", two),
        (RandomForestClassifier(5), "multiclass", three),
        (LogisticRegression(), "multiclass", three),
        (GaussianNB(), "multiclass", three),
        (make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()), "binary", two),
        (make_pipeline(PolynomialFeatures(), LogisticRegression()), "binary", two),
        *((model, "regression", x[:, 0]) for model in (LinearRegression(), SVR(), RandomForestRegressor(5))),
        (IsolationForest(n_estimators=5), "anomaly", None),
    ]
    for model, task, y in models:
        answer = examiner.examine(exported(model.fit(x, y), task, x), Limits())
        assert answer == ("", ""), (model, answer)


def exported(model: Any, task: str, x: Any) -> Upload:
    """A fitted model as it is uploaded, with golden rows of its own."""
    classifies = task in {"binary", "multiclass"}
    options = {id(model): {"zipmap": False}} if classifies else None
    data = to_onnx(model, x[:1], options=options, target_opset={"": 21, "ai.onnx.ml": 3}).SerializeToString()
    output: dict[str, Any] = {"score": "probabilities"}
    columns = ["expected"]
    match task:
        case "binary":
            output["column"], expected = 1, model.predict_proba(x)[:, 1:]
        case "multiclass":
            output["labels"], expected = ["0", "1", "2"], model.predict_proba(x)
            columns = [f"expected:{label}" for label in output["labels"]]
        case "anomaly":
            output["score"], expected = "scores", model.decision_function(x)[:, None]
        case _:
            output["score"], expected = "variable", model.predict(x)[:, None]
    names = [f"x{index}" for index in range(x.shape[1])]
    rows = [",".join(map(repr, map(float, (*row, *right)))) for row, right in zip(x[:40], expected, strict=False)]
    golden = "\n".join([",".join([*names, *columns]), *rows]).encode()
    document = ModelDocument.model_validate(
        {
            **DOCUMENT.model_dump(mode="json"),
            "task": task,
            "tolerance": 1e-4,
            "inputs": [{"request": name, "type": "float32", "feeds": "X"} for name in names],
            "output": output,
        }
    )
    return Upload(data, golden, hashlib.sha256(data).hexdigest(), hashlib.sha256(golden).hexdigest(), document, {})


def admit(model: bytes, golden: bytes = GOLDEN, limits: Limits | None = None) -> Any:
    """Admits by the real process, from real files."""
    with tempfile.TemporaryFile() as model_file, tempfile.TemporaryFile() as golden_file:
        for file, data in ((model_file, model), (golden_file, golden)):
            file.write(data)
            file.seek(0)
        digests = (hashlib.sha256(data).hexdigest() for data in (model, golden))
        return Admission(limits).admit(Candidate(model_file, golden_file, DOCUMENT, {}, *digests))  # type: ignore[arg-type]


def refusal(model: bytes, golden: bytes = GOLDEN, limits: Limits | None = None) -> Fault:
    """How the real process refuses."""
    with pytest.raises(Fault) as caught:
        admit(model, golden, limits)
    assert caught.value.reason is Reason.ADMISSION_REFUSED
    return caught.value


def test_the_real_process_reports_what_it_measured() -> None:
    """The signature, the size, the operators, the golden difference and times."""
    report = admit(good())
    assert [tensor.name for tensor in report.inputs] == ["X"]
    assert [tensor.name for tensor in report.outputs] == ["score"]
    assert report.model_bytes == len(good())
    assert report.golden_rows == 3
    assert report.max_golden_difference == 0
    assert report.operators == {"TreeEnsembleRegressor": 1}
    assert report.load_ms > 0
    assert report.run_us_p50 > 0
    assert report_from_json(report.to_json()) == report


@pytest.mark.parametrize(
    "name", ["format-pickle-4", "ext-abs", "wire-two-models", "tree-cycle", "bomb-constant-of-shape-4-GiB"]
)
def test_the_real_process_refuses_as_the_corpus_says(name: str) -> None:
    """The check is a fact of the fault, for programs."""
    case = CORPUS[name]
    assert refusal(case.model).facts["check"] == case.check


def test_what_takes_too_long_is_ended() -> None:
    """By the clock on the wall, and by processor time."""
    assert refusal(good(), limits=Limits(wall_s=0.01)).facts["check"] == "time"
    assert refusal(slow(2000), limits=Limits(cpu_s=2)).facts["check"] == "time"


def test_a_process_that_cannot_even_start_is_a_refusal() -> None:
    """With memory for nothing, it dies on its first library; the server does not."""
    assert refusal(good(), limits=Limits(memory_bytes=32 << 20)).facts["check"] in {"crash", "memory"}


def test_nothing_is_left_of_an_examination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No process and no directory, however it ended."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for limits in (Limits(), Limits(wall_s=0.01)):
        with suppress(Fault):
            admit(good(), limits=limits)
    assert not [child for child in psutil.Process(os.getpid()).children() if "admission" in " ".join(child.cmdline())]
    assert not list(tmp_path.iterdir())


def test_more_examinations_than_have_room_are_turned_away() -> None:
    """At once, so that they do not take the threads that answer other calls; those inside go on."""
    admission, turned_away, refused = Admission(), [], []
    pipes = [os.pipe() for _ in range(AT_ONCE + WAITING + 1)]

    def ask(model: BinaryIO) -> None:
        with model, tempfile.TemporaryFile() as golden, pytest.raises(Fault) as caught:
            admission.admit(Candidate(model, golden, DOCUMENT, {}, "", ""))
        if caught.value.reason is Reason.OVERLOADED:
            turned_away.append(caught.value)
        else:
            refused.append(caught.value.facts["check"])

    # Each reads its model from a pipe, and so takes until the pipe is closed.
    threads = [threading.Thread(target=ask, args=(os.fdopen(reading, "rb"),)) for reading, _ in pipes]
    for thread in threads:
        thread.start()
    until(lambda: turned_away)
    assert not refused
    for _, writing in pipes:
        os.close(writing)
    for thread in threads:
        thread.join()
    assert len(turned_away) == 1
    assert refused == ["digest"] * (AT_ONCE + WAITING)


def test_the_servers_process_never_loads_what_parses_models() -> None:
    """Neither onnx nor onnxruntime: only the disposable process does."""
    look = "import control.server, sys; sys.exit(bool({'onnx', 'onnxruntime'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", look], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize(
    ("ended", "check"),
    [
        (Ended(None, b"", b""), "time"),
        (Ended(-24, b"", b""), "time"),
        (Ended(-11, b'{"report": {}}', b""), "crash"),
        (Ended(1, b"", b"Traceback"), "crash"),
        (Ended(0, b"", b""), "crash"),
        (Ended(0, b"\xff", b""), "crash"),
        (Ended(0, b'{"report": {}}', b""), "crash"),
        (Ended(0, b'{"report": [1]}', b""), "crash"),
        (Ended(0, b'"refused"', b""), "crash"),
        (Ended(0, b'{"refused": "of my own making", "message": ""}', b""), "crash"),
        (Ended(0, b'{"refused": "wire", "message": "because"}', b""), "wire"),
    ],
)
def test_what_the_process_says_is_not_trusted(ended: Ended, check: str) -> None:
    """It had hostile bytes in its memory: only a well-formed answer counts."""
    with pytest.raises(Refused) as caught:
        verdict(ended, Limits())
    assert caught.value.check == check


def test_outputs_that_differ_in_one_bit_are_not_the_same() -> None:
    """A model that answers the same rows otherwise is refused."""
    scores = np.array([[0.25], [0.75]])
    check_same(scores, scores.copy())
    for other in (np.nextafter(scores, 1), scores.reshape(2)):
        with pytest.raises(Refused, match="second time"):
            check_same(scores, other)


def test_a_report_reads_back_from_its_json() -> None:
    """The answer crosses a pipe as JSON."""
    report = admit(good())
    assert json.loads(report.to_json())["inputs"][0]["name"] == "X"
