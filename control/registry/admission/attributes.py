"""A node's attributes by name, as arrays. Pure."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from onnx import AttributeProto, NodeProto, numpy_helper

from control.registry.admission.report import Check, Limits, Refused

Array = npt.NDArray[Any]


class Attributes:
    """Attributes of one node; `width` is how many columns its first input has, where that is known."""

    def __init__(self, node: NodeProto, where: str, width: int | None, limits: Limits) -> None:
        self.where = where
        self.width = width
        self.limits = limits
        self._by_name: dict[str, AttributeProto] = {item.name: item for item in node.attribute}
        if len(self._by_name) != len(node.attribute):
            self.refuse("has an attribute twice")

    @property
    def names(self) -> list[str]:
        """The names of the attributes that are there."""
        return list(self._by_name)

    def count(self, name: str) -> int:
        """How many values an attribute has; 0 where it is absent."""
        item = self._by_name.get(name)
        if item is None:
            return 0
        if item.HasField("t"):
            return int(np.prod([*item.t.dims], dtype=np.int64))
        return len(item.floats) + len(item.ints) + len(item.strings)

    def number(self, name: str, default: int) -> int:
        """A whole number."""
        return self._by_name[name].i if name in self._by_name else default

    def text(self, name: str, default: str) -> str:
        """A text."""
        return self._by_name[name].s.decode(errors="replace") if name in self._by_name else default

    def integers(self, name: str) -> list[int]:
        """A list of whole numbers, empty where it is absent."""
        return list(self._by_name[name].ints) if name in self._by_name else []

    def array(self, name: str) -> npt.NDArray[np.int64]:
        """Whole numbers as an array."""
        return np.array(self.integers(name), np.int64)

    def tensor(self, name: str) -> Array:
        """A tensor, which must have one dimension; empty where it is absent."""
        if name not in self._by_name:
            return np.zeros(0)
        if not self._by_name[name].HasField("t") or len(self._by_name[name].t.dims) != 1:
            self.refuse(f"has {name} that is not a list")
        return numpy_helper.to_array(self._by_name[name].t)

    def texts(self, name: str) -> list[str]:
        """A list of texts, empty where it is absent."""
        return [text.decode(errors="replace") for text in self._by_name[name].strings] if name in self._by_name else []

    def refuse(self, what: str) -> NoReturn:
        """Raises what says that the node is not as it must be."""
        raise Refused(Check.TABULAR, f"{self.where} {what}; export the model again with a current converter")
