"""What travels along the request path: columns of rows, asked for and answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.contract.errors import Fault
from gateway.contract.schema import Dtype


class Arm(IntEnum):
    """The arm that a row was assigned to, by its number on the wire and in the journal."""

    UNASSIGNED = 0
    CHAMPION = 1
    CHALLENGER = 2
    PINNED = 3


class Request(NamedTuple):
    """One call's rows, column by column. Nothing is checked yet but that it could be parsed."""

    model: str
    version: int
    """The version that the caller names; 0 for none."""
    entities: Mapping[str, Sequence[str]]
    """Keys by entity, one per row."""
    inputs: Mapping[str, tuple[Dtype, Sequence[Any]]]
    """Request-time columns by name, with the type in which they came, one value per row."""
    single: bool
    """Whether the call is for one row, whose error is the call's."""
    deadline_ns: int
    """When the caller stops waiting, on the monotonic clock."""


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
    defaulted: list[int] | None
    """One per row; None where no stored feature took its default."""
    ages_ms: list[int] | None
    """One per row, -1 for rows without stored features; None for a model that takes none."""
    unknown: npt.NDArray[np.bool_] | None
    """Shape (n,): whether an entity has no stored features at all; None where all have."""
    stale: npt.NDArray[np.bool_] | None
    """Shape (n,): whether a default stands for a stale value; None where none does."""
    errors: Mapping[int, Fault]


class Slice(NamedTuple):
    """The rows of one call among the answers of its run."""

    answers: Answers
    start: int
    stop: int
