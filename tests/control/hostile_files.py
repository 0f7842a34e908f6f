"""Hostile files: data that lies elsewhere, what is no model at all, and models with names or structure that mislead."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator

import numpy as np
from onnx import FunctionProto, ModelProto, TensorProto, helper

from control.registry.admission.report import Check
from tests.control.hostile_models import (
    Case,
    changed,
    constant,
    external,
    good,
    identity_graph,
    model_of,
    node_case,
    tree_node,
)


def file_cases() -> Iterator[tuple[str, Case]]:
    """The cases with their names."""
    yield from _external_cases()
    yield from _format_cases()
    yield from _structure_cases()


def _external_cases() -> Iterator[tuple[str, Case]]:
    places = {
        "dotdot": "../../etc/passwd",
        "mid-dotdot": "a/../../etc/passwd",
        "abs": "/etc/passwd",
        "same-directory-link": "link.bin",
        "fifo": "/tmp/fifo",
        "dev-zero": "/dev/zero",
        "procself-environ": "/proc/self/environ",
        "empty-location": "",
        "nul": "a\0b",
        "backslash": "..\\..\\secret",
        "url": "http://169.254.169.254/latest",
        "memaddr-marker": "*/_ORT_MEM_ADDR_/*",
    }
    for name, location in places.items():
        yield f"ext-{name}", _with_tensor(external(location))
    entries = {
        "neg-offset": {"offset": "-1"},
        "neg-length": {"length": "-1"},
        "petabyte": {"length": str(2**50)},
        "dunder-key": {"__class__": "x"},
        "offset-past-eof": {"offset": str(2**40)},
        "basepath-key": {"basepath": "/etc"},
    }
    for name, extra in entries.items():
        yield f"ext-{name}", _with_tensor(external(**extra))
    yield "ext-no-location", _with_tensor(external(None))
    unmarked = external()
    unmarked.data_location = TensorProto.DEFAULT
    yield "ext-entries-without-mark", _with_tensor(unmarked)
    inner = identity_graph()
    inner.initializer.append(external())
    yield (
        "ext-in-subgraph",
        node_case(helper.make_node("If", ["c"], ["score"], then_branch=inner, else_branch=inner), Check.EXTERNAL_DATA),
    )
    yield (
        "ext-in-attribute-tensor",
        node_case(helper.make_node("Constant", [], ["score"], value=external()), Check.EXTERNAL_DATA),
    )
    model = model_of()
    model.functions.append(FunctionProto(name="f", domain="d"))
    model.functions[0].node.append(helper.make_node("Constant", [], ["y"], value=external()))
    yield "ext-in-function", Case(model.SerializeToString(), Check.EXTERNAL_DATA)
    model = model_of()
    model.graph.sparse_initializer.add().values.CopyFrom(external())
    yield "ext-in-sparse", Case(model.SerializeToString(), Check.EXTERNAL_DATA)
    model = model_of()
    model.training_info.add().algorithm.initializer.append(external())
    yield "ext-in-training-info", Case(model.SerializeToString(), Check.EXTERNAL_DATA)


def _with_tensor(tensor: TensorProto) -> Case:
    return Case(changed(lambda model: model.graph.initializer.append(tensor)), Check.EXTERNAL_DATA)


def _format_cases() -> Iterator[tuple[str, Case]]:
    archive, tar = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../slip", b"\0" * 100_000)
    with tarfile.open(fileobj=tar, mode="w") as slip:
        slip.addfile(tarfile.TarInfo("../../slip"))
    formats = {f"pickle-{protocol}": pickle.dumps({"a": [1]}, protocol) for protocol in range(2, 6)}
    formats |= {
        "pickle-0": pickle.dumps({"a": [1]}, 0),
        "pickle-os-system": b"cos\nsystem\n(S'true'\ntR.",
        "joblib": b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05numpy\x94",
        "zip": archive.getvalue(),
        "empty-zip": b"PK\x05\x06" + b"\0" * 18,
        "tar-slip": tar.getvalue(),
        "gzip-bomb": gzip.compress(b"\0" * 10_000_000),
        "bzip2": b"BZh91AY&SY",
        "xz": b"\xfd7zXZ\x00\x00\x04",
        "zstd": b"\x28\xb5\x2f\xfd\x00\x00",
        "ort": b"\x18\0\0\0ORTM" + b"\0" * 64,
        "tflite": b"\x1c\0\0\0TFL3" + b"\0" * 64,
        "keras-h5": b"\x89HDF\r\n\x1a\n" + b"\0" * 64,
        "numpy": b"\x93NUMPY\x01\x00",
        "png": b"\x89PNG\r\n\x1a\n",
        "elf": b"\x7fELF\x02\x01",
        "html": b"<!DOCTYPE html><html><body>404</body></html>",
        "json-proto": b'{"irVersion": "8", "graph": {}}',
        "text-proto": b'ir_version: 8\ngraph {\n  name: "g"\n}\n',
        "text-with-bom": b"\xef\xbb\xbfhello",
        "script": b"#!/bin/sh\necho\x00\n",
        "empty": b"",
        "zeros": b"\0" * 1_000_000,
        "one-letter": b"A",
    }
    for name, data in formats.items():
        yield f"format-{name}", Case(data, Check.FORMAT)
    whole = good()
    layers = {
        "one-byte": b"\x08",
        "two-models": whole + whole,
        "second-graph": whole + field(7, model_of().graph.SerializeToString()),
        "second-producer": whole + field(2, b"a") + field(2, b"b"),
        "trailing-garbage": whole + b"\xff\xff\xff\xff",
        "trailing-zeros": whole + b"\0" * 8,
        "trailing-unknown-field": whole + field(99, b"hidden"),
        "unknown-group": whole + b"\x0b\x0c",
        "number-without-end": whole + b"\xff" * 11,
        "graph-as-number": b"\x08\x0a\x38\x01",
        "no-graph": b"\x08\x0a",
        "length-past-the-end": b"\x08\x0a\x3a\xff\xff\xff\xff\x07",
    }
    for name, data in layers.items():
        yield f"wire-{name}", Case(data, Check.WIRE)
    yield "wire-graph-is-noise", Case(b"\x08\x0a" + field(7, b"\xff" * 64), Check.PARSE)


def field(number: int, data: bytes) -> bytes:
    """A protobuf field of bytes."""
    return _number(number << 3 | 2) + _number(len(data)) + data


def _number(value: int) -> bytes:
    return bytes([value]) if value < 0x80 else bytes([value & 0x7F | 0x80]) + _number(value >> 7)


def _structure_cases() -> Iterator[tuple[str, Case]]:
    def renamed(name: str) -> Case:
        node = tree_node()
        node.output[0] = name
        return Case(model_of(node, outputs=(name,)).SerializeToString(), Check.NAMES)

    for name, text in {
        "slash": "a/b",
        "dotdot": "..",
        "backslash": "a\\b",
        "nul": "a\0b",
        "newline": "a\nb",
        "right-to-left": "a\u202eb",
        "zero-width": "a\u200bb",
        "not-composed": "e\u0301",
        "64-KiB": "a" * 65_536,
    }.items():
        yield f"name-{name}", renamed(text)
    yield "name-inner-nul", Case(changed(lambda m: setattr(m.graph.node[0], "name", "a\0")), Check.NAMES)
    yield "name-inner-64-KiB", Case(changed(lambda m: setattr(m.graph.node[0], "name", "a" * 65_536)), Check.NAMES)
    many = [f"y{index}" for index in range(10_000)]
    yield "outputs-10000", Case(model_of(tree_node(), outputs=("score", *many)).SerializeToString(), Check.LIMITS)
    yield "inputs-10000", Case(model_of(tree_node(), inputs=("X", *many)).SerializeToString(), Check.LIMITS)
    output = model_of().graph.output[0]
    twisted = good().replace(b"score", b"sc\xff\xfee")
    yield "name-not-utf-8", Case(twisted, Check.NAMES)
    yield "outputs-twice", Case(changed(lambda m: m.graph.output.append(output)), Check.SIGNATURE)
    yield "outputs-none", Case(changed(lambda m: m.graph.ClearField("output")), Check.SIGNATURE)
    yield "inputs-none", Case(changed(lambda m: m.graph.ClearField("input")), Check.SIGNATURE)
    weight = constant("w", [1.0])
    yield "initialiser-twice", Case(changed(lambda m: m.graph.initializer.extend([weight, weight])), Check.TENSORS)
    yield (
        "initialiser-is-input",
        Case(changed(lambda m: m.graph.initializer.append(constant("X", [[1.0] * 3], np.float32))), Check.SIGNATURE),
    )
    yield "ssa-violation", Case(model_of(tree_node(), tree_node()).SerializeToString(), Check.CHECKER)
    yield "undefined-input", node_case(helper.make_node("Identity", ["nowhere"], ["score"]), Check.CHECKER)
    cycle = [helper.make_node("Add", ["X", "b"], ["a"]), helper.make_node("Identity", ["a"], ["b"]), tree_node()]
    yield "cyclic-graph", Case(model_of(*cycle).SerializeToString(), Check.CHECKER)
    yield "type-contradicts", node_case(helper.make_node("Not", ["X"], ["score"]), Check.CHECKER)
    for name, version in {"999": 999, "0": 0, "negative": -1}.items():
        yield f"opset-{name}", Case(changed(_opset(version)), Check.OPERATORS)
        yield f"ir-{name}", Case(changed(_ir(version)), Check.OPERATORS)
    yield "opset-none", Case(changed(lambda m: m.ClearField("opset_import")), Check.CHECKER)
    yield "opset-twice", Case(changed(lambda m: m.opset_import.add(domain="", version=13)), Check.OPERATORS)


def _opset(version: int) -> Callable[[ModelProto], None]:
    return lambda model: setattr(model.opset_import[0], "version", version)


def _ir(version: int) -> Callable[[ModelProto], None]:
    return lambda model: setattr(model, "ir_version", version)
