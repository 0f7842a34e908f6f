"""What travels along the request path: columns of rows, asked for and answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum, IntFlag
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.contract.errors import Fault
from gateway.contract.schema import Dtype
from gateway.contract.tensors import Array


class Arm(IntEnum):
    """The arm that a row was assigned to, by its number on the wire and in the journal."""

    UNASSIGNED = 0
    CHAMPION = 1
    CHALLENGER = 2
    PINNED = 3


class Mark(IntFlag):
    """What holds for every row that a route answers, by its bit in the journal's flags."""

    UNAPPROVED = 4
    STEPPED_BACK = 8
    FALLBACK = 16


NO_INPUTS: Final[Mapping[str, tuple[Dtype, Sequence[Any]]]] = MappingProxyType({})
NO_TENSORS: Final[Mapping[str, Array]] = MappingProxyType({})


class Request(NamedTuple):
    """One call's rows, column by column. Nothing is checked yet but that it could be parsed."""

    model: str
    version: str
    """The version that the caller names, a number or a label; empty for none."""
    deadline_ns: int
    """When the caller stops waiting, on the monotonic clock."""
    entities: Mapping[str, Sequence[str]]
    """Keys by entity, one per row."""
    inputs: Mapping[str, tuple[Dtype, Sequence[Any]]] = NO_INPUTS
    """Request-time columns by name, with the type in which they came, one value per row."""
    single: bool = False
    """Whether the call is for one row by its nature, and not for a batch."""
    tensors: Mapping[str, Array] = NO_TENSORS
    """Instead of entities and inputs: tensors by name, each with the rows as its first dimension."""
    outputs: tuple[str, ...] | None = None
    """The graph's outputs that the call wants, none for all; None for a call that wants scores."""
    id: str = ""
    """What the caller knows the call by."""


class Answers(NamedTuple):
    """What one run of a version says of n rows, perhaps of several calls."""

    model: str
    version: int
    revision: int
    arm: Arm
    raw_prefix: bytes
    """16 hexadecimal digits; with the row's number in 12 more, the prediction's id."""
    first_row: int
    scores: list[float]
    """One per row; NaN where the row is in `errors`."""
    decisions: Sequence[str] | None
    rankings: Sequence[Sequence[tuple[str, float]]] | None
    outputs: Mapping[str, Array]
    """The graph's outputs by name, where the calls want them: each with the rows as its first dimension."""
    defaulted: list[int] | None
    """One per row; None where no stored feature took its default."""
    ages_ms: list[int] | None
    """One per row, -1 for rows without stored features; None for a model that takes none."""
    unknown: npt.NDArray[np.bool_] | None
    """Shape (n,): whether an entity has no stored features at all; None where all have."""
    stale: npt.NDArray[np.bool_] | None
    """Shape (n,): whether a default stands for a stale value; None where none does."""
    errors: Mapping[int, Fault]
    marks: int = 0
    """What holds for every row: bits of Mark."""
    mixed: Mixed | None = None
    """Instead of version, arm and first row, where these differ."""


class Mixed(NamedTuple):
    """What differs from row to row where the rows of one call were answered by several runs. One per row."""

    versions: list[int]
    arms: list[Arm]
    prediction_ids: list[str]


class Slice(NamedTuple):
    """The rows of one call among the answers of its run."""

    request: Request
    answers: Answers
    start: int
    stop: int
