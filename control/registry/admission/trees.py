"""Tree ensembles: every array as long as the others, every index inside, every walk from a root ending. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from control.registry.admission.attributes import Attributes

Ints = npt.NDArray[np.int64]

MODES: Final = frozenset({"BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "LEAF"})
NEWER_MODES: Final = 7
"""How many modes the newer operator has, numbered from 0."""
MAX_DEPTH: Final = 1000
"""Levels of a tree: runtimes walk it recursively."""
MAX_ID: Final = 2**31


class Nodes(NamedTuple):
    """Nodes by their position; children are positions too, and meaningless where a node is a leaf."""

    true: Ints
    false: Ints
    is_leaf: npt.NDArray[np.bool_]
    roots: Ints


def _classifier(attributes: Attributes) -> None:
    labels = attributes.count("classlabels_strings") or attributes.count("classlabels_int64s")
    _ensemble(attributes, "class", labels)


def _regressor(attributes: Attributes) -> None:
    _ensemble(attributes, "target", attributes.number("n_targets", 1))


def _ensemble(attributes: Attributes, kind: str, results: int) -> None:
    """Both older operators; the leaves' weights are attributes that begin with `kind`."""
    nodes = attributes.array("nodes_nodeids")
    _check_size(attributes, len(nodes), results)
    _check_lengths(attributes, len(nodes))
    keys = _keys(attributes, attributes.array("nodes_treeids"), nodes)
    order = np.argsort(keys, kind="stable")
    if (np.diff(keys[order]) == 0).any():
        attributes.refuse("has a node twice")
    is_leaf = _leaves(attributes)
    trees = attributes.array("nodes_treeids")
    children = [
        _positions(attributes, trees, attributes.array(name), keys, order, ~is_leaf)
        for name in ("nodes_truenodeids", "nodes_falsenodeids")
    ]
    roots = np.unique(trees, return_index=True)[1].astype(np.int64)
    _check_walks(attributes, Nodes(children[0], children[1], is_leaf, roots))
    _check_features(attributes, attributes.array("nodes_featureids")[~is_leaf])
    _check_weights(attributes, kind, results, keys, order)


def _check_size(attributes: Attributes, nodes: int, results: int) -> None:
    if not 1 <= nodes <= attributes.limits.tree_nodes:
        attributes.refuse(f"has {nodes} nodes; 1 to {attributes.limits.tree_nodes} are taken")
    if not 1 <= results <= 100_000:
        attributes.refuse(f"has {results} results")


def _check_lengths(attributes: Attributes, n: int) -> None:
    for name in ("featureids", "treeids", "truenodeids", "falsenodeids", "modes"):
        if (count := attributes.count(f"nodes_{name}")) != n:
            attributes.refuse(f"has {count} of nodes_{name} for {n} nodes")
    for name in ("hitrates", "missing_value_tracks_true", "hitrates_as_tensor"):
        if (count := attributes.count(f"nodes_{name}")) not in (0, n):
            attributes.refuse(f"has {count} of nodes_{name} for {n} nodes")
    values = _either(attributes, "nodes_values")
    if values != n:
        attributes.refuse(f"has {values} of nodes_values for {n} nodes")


def _either(attributes: Attributes, name: str) -> int:
    """How many values the attribute has, as a list or as a tensor; both is a contradiction."""
    listed, tensor = attributes.count(name), attributes.count(f"{name}_as_tensor")
    if listed and tensor:
        attributes.refuse(f"has {name} and {name}_as_tensor")
    return listed + tensor


def _keys(attributes: Attributes, trees: Ints, nodes: Ints) -> Ints:
    """One number for each tree and node."""
    for ids in (trees, nodes):
        if len(ids) and (ids.min() < 0 or ids.max() >= MAX_ID):
            attributes.refuse("has a tree or node numbered below 0 or above 2^31")
    return trees << np.int64(32) | nodes


def _leaves(attributes: Attributes) -> npt.NDArray[np.bool_]:
    modes = attributes.texts("nodes_modes")
    if unknown := sorted(set(modes) - MODES):
        attributes.refuse(f"has the mode {unknown[0]!r:.40}")
    return np.fromiter((mode == "LEAF" for mode in modes), bool, len(modes))


def _positions(
    attributes: Attributes, trees: Ints, nodes: Ints, keys: Ints, order: Ints, used: npt.NDArray[np.bool_]
) -> Ints:
    """Where the nodes lie; those that are not used may be anything."""
    wanted = np.zeros(len(trees), np.int64)
    wanted[used] = _keys(attributes, trees[used], nodes[used])
    found = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)]
    if (keys[found] != wanted)[used].any():
        attributes.refuse("names a node that is not there")
    return found


def _check_walks(attributes: Attributes, nodes: Nodes) -> None:
    """Walks all trees at once, level by level. Branches may join again (sets are written so), but never go round."""
    reached = np.zeros(len(nodes.is_leaf), bool)
    level = nodes.roots
    for _ in range(MAX_DEPTH):
        reached[level] = True
        inner = level[~nodes.is_leaf[level]]
        if not len(inner):
            break
        level = np.unique(np.concatenate((nodes.true[inner], nodes.false[inner])))
    else:
        attributes.refuse(f"goes round in a circle, or is deeper than {MAX_DEPTH}")
    if not reached.all():
        attributes.refuse(f"has {int((~reached).sum())} nodes that no walk from a root reaches")


def _check_features(attributes: Attributes, features: Ints) -> None:
    most = MAX_ID if attributes.width is None else attributes.width
    if len(features) and (features.min() < 0 or features.max() >= most):
        bad = int(features.min()) if features.min() < 0 else int(features.max())
        attributes.refuse(f"looks at column {bad}, which its input does not have")


def _check_weights(attributes: Attributes, kind: str, results: int, keys: Ints, order: Ints) -> None:
    ids, weights = attributes.array(f"{kind}_ids"), _either(attributes, f"{kind}_weights")
    trees, nodes = attributes.array(f"{kind}_treeids"), attributes.array(f"{kind}_nodeids")
    if not len(ids) == len(trees) == len(nodes) == weights or not weights:
        attributes.refuse(f"has {len(ids)}, {len(trees)}, {len(nodes)} and {weights} of the four {kind}_ arrays")
    if ids.min() < 0 or ids.max() >= results:
        attributes.refuse(f"has {kind}_ids beyond its {results} results")
    _positions(attributes, trees, nodes, keys, order, np.ones(len(trees), bool))
    if (base := _either(attributes, "base_values")) not in (0, 1, results):
        attributes.refuse(f"has {base} base_values for {results} results")


def _newer(attributes: Attributes) -> None:
    """The operator that replaces both: children are positions of nodes or of leaves."""
    n, leaves = attributes.count("nodes_featureids"), attributes.count("leaf_targetids")
    results = attributes.number("n_targets", 1)
    _check_size(attributes, n, results)
    modes, weights = attributes.tensor("nodes_modes"), attributes.tensor("leaf_weights")
    names = ("nodes_truenodeids", "nodes_falsenodeids", "nodes_trueleafs", "nodes_falseleafs")
    lengths = [attributes.count(name) for name in names]
    if {*lengths, len(modes), len(attributes.tensor("nodes_splits"))} != {n} or len(weights) != leaves or not leaves:
        attributes.refuse(f"has arrays of unlike lengths for {n} nodes and {leaves} leaves")
    if len(modes) and (modes.min() < 0 or modes.max() >= NEWER_MODES):
        attributes.refuse("has a mode that there is not")
    targets, roots = attributes.array("leaf_targetids"), attributes.array("tree_roots")
    if targets.min() < 0 or targets.max() >= results:
        attributes.refuse(f"has leaf_targetids beyond its {results} results")
    if not len(roots) or roots.min() < 0 or roots.max() >= n:
        attributes.refuse("has tree_roots that are no nodes")
    _check_walks(attributes, _joined(attributes, n, leaves, roots))
    _check_features(attributes, attributes.array("nodes_featureids"))


def _joined(attributes: Attributes, n: int, leaves: int, roots: Ints) -> Nodes:
    """Nodes and leaves as one list, the leaves after the nodes."""
    children = []
    for side in ("true", "false"):
        ids, to_leaf = attributes.array(f"nodes_{side}nodeids"), attributes.array(f"nodes_{side}leafs") != 0
        if ids.min() < 0 or (ids >= np.where(to_leaf, leaves, n)).any():
            attributes.refuse("names a node or leaf that is not there")
        children.append(np.concatenate((np.where(to_leaf, ids + n, ids), np.zeros(leaves, np.int64))))
    return Nodes(children[0], children[1], np.arange(n + leaves) >= n, roots)


CHECKS: Final[Mapping[str, Callable[[Attributes], None]]] = {
    "TreeEnsembleClassifier": _classifier,
    "TreeEnsembleRegressor": _regressor,
    "TreeEnsemble": _newer,
}
"""The check of each operator."""
