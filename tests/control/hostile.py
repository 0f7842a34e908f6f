"""The hostile corpus: models by name, made by scripts, each with the check that must refuse it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from tests.control.hostile_answers import answer_cases
from tests.control.hostile_files import file_cases
from tests.control.hostile_graphs import graph_cases
from tests.control.hostile_models import Case
from tests.control.hostile_tables import table_cases

CORPUS: Final[Mapping[str, Case]] = MappingProxyType(
    dict([*file_cases(), *graph_cases(), *table_cases(), *answer_cases()])
)
"""The corpus."""
