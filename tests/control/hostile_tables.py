"""Hostile operators for tables: arrays that contradict each other or index what is not there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import NodeProto

from control.registry.admission.report import Check, Limits
from tests.control.hostile_models import (
    TREE,
    Case,
    constant,
    good,
    ml_node,
    model_of,
    node_case,
    tree_node,
)


def table_cases() -> Iterator[tuple[str, Case]]:
    """The cases with their names."""
    yield from _tree_cases()
    yield from _tabular_cases()


def _tree_cases() -> Iterator[tuple[str, Case]]:
    changes: dict[str, dict[str, Any]] = {
        "oob-target-id": {"target_ids": [0, 7]},
        "neg-target-id": {"target_ids": [0, -1]},
        "neg-featureid": {"nodes_featureids": [-1, 0, 0]},
        "featureid-past-width": {"nodes_featureids": [3, 0, 0]},
        "featureid-2-to-32": {"nodes_featureids": [2**32, 0, 0]},
        "self-loop": {"nodes_truenodeids": [0, 0, 0]},
        "cycle": {
            "nodes_modes": ["BRANCH_LEQ", "BRANCH_LEQ", "LEAF"],
            "nodes_truenodeids": [1, 0, 0],
            "nodes_falsenodeids": [2, 2, 0],
        },
        "child-missing": {"nodes_truenodeids": [9, 0, 0]},
        "neg-child": {"nodes_truenodeids": [-1, 0, 0]},
        "child-2-to-40": {"nodes_truenodeids": [2**40, 0, 0]},
        "node-twice": {"nodes_nodeids": [0, 1, 1]},
        "unreached": {"nodes_falsenodeids": [1, 0, 0]},
        "neg-tree": {"nodes_treeids": [-1, -1, -1]},
        "mode-unknown": {"nodes_modes": ["BRANCH_XOR", "LEAF", "LEAF"]},
        "base-values-size": {"base_values": [0.0, 0.0]},
        "no-targets": {"n_targets": 0},
        "many-targets": {"n_targets": 2**31},
        "weights-of-missing-node": {"target_nodeids": [1, 9]},
        "no-nodes": {name: [] for name in TREE if name.startswith("nodes_")},
        "values-twice": {"nodes_values_as_tensor": constant("v", [0.5, 0.0, 0.0], np.float32)},
        "no-leaf": {"nodes_modes": ["BRANCH_LEQ"] * 3, "nodes_falsenodeids": [2, 2, 1], "nodes_truenodeids": [1, 1, 2]},
    }
    changes |= {
        f"short-{name}": {name: value[:-1]}
        for name, value in TREE.items()
        if isinstance(value, list) and len(value) > 1
    }
    for name, change in changes.items():
        yield f"tree-{name}", node_case(tree_node(**change), Check.TABULAR)
    deep = 2000
    yield "tree-2000-deep", node_case(_chain_of_branches(deep), Check.TABULAR)
    node = tree_node()
    node.attribute.append(node.attribute[0])
    yield "tree-attribute-twice", node_case(node, Check.TABULAR)
    limits = Limits(tree_nodes=2)
    yield "tree-too-many-nodes", Case(good(), Check.TABULAR, limits=limits)
    yield from _classifier_cases()
    yield from _newer_tree_cases()


def _chain_of_branches(depth: int) -> NodeProto:
    n = 2 * depth + 1
    inner = range(depth)
    return tree_node(
        nodes_treeids=[0] * n,
        nodes_nodeids=[*range(n)],
        nodes_featureids=[0] * n,
        nodes_modes=["BRANCH_LEQ"] * depth + ["LEAF"] * (depth + 1),
        nodes_values=[0.5] * n,
        nodes_truenodeids=[index + 1 for index in inner] + [0] * (depth + 1),
        nodes_falsenodeids=[depth + 1 + index for index in inner] + [0] * (depth + 1),
        nodes_hitrates=None,
        nodes_missing_value_tracks_true=None,
        target_nodeids=[depth, depth + 1],
    )


def _classifier_cases() -> Iterator[tuple[str, Case]]:
    shared = {name: value for name, value in TREE.items() if name.startswith("nodes_")}
    weights = {"class_treeids": [0, 0], "class_nodeids": [1, 2], "class_ids": [0, 1], "class_weights": [1.0, 1.0]}
    for name, change in {
        "class-id-past-labels": {"class_ids": [0, 2], "classlabels_int64s": [0, 1]},
        "no-labels": {},
        "short-class-weights": {"class_weights": [1.0], "classlabels_int64s": [0, 1]},
    }.items():
        attributes = {**shared, **weights, **change}
        node = ml_node("TreeEnsembleClassifier", attributes, ("label", "score"))
        yield f"tree-classifier-{name}", node_case(node, Check.TABULAR)


def _newer_tree_cases() -> Iterator[tuple[str, Case]]:
    right: dict[str, Any] = {
        "n_targets": 1,
        "nodes_featureids": [0],
        "nodes_splits": constant("s", [0.5], np.float32),
        "nodes_modes": constant("m", [0], np.uint8),
        "nodes_truenodeids": [0],
        "nodes_falsenodeids": [1],
        "nodes_trueleafs": [1],
        "nodes_falseleafs": [1],
        "leaf_targetids": [0, 0],
        "leaf_weights": constant("w", [0.25, 0.75], np.float32),
        "tree_roots": [0],
    }
    for name, change in {
        "leaf-weights-scalar": {"leaf_weights": constant("w", 1.0, np.float32)},
        "leaf-weights-short": {"leaf_weights": constant("w", [0.25], np.float32)},
        "leaf-missing": {"nodes_falsenodeids": [5]},
        "neg-leaf": {"nodes_falsenodeids": [-1]},
        "target-past-targets": {"leaf_targetids": [0, 3]},
        "root-missing": {"tree_roots": [4]},
        "mode-unknown": {"nodes_modes": constant("m", [9], np.uint8)},
        "cycle": {"nodes_trueleafs": [0], "nodes_truenodeids": [0]},
        "featureid-past-width": {"nodes_featureids": [3]},
        "short-leafs": {"nodes_trueleafs": []},
    }.items():
        node = ml_node("TreeEnsemble", {**right, **change})
        model = model_of(node)
        model.opset_import[1].version = 5
        yield f"tree-newer-{name}", Case(model.SerializeToString(), Check.TABULAR)


def _tabular_cases() -> Iterator[tuple[str, Case]]:
    svm: dict[str, Any] = {"rho": [0.0], "kernel_type": "RBF", "kernel_params": [1.0, 0.0, 3.0]}
    per_class = {"classlabels_ints": [0, 1], "vectors_per_class": [1, 1], "support_vectors": [0.0] * 6, **svm}
    found: dict[str, tuple[str, dict[str, Any]]] = {
        "linear-coefficients": ("LinearRegressor", {"coefficients": [1.0, 2.0], "intercepts": [0.0]}),
        "linear-no-coefficients": ("LinearRegressor", {"intercepts": [0.0]}),
        "linear-targets": ("LinearRegressor", {"coefficients": [1.0] * 3, "targets": 2**31}),
        "linear-classifier": ("LinearClassifier", {"coefficients": [1.0] * 5, "classlabels_ints": [0, 1]}),
        "linear-classifier-intercepts": (
            "LinearClassifier",
            {"coefficients": [1.0] * 6, "intercepts": [0.0] * 3, "classlabels_ints": [0, 1]},
        ),
        "svm-oob-coefficients": ("SVMRegressor", {"n_supports": 2, "coefficients": [1.0], **svm}),
        "svm-vectors": (
            "SVMRegressor",
            {"n_supports": 2, "coefficients": [1.0] * 2, "support_vectors": [0.0] * 5, **svm},
        ),
        "svm-negative": ("SVMRegressor", {"n_supports": -1, "coefficients": [1.0], **svm}),
        "svm-classifier-coefficients": ("SVMClassifier", {"coefficients": [1.0], **per_class}),
        "svm-classifier-negative": (
            "SVMClassifier",
            {**per_class, "coefficients": [1.0] * 2, "vectors_per_class": [3, -1]},
        ),
        "svm-classifier-rho": ("SVMClassifier", {**per_class, "coefficients": [1.0] * 2, "rho": [0.0] * 3}),
        "svm-classifier-prob": ("SVMClassifier", {**per_class, "coefficients": [1.0] * 2, "prob_a": [0.0] * 3}),
        "svm-kernel": ("SVMClassifier", {**per_class, "coefficients": [1.0] * 2, "kernel_type": "MAGIC"}),
        "label-encoder": ("LabelEncoder", {"keys_floats": [0.0, 1.0], "values_floats": [1.0]}),
        "label-encoder-two-keys": (
            "LabelEncoder",
            {"keys_floats": [0.0], "keys_int64s": [0], "values_floats": [1.0]},
        ),
        "one-hot-none": ("OneHotEncoder", {}),
        "one-hot-both": ("OneHotEncoder", {"cats_int64s": [1], "cats_strings": ["a"]}),
        "one-hot-many": ("OneHotEncoder", {"cats_int64s": [*range(1_000_001)]}),
        "dict-vectorizer": ("DictVectorizer", {"int64_vocabulary": [1]}),
        "scaler": ("Scaler", {"offset": [0.0] * 3, "scale": [1.0] * 2}),
        "scaler-width": ("Scaler", {"offset": [0.0] * 2, "scale": [1.0] * 2}),
        "imputer-none": ("Imputer", {}),
        "imputer-width": ("Imputer", {"imputed_value_floats": [0.0] * 2}),
        "normalizer": ("Normalizer", {"norm": "L9"}),
        "feature-vectorizer": ("FeatureVectorizer", {"inputdimensions": [-1]}),
        "feature-vectorizer-wide": ("FeatureVectorizer", {"inputdimensions": [2**40]}),
        "category-mapper": ("CategoryMapper", {"cats_int64s": [1, 2], "cats_strings": ["a"]}),
    }
    for name, (operator, attributes) in found.items():
        yield f"tabular-{name}", node_case(ml_node(operator, attributes), Check.TABULAR)
