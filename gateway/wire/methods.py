"""The methods that the pipeline answers, by their full names."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from gateway.wire import Method, inference, scoring

METHODS: Final[Mapping[str, Method]] = MappingProxyType({**scoring.METHODS, **inference.METHODS})
