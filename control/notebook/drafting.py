"""Documents for who has a model and a sample: drafted from the graph, with the sample's names for its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import yaml

from control.notebook.sample import Sample, is_missing, slug

REQUIRED: Final = ("purpose", "owner")


def needs_extra(what: str) -> None:
    """Raises ImportError saying what to install where the base install alone is there."""
    if find_spec("onnx") is None:
        raise ImportError(f"{what} looks into ONNX files: install what that takes, pip install 'interlock[control]'")


def document_text(onnx: Path, sample: Sample | None, name: str, document: str | Path | Mapping[str, Any] | None) -> str:
    """The document as YAML: a file's text, or the drafted one with what a mapping says in the place of the draft's."""
    if document is not None and not isinstance(document, Mapping):
        return Path(document).read_text(encoding="utf-8")
    from control.registry.init import draft

    given = dict(document or {})
    if absent := [key for key in REQUIRED if not given.get(key)]:
        raise ValueError(
            f"only a person knows {' and '.join(absent)}: say document="
            "{'purpose': 'what the model is for', 'owner': {'person': 'who answers for it'}}, "
            "or give the path of a model.yaml"
        )
    drafted: dict[str, Any] = yaml.safe_load(draft(onnx, name))
    if sample is not None and sample.named and "inputs" not in given:
        drafted["inputs"] = _renamed(drafted["inputs"], sample)
    if sample is not None and any(is_missing(value) for values in sample.columns.values() for value in values):
        drafted["nan"] = "allow"  # what the model was made with, it will be asked with
    return yaml.safe_dump({**drafted, **given}, sort_keys=False, allow_unicode=True)


def _renamed(inputs: list[dict[str, Any]], sample: Sample) -> list[dict[str, Any]]:
    """The drafted inputs under the sample's names, in the sample's order, unless the graph has those names itself.

    A graph without column names (one tensor of many columns) and a sample with as many are taken to agree in order:
    a model that was fitted on the sample's columns was exported in their order.
    """
    names = [slug(name) for name in sample.columns]
    drafted = [item["request"] for item in inputs]
    if set(drafted) <= set(names) or len(names) != len(drafted) or len(set(names)) != len(names):
        return inputs
    return [{**item, "request": name} for item, name in zip(inputs, names, strict=True)]
