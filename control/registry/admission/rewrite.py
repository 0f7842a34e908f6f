"""What exporters write by default and no gateway can serve, rewritten into what it can: same names, tensors only. Pure.

Runs in the disposable process, before the checks: what is checked, run on the golden rows and registered is the result.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

MIN_IR_WITHOUT_LISTED: Final = 4
"""The oldest format in which an initialiser need not be listed among the inputs."""
OPSET: Final = 13
"""The operator set of what is put in, where the model uses none of its own."""


class Rewritten(NamedTuple):
    """A model, and what was changed of it, in sentences for its owner; nothing where it was good as it came."""

    model: ModelProto
    changes: tuple[str, ...]


def rewrite(model: ModelProto) -> Rewritten:
    """Replaces dictionaries and sequences among the outputs by tensors and unlists initialisers, on a copy."""
    result = ModelProto()
    result.CopyFrom(model)
    changes = _unlisted(result)
    outputs = {value.name: value for value in result.graph.output}
    for node in result.graph.node:
        if len(node.output) != 1 or node.output[0] not in outputs or not node.input:
            continue
        if node.op_type == "ZipMap" and node.domain == "ai.onnx.ml":
            changes.append(_unzipped(node, outputs[node.output[0]]))
        elif node.op_type == "SequenceConstruct" and node.domain in ("", "ai.onnx"):
            changes.append(_joined(node, outputs[node.output[0]]))
    if changes and not any(entry.domain in ("", "ai.onnx") for entry in result.opset_import):
        result.opset_import.append(helper.make_opsetid("", OPSET))
    return Rewritten(result, tuple(changes))


def _unlisted(model: ModelProto) -> list[str]:
    constants = {tensor.name for tensor in model.graph.initializer}
    listed = [value for value in model.graph.input if value.name in constants]
    for value in listed:
        model.graph.input.remove(value)
    if not listed:
        return []
    model.ir_version = max(model.ir_version, MIN_IR_WITHOUT_LISTED)
    return [f"{len(listed)} initialisers were listed as inputs; they are constants of the registered graph"]


def _unzipped(node: NodeProto, output: ValueInfoProto) -> str:
    """Makes the node pass its scores on as they are."""
    labels = next((len(item.strings) or len(item.ints) for item in node.attribute if item.name in LABELS), 0)
    del node.attribute[:]
    node.op_type, node.domain = "Identity", ""
    _retype(output, labels)
    return (
        f"output {output.name} gave a dictionary for each row (ZipMap); in the registered graph it is a tensor of "
        f"{labels} columns, in the order of the labels"
    )


def _joined(node: NodeProto, output: ValueInfoProto) -> str:
    """Makes the node put the tensors of its sequence side by side."""
    count = len(node.input)
    del node.attribute[:]
    node.op_type = "Concat"
    node.attribute.append(helper.make_attribute("axis", 1))
    _retype(output, 0)
    return (
        f"output {output.name} was a sequence of {count} tensors; in the registered graph their columns lie side by "
        "side in one"
    )


def _retype(output: ValueInfoProto, columns: int) -> None:
    typed = helper.make_tensor_value_info(output.name, TensorProto.FLOAT, [None, columns or None])
    output.type.CopyFrom(typed.type)


LABELS: Final = ("classlabels_strings", "classlabels_int64s")
"""Where ZipMap names its keys."""
