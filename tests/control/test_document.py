"""Documents that people write: each problem is named by its key and line, and drafts need only what they ask for."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.registry.document import MAX_BYTES, load_yaml, read_model, read_view
from control.registry.init import draft, slug
from gateway.contract.errors import Fault, Reason
from gateway.contract.schema import FeatureView
from tests.control.hostile_models import DRAFTED, good

GOOD = f"""\
name: churn
task: binary
purpose: Who is about to leave.
owner:
  person: ana
entities: [subscriber]
views:
  usage: {"a" * 64}
inputs:
  - {{view: usage, feature: minutes, feeds: X}}
  - {{request: amount, type: float32, feeds: X}}
output:
  score: probabilities
  column: 1
decision:
  kind: threshold
  threshold: 5e-1
  hit: no
  otherwise: yes
tolerance: 1e-5
"""
VIEW = """\
name: usage
entity: subscriber
features:
  - {name: minutes, type: float32}
  - {name: state, type: string, default: "?"}
"""


def fault_of(text: str) -> Fault:
    """How a model document is refused."""
    with pytest.raises(Fault) as caught:
        read_model(text)
    assert caught.value.reason is Reason.DOCUMENT_INVALID
    return caught.value


def test_a_good_document_is_read() -> None:
    """Words stay words (`no` is no boolean), and 1e-5 is a number."""
    document = read_model(GOOD)
    assert document.tolerance == 1e-5
    assert document.decision.kind == "threshold"
    assert (document.decision.hit, document.decision.otherwise) == ("no", "yes")
    assert [item.column for item in document.inputs] == ["usage.minutes", "amount"]


def test_a_good_view_is_read() -> None:
    """In the order of its features."""
    assert [feature.name for feature in read_view(VIEW).features] == ["minutes", "state"]


@pytest.mark.parametrize(
    ("old", "new", "key", "line"),
    [
        ("name: churn", "name: Churn", "name", 1),
        ("task: binary", "task: guessing", "task", 2),
        ("purpose: Who is about to leave.", 'purpose: ""', "purpose", 3),
        ("purpose: Who is about to leave.\n", "", "purpose", 1),
        ("person: ana", "persona: ana", "owner.person", 4),
        ("entities: [subscriber]", "entities: [subscriber, subscriber]", "entities", 6),
        ("entities: [subscriber]", "entities: []", "entities", 6),
        (f"usage: {'a' * 64}", "usage: abc", "views.usage", 8),
        (f"  usage: {'a' * 64}", f"  other: {'a' * 64}", "views", 7),
        ("feature: minutes", "featur: minutes", "inputs.0.feature", 10),
        ("type: float32", "type: float31", "inputs.1.type", 11),
        ("request: amount, type: float32", "request: amount, type: float32, default: many", "inputs.1.default", 11),
        ("column: 1", "column: -1", "output.column", 14),
        ("kind: threshold", "kind: magic", "decision", 15),
        ("kind: threshold", "kind: argmax", "decision.threshold", 17),
        ("  threshold: 5e-1\n", "", "decision.threshold", 15),
        ("hit: no", "hit: 1", "decision.hit", 18),
        ("tolerance: 1e-5", "tolerance: 0", "tolerance", 20),
        ("tolerance: 1e-5", "tollerance: 1", "tollerance", 20),
        ("tolerance: 1e-5", "task: binary", "task", 20),
        ("tolerance: 1e-5", "segments: [nothing]", "segments", 20),
    ],
)
def test_what_is_wrong_is_named_by_key_and_line(old: str, new: str, key: str, line: int) -> None:
    """In the message for people, and as facts for programs."""
    assert old in GOOD
    fault = fault_of(GOOD.replace(old, new))
    assert fault.facts == {"key": key, "line": str(line)}
    assert f"line {line}: {key}: " in fault.message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "mapping"),
        ("- 1", "mapping"),
        ("just words", "mapping"),
        ("a: [1", "not YAML"),
        ("a: b: c", "not YAML"),
        ("a: \x07", "not YAML"),
        ("a: &x 1", "anchor"),
        ("a: [*x]", "alias"),
        ("a: !!python/object/apply:os.system [ls]", "tag"),
        ("a: !!binary aGk=", "tag"),
        ("a: 1\n---\nb: 2", "second document"),
        ("? [a]\n: 1", "not text"),
        ("a: {b: 1, b: 2}", "twice"),
        ("[" * 100_000, "deeper"),
        ("a: " + "[" * 5000 + "]" * 5000, "deeper"),
        ("a: [" + "1," * 60_000 + "]", "values"),
        ("a: " + "x" * MAX_BYTES, "larger"),
    ],
)
def test_what_is_no_plain_document_is_refused(text: str, says: str) -> None:
    """Bombs, tags, aliases and broken YAML, each with its reason."""
    assert says in fault_of(text).message


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Never another exception."""
    with suppress(Fault):
        load_yaml(text, "the document")


@given(st.text(alphabet="abc:-[]{}&*!?|>'\"%@`#,\n \t0", max_size=60))
def test_any_punctuation_is_read_or_refused(text: str) -> None:
    """Never another exception, near what YAML gives a meaning to."""
    with suppress(Fault):
        load_yaml(text, "the document")


def test_a_view_names_its_problems_too() -> None:
    """A feature without its default is named with the line that it is on."""
    with pytest.raises(Fault, match=r"line 5: features\.1: .*default"):
        read_view(VIEW.replace(', default: "?"', ""))


def drafted(tmp_path: Path, model: bytes, views: tuple[FeatureView, ...] = ()) -> str:
    """The draft of a model that lies in a file."""
    path = tmp_path / "My Churn-Model.onnx"
    path.write_bytes(model)
    return draft(path, views=views)


def test_a_draft_lacks_only_what_a_person_knows(tmp_path: Path) -> None:
    """Its faults name the purpose and the owner, and once they are there it is valid."""
    text = drafted(tmp_path, good())
    fault = fault_of(text)
    assert "purpose: must not be empty" in fault.message
    assert "owner.person: must not be empty" in fault.message
    document = read_model(completed(text))
    assert document.name == "my_churn_model"
    assert document.output.score == "score"
    assert [item.column for item in document.requested] == ["x_1", "x_2", "x_3"]


def test_a_draft_takes_features_of_the_views_given(tmp_path: Path) -> None:
    """As many as the input has columns, pinned by their hash."""
    features = [{"name": name, "type": "float32"} for name in ("calls", "minutes", "texts")]
    view = FeatureView.model_validate({"name": "usage", "entity": "subscriber", "features": features})
    document = read_model(completed(drafted(tmp_path, good(), (view,))))
    assert document.entities == ("subscriber",)
    assert document.views == {"usage": view.digest()}
    assert [item.column for item in document.stored] == ["usage.calls", "usage.minutes", "usage.texts"]


@pytest.mark.parametrize("name", sorted(DRAFTED))
def test_drafts_of_classifiers_guess_what_their_scores_mean(tmp_path: Path, name: str) -> None:
    """The task, the output and its labels; dictionaries of scores are explained."""
    model, task, says = DRAFTED[name]
    text = drafted(tmp_path, model)
    assert says in text
    assert read_model(completed(text)).task == task


def completed(text: str) -> str:
    """A draft as somebody fills it in."""
    return text.replace('purpose: ""', "purpose: Who leaves.").replace('person: ""', "person: ana")


def test_a_file_that_is_no_model_gets_no_draft(tmp_path: Path) -> None:
    """It says what the file is, by its name and not by its place."""
    with pytest.raises(Fault, match="pickle") as caught:
        drafted(tmp_path, b"\x80\x04N.")
    assert str(tmp_path) not in caught.value.message


@given(st.text(max_size=100))
def test_any_name_becomes_one_that_is_allowed(text: str) -> None:
    """So that a draft never names its model badly."""
    FeatureView.model_validate({"name": slug(text), "entity": "e", "features": [{"name": "a", "type": "float32"}]})
