"""A control plane per module, and the people of most tests; a module that needs another one has its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from control.security import Role
from control.server import ControlPlane
from tests.control.planes import Client, client_for, running


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane without anything in it."""
    with running(tmp_path_factory.mktemp("control")) as plane:
        yield plane


@pytest.fixture(scope="module")
def mia(plane: ControlPlane) -> Client:
    """Who moves versions."""
    return client_for(plane, "mia", Role.ML_ENGINEER)


@pytest.fixture(scope="module")
def ben(plane: ControlPlane) -> Client:
    """Who approves them."""
    return client_for(plane, "ben", Role.APPROVER)
