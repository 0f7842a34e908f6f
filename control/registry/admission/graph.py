"""The parsed model against limits and rules: nothing external, nothing nested, nothing unbounded. Pure."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from onnx import IR_VERSION, ModelProto, defs

from control.registry.admission.report import Check, Limits, Refused

MIN_IR: Final = 3
DOMAINS: Final[Mapping[str, int]] = {"": 7, "ai.onnx": 7, "ai.onnx.ml": 1}
"""The operator sets that may be used, each with the oldest version taken."""

CONTROL_FLOW: Final = frozenset({"Loop", "Scan", "If", "SequenceMap"})
RANDOM: Final = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
TRAINING: Final = frozenset({"Gradient", "Adagrad", "Adam", "Momentum"})
OTHER: Final[Mapping[str, str]] = {
    "Optional": "optional values are no scores",
    "OptionalGetElement": "optional values are no scores",
    "OptionalHasElement": "optional values are no scores",
    "ImageDecoder": "images are no features",
    "EPContext": "compiled code cannot be checked",
    "PyOp": "it runs Python code",
}


class Part(NamedTuple):
    """A message within the model."""

    where: str
    kind: str
    """Its type: NodeProto, TensorProto and so on."""
    message: Any


def parse(data: bytes) -> ModelProto:
    """Parses the bytes, and reads no other file whatever they say."""
    try:
        return ModelProto.FromString(data)
    except DecodeError:
        raise Refused(
            Check.PARSE, "the file is no ONNX model, or nested too deeply: truncated or damaged? Export it again"
        ) from None


def check_limits(model: ModelProto, limits: Limits) -> list[Part]:
    """Refuses a model of more parts than are taken, or with parts in other files; gives all of its parts."""
    _check_counts(model, limits)
    parts = list(_bounded(model, limits))
    for part in parts:
        _check_external(part)
    return parts


def check_graph(model: ModelProto, limits: Limits) -> None:
    """Refuses a model that breaks a rule which can be told from its graph alone."""
    parts = check_limits(model, limits)
    _check_model(model)
    for part in parts:
        _check_part(part, limits)
    _check_values(model, limits)


def operators(model: ModelProto) -> dict[str, int]:
    """How often each operator occurs."""
    return dict(sorted(Counter(node.op_type for node in model.graph.node).items()))


def _check_counts(model: ModelProto, limits: Limits) -> None:
    graph = model.graph
    for what, count, most in (
        ("nodes", len(graph.node), limits.nodes),
        ("inputs", len(graph.input), limits.inputs),
        ("outputs", len(graph.output), limits.outputs),
        ("initialisers", len(graph.initializer), limits.nodes),
        ("entries of metadata", len(model.metadata_props) + len(graph.metadata_props), limits.metadata_entries),
        ("operator sets", len(model.opset_import), 16),
    ):
        if count > most:
            raise Refused(Check.LIMITS, f"the model has {count} {what}; {most} are taken")


def _bounded(model: ModelProto, limits: Limits) -> Iterator[Part]:
    for count, part in enumerate(_parts(model), 1):
        if count > limits.messages:
            raise Refused(Check.LIMITS, f"the model has more than {limits.messages} parts")
        yield part


def _parts(model: ModelProto) -> Iterator[Part]:
    """Every message of the model, wherever a field of whatever name may hide it."""
    waiting: list[tuple[str, Message]] = [("model", model)]
    while waiting:
        where, message = waiting.pop()
        yield Part(where, message.DESCRIPTOR.name, message)
        for field, value in message.ListFields():
            if field.type != FieldDescriptor.TYPE_MESSAGE:
                continue
            if field.is_repeated:
                waiting += ((f"{where}.{field.name}[{index}]", item) for index, item in enumerate(value))
            else:
                waiting.append((f"{where}.{field.name}", value))


def _check_external(part: Part) -> None:
    if part.kind == "TensorProto" and (part.message.data_location != 0 or part.message.external_data):
        raise Refused(
            Check.EXTERNAL_DATA,
            f"{part.where} keeps its data in another file; save the model with all data inside: "
            "torch.onnx.export(..., external_data=False), or onnx.save_model(onnx.load(path), path)",
        )


def _check_model(model: ModelProto) -> None:
    if model.functions:
        raise Refused(
            Check.FUNCTIONS, "the model defines functions; inline them with onnx.inliner.inline_local_functions"
        )
    if model.training_info:
        raise Refused(Check.OPERATORS, "the model has training_info; export it for inference")
    if model.configuration:
        raise Refused(Check.OPERATORS, "the model is split over devices; export it for one processor")
    if not MIN_IR <= model.ir_version <= IR_VERSION:
        raise Refused(
            Check.OPERATORS,
            f"ir_version is {model.ir_version}; {MIN_IR} to {IR_VERSION} are taken: export it again with a lower "
            f"target_opset, or set model.ir_version = {IR_VERSION} before saving it",
        )
    _check_operator_sets(model)


def _check_operator_sets(model: ModelProto) -> None:
    newest = {"": defs.onnx_opset_version(), "ai.onnx": defs.onnx_opset_version(), "ai.onnx.ml": 5}
    versions: dict[str, int] = {}
    for entry in model.opset_import:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        # skl2onnx imports a set twice, which says nothing new; two versions of one would be a contradiction.
        if versions.setdefault(domain, entry.version) != entry.version:
            raise Refused(Check.OPERATORS, f"the operator set {domain or 'ai.onnx'!r:.80} is imported in two versions")
        if domain not in DOMAINS:
            raise Refused(Check.OPERATORS, _foreign(entry.domain))
        if not DOMAINS[domain] <= entry.version <= newest[domain]:
            raise Refused(
                Check.OPERATORS,
                f"operator set {domain or 'ai.onnx'} has version {entry.version}; {DOMAINS[domain]} to "
                f"{newest[domain]} are taken: export it with another target_opset",
            )


def _check_part(part: Part, limits: Limits) -> None:
    match part.kind:
        case "NodeProto":
            _check_node(part)
        case "AttributeProto":
            _check_attribute(part, limits)
        case "TypeProto":
            _check_type(part)
        case "TensorAnnotation" | "SparseTensorProto":
            raise Refused(Check.TENSORS, f"{part.where} is a {part.kind}; only dense tensors are taken")
    _check_text(part, limits)


def _check_node(part: Part) -> None:
    node = part.message
    if node.op_type in OTHER:
        raise Refused(Check.OPERATORS, f"{part.where} is {node.op_type}: {OTHER[node.op_type]}")
    if node.domain not in DOMAINS:
        raise Refused(Check.OPERATORS, f"{part.where} ({node.op_type!r:.80}): {_foreign(node.domain)}")
    if node.op_type in CONTROL_FLOW:
        raise Refused(Check.SUBGRAPHS, f"{part.where} is {node.op_type}; models with control flow are not taken")
    if node.op_type in RANDOM:
        raise Refused(Check.OPERATORS, f"{part.where} is {node.op_type}; the same input must have the same score")
    if node.op_type in TRAINING:
        raise Refused(Check.OPERATORS, f"{part.where} is {node.op_type}; export the model for inference")
    if node.overload or node.device_configurations:
        raise Refused(Check.OPERATORS, f"{part.where} names an overload or a device; export it for one processor")


def _foreign(domain: str) -> str:
    return (
        f"operators of domain {domain!r:.80} are not taken, only those of ai.onnx and ai.onnx.ml: "
        "export the model without optimisations for a certain runtime"
    )


def _check_attribute(part: Part, limits: Limits) -> None:
    attribute = part.message
    if attribute.HasField("g") or attribute.graphs:
        raise Refused(Check.SUBGRAPHS, f"{part.where} holds a graph; models with control flow are not taken")
    if attribute.ref_attr_name:
        raise Refused(Check.FUNCTIONS, f"{part.where} refers to a function's attribute; inline the functions")
    for values in (attribute.floats, attribute.ints, attribute.strings, attribute.tensors, attribute.type_protos):
        if len(values) > limits.attribute_values:
            raise Refused(
                Check.LIMITS,
                f"{part.where} ({attribute.name!r:.80}) has {len(values)} values; {limits.attribute_values} are taken",
            )


def _check_type(part: Part) -> None:
    kind = part.message.WhichOneof("value")
    if kind != "tensor_type" and kind is not None:
        raise Refused(
            Check.SIGNATURE,
            f"{part.where} is a {kind.removesuffix('_type')}, not a tensor; for scikit-learn convert with "
            "options={id(model): {'zipmap': False}}, and a forest of several targets as a model for each target",
        )


def _check_text(part: Part, limits: Limits) -> None:
    for field, value in part.message.ListFields():
        if field.type not in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES) or field.name == "raw_data":
            continue
        texts = value if field.is_repeated else [value]
        longest = max(map(len, texts), default=0)
        if longest > limits.text_bytes:
            raise Refused(
                Check.LIMITS, f"{part.where}.{field.name} has {longest} characters; {limits.text_bytes} are taken"
            )
        if field.type == FieldDescriptor.TYPE_STRING and field.name in NAMES:
            for text in texts:
                _check_inner_name(f"{part.where}.{field.name}", text, limits)


NAMES: Final = frozenset({"name", "input", "output", "op_type", "domain", "dim_param"})
"""The fields that name things."""


def _check_inner_name(where: str, name: str | bytes, limits: Limits) -> None:
    if isinstance(name, bytes):  # what the parser makes of bytes that are no UTF-8
        raise Refused(Check.NAMES, f"{where} is not text; export the model again")
    if len(name) > 4 * limits.name_chars or not (name.isprintable() or not name):
        raise Refused(
            Check.NAMES, f"{where} is longer than {4 * limits.name_chars} or has characters that do not print"
        )


def _check_values(model: ModelProto, limits: Limits) -> None:
    """Names of inputs and outputs, which people and documents use, are stricter than those within."""
    inputs, outputs = ([value.name for value in side] for side in (model.graph.input, model.graph.output))
    for side, names in (("input", inputs), ("output", outputs)):
        if not names:
            raise Refused(Check.SIGNATURE, f"the graph has no {side}")
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise Refused(Check.SIGNATURE, f"the {side} {twice[0]!r:.80} is there twice")
        for name in names:
            _check_name(side, name, limits)
    if both := sorted(set(inputs) & {tensor.name for tensor in model.graph.initializer}):
        raise Refused(Check.SIGNATURE, f"the input {both[0]!r:.80} is an initialiser too; remove it from the inputs")


def _check_name(side: str, name: str, limits: Limits) -> None:
    good = (
        1 <= len(name) <= limits.name_chars
        and name.isprintable()
        and name == unicodedata.normalize("NFC", name)
        and not any(sign in name for sign in ("/", "\\", ".."))
    )
    if not good:
        raise Refused(
            Check.NAMES,
            f"the {side} {name!r:.80} needs another name: 1 to {limits.name_chars} characters that print, "
            "without slashes or `..`",
        )
