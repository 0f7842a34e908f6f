"""What exporters write by default is rewritten before it is examined: into what is right, and never into harm."""

from __future__ import annotations

import hashlib
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper

from control.registry.admission.examine import Upload
from control.registry.admission.gate import Admission, Candidate
from control.registry.admission.report import Check, Limits
from control.registry.admission.rewrite import rewrite
from gateway.contract.errors import Fault, Reason
from tests.control.hostile import CORPUS
from tests.control.hostile_models import DOCUMENT, GOLDEN, classifier, constant, good, model_of
from tests.control.hostile_runner import Examiner
from tests.control.test_admission import mutant
from tests.exporters.kinds import FIXTURES, read_kind
from tests.support import STRESS

EXAMINED: Final = (
    "sklearn_columns",
    "sklearn_mixed_columns",
    "sklearn_multi_classifier",
    "sklearn_multi_forest",
    "sklearn_text_labels",
    "torch_listed",
)
"""A model for each thing that is rewritten."""
MENDED: Final = {"initialiser-is-input"}
"""What the corpus has refused and a registration rewrites; then another check has its turn."""


@pytest.fixture(scope="module")
def examiner() -> Iterator[Examiner]:
    """One process for all of them."""
    with Examiner() as running:
        yield running


def test_a_good_model_stays_as_it_is() -> None:
    """And what is rewritten is a copy."""
    for data, changed in ((good(), False), (classifier({"classlabels_ints": [0, 1]}, zipmap=True), True)):
        model = ModelProto.FromString(data)
        assert bool(rewrite(model).changes) == changed
        assert model == ModelProto.FromString(data)


def mixed(*after: Any, initialisers: list[TensorProto] | None = None) -> ModelProto:
    """A model that puts the input beside itself as float64, and what comes after that."""
    nodes = [
        helper.make_node("Add", ["wide", "zero"], ["same"]),
        helper.make_node("Concat", ["X", "same"], ["both"], axis=1),
    ]
    tensors = [constant("zero", [[0.0]], np.float64), *(initialisers or [])]
    model = model_of(*nodes, *after, initialisers=tensors, inputs=("X", "wide"))
    model.graph.input[1].type.tensor_type.elem_type = TensorProto.DOUBLE
    return model


def run(model: ModelProto) -> Any:
    """The answer for one row."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    row = [[0.1, 0.2, 0.3]]
    return session.run(None, {"X": np.array(row, np.float32), "wide": np.array(row, np.float64)})[0]


def test_columns_of_two_types_become_float64_where_all_that_follows_takes_it() -> None:
    """Nothing is lost so."""
    weights = constant("weights", np.ones((6, 1)), np.float64)
    model = mixed(helper.make_node("MatMul", ["both", "weights"], ["score"]), initialisers=[weights])
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    result = rewrite(model)
    assert "float64" in result.changes[0].rpartition("they are all")[2]
    assert run(result.model)[0, 0] == pytest.approx(1.2, abs=1e-6)


def test_columns_of_two_types_become_float32_where_what_follows_was_converted_for_it() -> None:
    """The converter took them for that."""
    weights = constant("weights", np.ones((6, 1)), np.float32)
    model = mixed(helper.make_node("MatMul", ["both", "weights"], ["score"]), initialisers=[weights])
    result = rewrite(model)
    assert "float32" in result.changes[0].rpartition("they are all")[2]
    assert run(result.model)[0, 0] == pytest.approx(1.2, abs=1e-6)


def test_columns_of_types_that_nothing_reconciles_are_left_to_be_refused(examiner: Examiner) -> None:
    """With what to do before the next export."""
    model = mixed(helper.make_node("Not", ["both"], ["score"]))
    assert rewrite(model).changes == ()
    answer = examiner.examine(upload_of(model.SerializeToString()), Limits(), mending=True)
    assert answer.check == "checker"
    assert 'astype({"COLUMN": "float32"})' in answer.message


def test_the_hostile_corpus_is_refused_by_the_same_checks_where_models_are_rewritten(examiner: Examiner) -> None:
    """Registration rewrites, so this is the way that a hostile model really takes."""
    for name, case in CORPUS.items():
        answer = examiner.examine(case.upload, case.limits, mending=True)
        assert answer.check == case.check or name in MENDED, (name, answer)
        assert answer.check, name


def test_the_limits_come_before_anything_is_rewritten(examiner: Examiner) -> None:
    """A model of more parts than are taken is not even copied."""
    data = classifier({"classlabels_ints": [0, 1]}, zipmap=True)
    answer = examiner.examine(upload_of(data), Limits(messages=10), mending=True)
    assert answer.check == "limits"


@pytest.mark.stress
@pytest.mark.parametrize("kind", EXAMINED)
def test_mutated_models_that_need_rewriting_get_an_answer(examiner: Examiner, kind: str) -> None:
    """Whatever is changed of bytes, attributes and graph; the process that examines the next one goes on."""
    seed = random.Random(kind)
    model = ModelProto.FromString((FIXTURES / f"{kind}.onnx").read_bytes())
    found = read_kind(kind)
    golden = found.golden()
    for _ in range(300 if STRESS else 30):
        changed = ModelProto()
        changed.CopyFrom(model)
        if seed.random() < 0.5:
            seed.choice(GRAPH_MUTATIONS)(seed, changed)
        data = changed.SerializeToString() if seed.random() < 0.5 else mutant_of(seed, changed)
        upload = upload_of(data)._replace(
            golden=golden, golden_sha256=hashlib.sha256(golden).hexdigest(), document=found.document
        )
        answer = examiner.examine(upload, Limits(cpu_s=5, wall_s=20), mending=True)
        assert answer.check == "" or answer.check in set(Check)
        assert "died with code" not in answer.message, data.hex()
    assert examiner.examine(upload_of(good()), Limits(), mending=True) == ("", "")


def mutant_of(seed: random.Random, model: ModelProto) -> bytes:
    """The model with attributes or bytes changed, where its nodes have any."""
    with suppress(IndexError):  # a node without attributes was chosen
        return mutant(seed, model)
    return model.SerializeToString()


def _rename(seed: random.Random, model: ModelProto) -> None:
    names = [name for node in model.graph.node for name in (*node.input, *node.output)]
    node = seed.choice(model.graph.node)
    side = seed.choice((node.input, node.output))
    if side:
        side[seed.randrange(len(side))] = seed.choice([*names, "", "\n", "interlock_cast_0_0"])


def _repeat(seed: random.Random, model: ModelProto) -> None:
    copies = [seed.choice(model.graph.node)] * seed.choice((1, 50))
    model.graph.node.extend(copies)


def _retype(seed: random.Random, model: ModelProto) -> None:
    value = seed.choice([*model.graph.output, *model.graph.input])
    kinds = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.STRING, 0, 99)
    value.CopyFrom(helper.make_tensor_value_info(value.name, seed.choice(kinds), [None, seed.choice((1, 2, 2**40))]))


def _untype(seed: random.Random, model: ModelProto) -> None:
    seed.choice([*model.graph.output, *model.graph.input]).ClearField("type")


def _swap(seed: random.Random, model: ModelProto) -> None:
    node = seed.choice(model.graph.node)
    node.op_type = seed.choice(("ZipMap", "SequenceConstruct", "Concat", "Identity", "Cast"))
    node.domain = seed.choice(("", "ai.onnx", "ai.onnx.ml"))


def _drop(seed: random.Random, model: ModelProto) -> None:
    side: Any = seed.choice((model.graph.node, model.graph.input, model.graph.output, model.opset_import))
    if side:
        del side[seed.randrange(len(side))]


def _list(seed: random.Random, model: ModelProto) -> None:
    name = seed.choice([*(tensor.name for tensor in model.graph.initializer), model.graph.input[0].name])
    model.graph.initializer.append(constant(name, [seed.randrange(9)]))
    model.graph.input.add(name=name)


GRAPH_MUTATIONS: Final[tuple[Callable[[random.Random, ModelProto], None], ...]] = (
    _rename,
    _repeat,
    _retype,
    _untype,
    _swap,
    _drop,
    _list,
)


def upload_of(data: bytes) -> Upload:
    """The model with the corpus's document and golden rows."""
    return Upload(data, GOLDEN, hashlib.sha256(data).hexdigest(), hashlib.sha256(GOLDEN).hexdigest(), DOCUMENT, {})


def test_the_real_process_ends_with_a_clear_fault_or_the_rewritten_model() -> None:
    """Through the server's own side, which has the model that is registered from a file, and outlives all of it."""
    seed = random.Random(3)
    refusals = []
    data = (FIXTURES / "sklearn_mixed_columns.onnx").read_bytes()
    assert admitted("sklearn_mixed_columns", data) == rewrite(ModelProto.FromString(data)).model.SerializeToString(
        deterministic=True
    )
    for _ in range(4):
        try:
            admitted("sklearn_mixed_columns", mutant_of(seed, ModelProto.FromString(data)))
        except Fault as fault:
            refusals.append(fault)
    with pytest.raises(Fault) as caught:
        admitted("sklearn_mixed_columns", data, Limits(wall_s=0.2))
    assert caught.value.facts["check"] == "time"
    for refused in refusals:
        assert refused.reason is Reason.ADMISSION_REFUSED
        assert refused.facts["check"] in set(Check)


def admitted(kind: str, data: bytes, limits: Limits | None = None) -> bytes:
    """The model as it is registered."""
    found = read_kind(kind)
    with (
        tempfile.TemporaryFile() as model,
        tempfile.TemporaryFile() as golden,
        tempfile.TemporaryFile() as rewritten,
    ):
        for file, content in ((model, data), (golden, found.golden())):
            file.write(content)
            file.seek(0)
        digests = [hashlib.sha256(content).hexdigest() for content in (data, found.golden())]
        Admission(limits).admit(Candidate(model, golden, found.document, {}, digests[0], digests[1], rewritten))
        rewritten.seek(0)
        return rewritten.read() or data
