"""Alerts: whatever `interlock status` and a gateway can complain of has a name, and a paragraph under that name."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from control.cli.__main__ import app
from control.cli.explain import PARAGRAPHS
from gateway.contract.alerts import ALERTS, Alert, alert, at, identifier
from gateway.contract.errors import CATALOGUE, Reason

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for package in ("gateway", "control") for path in (ROOT / package).rglob("*.py"))
MENTIONED = re.compile(r"`interlock ([a-z][a-z ]*[a-z])")


def calls(name: str) -> Iterator[ast.Call]:
    """Every call of a function of that name in both packages."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
                if called == name:
                    yield node


def test_every_alert_and_every_reason_has_a_paragraph_of_its_own_name() -> None:
    """One name is never both, so that a page and a command can explain either."""
    assert set(ALERTS) == set(Alert)
    assert set(CATALOGUE) == set(Reason)
    assert not {str(which) for which in Alert} & {str(reason) for reason in Reason}
    assert not [name for name, paragraph in PARAGRAPHS.items() if paragraph[-1] not in ".)`"]


def test_every_alert_is_raised_somewhere_and_none_is_raised_without_its_name() -> None:
    """`alert` is the only way to an AlertText, which is all that a board, a report or a status takes."""
    raised = {ast.unparse(call.args[0]) for name in ("alert", "_report_problem") for call in calls(name)}
    assert {f"Alert.{which}" for which in Alert} <= raised
    assert raised <= {f"Alert.{which}" for which in Alert} | {"which"}
    made = [call for call in calls("AlertText") if not isinstance(call.args[0], ast.JoinedStr)]
    cut, read_back = "AlertText(problem[:LONGEST_PROBLEM])", "AlertText(gone.problem)"  # of alerts made elsewhere
    assert {ast.unparse(call) for call in made} <= {cut, read_back}


def test_problems_on_boards_and_reports_are_alerts() -> None:
    """Whatever a process shows as its problem is declared as an alert."""
    problems = {
        f"{path.relative_to(ROOT)}: {ast.unparse(node)}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.AnnAssign | ast.Assign)
        for target in ([node.target] if isinstance(node, ast.AnnAssign) else node.targets)
        if ast.unparse(target) in ("self.problem", "self._problem")
        if not re.search(r"AlertText|alert\(|describe\(|= None", ast.unparse(node))
    }
    assert {text for text in problems if not text.startswith("gateway/outcome_log.py")} == set()


@pytest.mark.parametrize("which", list(Alert))
def test_the_identifier_comes_first_wherever_an_alert_is_told(which: Alert) -> None:
    """A place is put behind it, so that programs and people find the name at once."""
    told = at("gateway g", at("worker 0", alert(which, "minutes/1: no")))
    assert told == f"{which}: gateway g: worker 0: minutes/1: no"
    assert identifier(told) is which


def test_what_a_newer_gateway_complains_of_is_told_as_it_is() -> None:
    """Without an identifier that this release would know."""
    assert identifier("SOMETHING_NEW: words") is None
    assert at("gateway g", "SOMETHING_NEW: words") == "gateway g: SOMETHING_NEW: words"


def test_paragraphs_name_only_commands_that_exist() -> None:
    """At three in the morning nobody wants to be sent to a command that is not there."""
    commands = {command.name for command in app.registered_commands}
    groups = {
        group.name: {command.name for command in group.typer_instance.registered_commands}
        for group in app.registered_groups
        if group.typer_instance is not None
    }

    def exists(name: str) -> bool:
        first, *rest = name.split()
        return (not rest or rest[0] in groups[first]) if first in groups else first in commands

    mentioned = {found for text in PARAGRAPHS.values() for found in MENTIONED.findall(text)}
    assert [name for name in mentioned if not exists(name)] == []


def test_the_command_line_explains_reasons_and_alerts_without_a_server() -> None:
    """And says what there is where a name is none."""
    run = [sys.executable, "-m", "control.cli", "explain"]
    told = subprocess.run([*run, "CRASH_LOOP", "feature_stale"], capture_output=True, text=True, check=True)
    assert "three times within a minute" in told.stdout
    assert "older than its time-to-live" in told.stdout.replace("\n", " ")
    refused = subprocess.run([*run, "NONSENSE"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "CRASH_LOOP" in refused.stderr
