"""What exporters write by default and no gateway can serve, rewritten into what it can: same names, tensors only. Pure.

Runs in the disposable process, after the limits and before the checks: what is checked, run on the golden rows and
registered is the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper
from onnx.checker import ValidationError
from onnx.shape_inference import InferenceError, infer_shapes

MIN_IR_WITHOUT_LISTED: Final = 4
"""The oldest format in which an initialiser need not be listed among the inputs."""
OPSET: Final = 13
"""The operator set of what is put in, where the model uses none of its own."""
STANDARD: Final = frozenset({"", "ai.onnx"})
LABELS: Final = ("classlabels_strings", "classlabels_int64s")
"""Where ZipMap names its keys."""
TARGETS: Final = ("n_targets", "targets")
"""Where a regression says how many columns it gives."""
MAX_TARGETS: Final = 1_000_000
FLOATS: Final = (TensorProto.DOUBLE, TensorProto.FLOAT)
"""What columns of several types are cast to: without loss, or else as the converter took them to be."""
NOT_INFERRED: Final = (InferenceError, ValidationError, ValueError, RuntimeError)


class Rewritten(NamedTuple):
    """A model, and what was changed of it, in sentences for its owner; nothing where it was good as it came."""

    model: ModelProto
    changes: tuple[str, ...]


def rewrite(model: ModelProto) -> Rewritten:
    """Makes tensors of dictionaries and sequences, columns of one type, and constants of listed initialisers.

    The model itself stays as it is.
    """
    result = ModelProto()
    result.CopyFrom(model)
    changes = [*_unlisted(result), *_widened(result)]
    changes += [*_settled(result)] or [*_flattened(result)]
    if changes and not any(entry.domain in STANDARD for entry in result.opset_import):
        result.opset_import.append(helper.make_opsetid("", OPSET))
    return Rewritten(result, tuple(changes))


def _unlisted(model: ModelProto) -> Iterator[str]:
    """Takes the initialisers out of the inputs."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if listed := len(model.graph.input) - len(inputs):
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        model.ir_version = max(model.ir_version, MIN_IR_WITHOUT_LISTED)
        yield f"{listed} initialisers were listed as inputs; they are constants of the registered graph"


def _widened(model: ModelProto) -> Iterator[str]:
    """Declares as many columns of a regression as it says itself that it has: converters declare one."""
    outputs = {value.name: value for value in model.graph.output}
    for node in model.graph.node:
        targets = next((item.i for item in node.attribute if item.name in TARGETS), 0)
        for name in node.output if node.domain == "ai.onnx.ml" and 1 < targets <= MAX_TARGETS else ():
            dims = outputs[name].type.tensor_type.shape.dim if name in outputs else []
            if len(dims) == 2 and dims[1].HasField("dim_value") and dims[1].dim_value != targets:
                yield f"output {name} was declared {dims[1].dim_value} wide, but is {targets} wide; now it says so"
                dims[1].dim_value = targets


def _settled(model: ModelProto) -> Iterator[str]:
    """Casts what a Concat joins to one type, where it joins float32 and float64: no runtime loads such a graph."""
    for kind in FLOATS if (mixed := _mixed(model)) else ():
        candidate = _cast(model, mixed, kind)
        changes = [*_flattened(candidate)]
        if _agrees(candidate):
            model.CopyFrom(candidate)
            yield (
                f"{len(mixed)} of its nodes put float32 and float64 columns side by side, which no runtime loads; in "
                f"the registered graph they are all float{64 if kind == TensorProto.DOUBLE else 32}"
            )
            yield from changes
            return


def _mixed(model: ModelProto) -> dict[int, list[int]]:
    """The nodes that join float32 and float64, by place, with the type of each input."""
    joining = [i for i, node in enumerate(model.graph.node) if node.op_type == "Concat" and node.domain in STANDARD]
    if not joining or not _has_doubles(model):
        return {}
    types = _types(model)
    kinds = {index: [types.get(name, 0) for name in model.graph.node[index].input] for index in joining}
    return {index: found for index, found in kinds.items() if {*found} == {*FLOATS}}


def _has_doubles(model: ModelProto) -> bool:
    return any(value.type.tensor_type.elem_type == TensorProto.DOUBLE for value in model.graph.input) or any(
        tensor.data_type == TensorProto.DOUBLE for tensor in model.graph.initializer
    )


def _cast(model: ModelProto, mixed: Mapping[int, list[int]], kind: int) -> ModelProto:
    """The model with whatever these nodes join cast to one type."""
    result = ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    for index, node in enumerate(model.graph.node):
        joins = NodeProto()
        joins.CopyFrom(node)
        for place, given in enumerate(mixed.get(index, ())):
            if given != kind:
                joins.input[place] = f"interlock_cast_{index}_{place}"
                result.graph.node.append(helper.make_node("Cast", [node.input[place]], [joins.input[place]], to=kind))
        result.graph.node.append(joins)
    return result


def _agrees(model: ModelProto) -> bool:
    """Whether the types of the whole graph fit each other."""
    try:
        infer_shapes(model, check_type=True, strict_mode=True)
    except NOT_INFERRED:
        return False
    return True


def _flattened(model: ModelProto) -> Iterator[str]:
    """Makes a tensor of each output that is a list of dictionaries or of tensors."""
    outputs = {value.name: value for value in model.graph.output if not value.type.HasField("tensor_type")}
    found = [
        node for node in model.graph.node if len(node.output) == 1 and node.output[0] in outputs and len(node.input) > 0
    ]
    types = _types(model) if found else {}
    for node in found:
        output, kind = outputs[node.output[0]], types.get(node.input[0]) or TensorProto.FLOAT
        if node.op_type == "ZipMap" and node.domain == "ai.onnx.ml" and (labels := _labels(node)):
            yield _unzipped(node, output, kind, labels)
        elif node.op_type == "SequenceConstruct" and node.domain in STANDARD:
            yield _joined(node, output, kind)


def _labels(node: NodeProto) -> int:
    """How many keys its dictionaries have."""
    return next((len(item.strings) or len(item.ints) for item in node.attribute if item.name in LABELS), 0)


def _unzipped(node: NodeProto, output: ValueInfoProto, kind: int, labels: int) -> str:
    """Makes the node pass its scores on as they are."""
    del node.attribute[:]
    node.op_type, node.domain = "Identity", ""
    _retype(output, kind, labels)
    return (
        f"output {output.name} gave a dictionary for each row (ZipMap); in the registered graph it is a tensor of "
        f"{labels} columns, in the order of the labels"
    )


def _joined(node: NodeProto, output: ValueInfoProto, kind: int) -> str:
    """Makes the node put the tensors of its sequence side by side."""
    count = len(node.input)
    del node.attribute[:]
    node.op_type = "Concat"
    node.attribute.append(helper.make_attribute("axis", 1))
    _retype(output, kind, 0)
    return (
        f"output {output.name} was a sequence of {count} tensors; in the registered graph their columns lie side by "
        "side in one"
    )


def _retype(output: ValueInfoProto, kind: int, columns: int) -> None:
    output.type.CopyFrom(helper.make_tensor_value_info(output.name, kind, [None, columns or None]).type)


def _types(model: ModelProto) -> dict[str, int]:
    """The element type of each tensor of the graph, as far as it can be told."""
    try:
        graph = infer_shapes(model).graph
    except NOT_INFERRED:
        return {}
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input)}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}
