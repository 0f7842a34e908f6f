"""The operators for tables: their attributes describe arrays that index each other, and runtimes trust them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from onnx import ModelProto

from control.registry.admission.attributes import Attributes
from control.registry.admission.report import Check, Limits, Refused
from control.registry.admission.trees import CHECKS as TREES

MAX_CATEGORIES: Final = 1_000_000
MAX_WIDTH: Final = 1_000_000


def check_tabular(model: ModelProto, limits: Limits) -> None:
    """Refuses a node of ai.onnx.ml whose attributes contradict each other."""
    widths = _widths(model)
    for index, node in enumerate(model.graph.node):
        check = RULES.get(node.op_type)
        if check is None or node.domain != "ai.onnx.ml":
            continue
        where = f"node {index} ({node.op_type})"
        attributes = Attributes(node, where, widths.get(node.input[0]) if node.input else None, limits)
        check(attributes)


def _widths(model: ModelProto) -> dict[str, int]:
    """How many columns each value has, where the graph says so."""
    found: dict[str, int] = {}
    for value in (*model.graph.input, *model.graph.value_info):
        dims = value.type.tensor_type.shape.dim
        if len(dims) == 2 and dims[1].HasField("dim_value"):
            found[value.name] = dims[1].dim_value
    return found


def _label_encoder(attributes: Attributes) -> None:
    keys, values = _one_of(attributes, "keys_"), _one_of(attributes, "values_")
    if attributes.count("classes_strings"):
        return
    if keys != values or not keys:
        attributes.refuse(f"has {keys} keys and {values} values")


def _one_of(attributes: Attributes, prefix: str) -> int:
    counts = [attributes.count(name) for name in attributes.names if name.startswith(prefix)]
    if len(counts) > 1:
        attributes.refuse(f"has several of {prefix}*")
    return sum(counts)


def _scaler(attributes: Attributes) -> None:
    offset, scale = attributes.count("offset"), attributes.count("scale")
    if offset != scale or not offset:
        attributes.refuse(f"has {offset} offsets and {scale} scales")
    if attributes.width is not None and offset not in (1, attributes.width):
        attributes.refuse(f"has {offset} offsets for {attributes.width} columns")


def _linear_regressor(attributes: Attributes) -> None:
    _check_linear(attributes, attributes.number("targets", 1))


def _linear_classifier(attributes: Attributes) -> None:
    labels = attributes.count("classlabels_strings") or attributes.count("classlabels_ints")
    rows = attributes.count("intercepts")
    if labels and rows and rows != labels and (labels, rows) != (2, 1):
        attributes.refuse(f"has {labels} labels and {rows} intercepts")
    _check_linear(attributes, rows or labels)


def _check_linear(attributes: Attributes, rows: int) -> None:
    coefficients, intercepts = attributes.count("coefficients"), attributes.count("intercepts")
    if not 1 <= rows <= MAX_CATEGORIES or not coefficients or coefficients % rows:
        attributes.refuse(f"has {coefficients} coefficients for {rows} results")
    if intercepts not in (0, rows):
        attributes.refuse(f"has {intercepts} intercepts for {rows} results")
    if attributes.width is not None and coefficients != rows * attributes.width:
        attributes.refuse(f"has {coefficients} coefficients for {rows} results of {attributes.width} columns")


def _svm_regressor(attributes: Attributes) -> None:
    supports, vectors = attributes.number("n_supports", 0), attributes.count("support_vectors")
    coefficients = attributes.count("coefficients")
    if not coefficients or not attributes.count("rho"):
        attributes.refuse("has no coefficients or no rho")
    if supports < 0 or (supports and (coefficients != supports or not vectors or vectors % supports)):
        attributes.refuse(f"has {vectors} numbers and {coefficients} coefficients for {supports} support vectors")
    if not supports and vectors:
        attributes.refuse("has support vectors, but n_supports is 0")
    _check_svm_kernel(attributes)


def _svm_classifier(attributes: Attributes) -> None:
    labels = attributes.count("classlabels_strings") or attributes.count("classlabels_ints")
    per_class = attributes.integers("vectors_per_class")
    supports, coefficients = sum(per_class), attributes.count("coefficients")
    if labels < 1 or labels > 10_000 or any(count < 0 for count in per_class):
        attributes.refuse(f"has {labels} labels, or vectors_per_class below 0")
    if not coefficients or attributes.count("support_vectors") % max(supports, 1):
        attributes.refuse("has support vectors of unlike lengths, or no coefficients")
    if supports and (len(per_class) != labels or coefficients != supports * (labels - 1)):
        attributes.refuse(f"has {coefficients} coefficients for {supports} support vectors of {labels} classes")
    if not supports and (coefficients % labels or attributes.count("support_vectors")):
        attributes.refuse(f"has {coefficients} coefficients for {labels} classes")
    pairs = labels * (labels - 1) // 2 if supports else attributes.count("rho")
    for name in ("rho", "prob_a", "prob_b"):
        if attributes.count(name) not in ((pairs,) if name == "rho" else (0, pairs)):
            attributes.refuse(f"has {attributes.count(name)} of {name} for {pairs} pairs of classes")
    _check_svm_kernel(attributes)


def _check_svm_kernel(attributes: Attributes) -> None:
    kernel, params = attributes.text("kernel_type", "LINEAR"), attributes.count("kernel_params")
    if kernel not in ("LINEAR", "POLY", "RBF", "SIGMOID") or params not in (0, 3):
        attributes.refuse(f"has the kernel {kernel!r:.40} with {params} parameters; 3 are taken")


def _one_hot(attributes: Attributes) -> None:
    categories = [attributes.count("cats_int64s"), attributes.count("cats_strings")]
    if sum(bool(count) for count in categories) != 1 or max(categories) > MAX_CATEGORIES:
        attributes.refuse(f"has {sum(categories)} categories; 1 to {MAX_CATEGORIES} of one type are taken")


def _imputer(attributes: Attributes) -> None:
    counts = [attributes.count("imputed_value_floats"), attributes.count("imputed_value_int64s")]
    if sum(bool(count) for count in counts) != 1:
        attributes.refuse("needs imputed values of one type")
    if attributes.width is not None and max(counts) not in (1, attributes.width):
        attributes.refuse(f"has {max(counts)} imputed values for {attributes.width} columns")


def _normalizer(attributes: Attributes) -> None:
    if attributes.text("norm", "MAX") not in ("MAX", "L1", "L2"):
        attributes.refuse("has a norm other than MAX, L1 and L2")


def _feature_vectorizer(attributes: Attributes) -> None:
    widths = attributes.integers("inputdimensions")
    if not widths or min(widths) < 1 or sum(widths) > MAX_WIDTH:
        attributes.refuse(f"has inputdimensions that are below 1 or add up to more than {MAX_WIDTH}")


def _category_mapper(attributes: Attributes) -> None:
    if attributes.count("cats_int64s") != attributes.count("cats_strings"):
        attributes.refuse("has as many numbers as strings nowhere: cats_int64s and cats_strings differ in length")


def _dict_vectorizer(attributes: Attributes) -> None:
    attributes.refuse("takes dictionaries, which are no tensors; convert a model that takes columns")


def _zip_map(attributes: Attributes) -> None:
    raise Refused(
        Check.SIGNATURE,
        f"{attributes.where} makes dictionaries of the scores; convert with options={{id(model): {{'zipmap': False}}}}",
    )


RULES: Final[Mapping[str, Callable[[Attributes], None]]] = {
    **TREES,
    "LabelEncoder": _label_encoder,
    "Scaler": _scaler,
    "LinearRegressor": _linear_regressor,
    "LinearClassifier": _linear_classifier,
    "SVMRegressor": _svm_regressor,
    "SVMClassifier": _svm_classifier,
    "OneHotEncoder": _one_hot,
    "Imputer": _imputer,
    "Normalizer": _normalizer,
    "FeatureVectorizer": _feature_vectorizer,
    "CategoryMapper": _category_mapper,
    "DictVectorizer": _dict_vectorizer,
    "ZipMap": _zip_map,
}
"""The check of each operator that has one."""
