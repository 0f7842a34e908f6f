"""From YAML that people write to documents, with every problem named by its key and line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import yaml
from pydantic import ValidationError

from gateway.contract.document import ModelDocument
from gateway.contract.errors import Fault, Reason
from gateway.contract.schema import Document, FeatureView

MAX_BYTES: Final = 256 << 10
MAX_DEPTH: Final = 16
MAX_NODES: Final = 50_000
MAX_PROBLEMS: Final = 5

Path = tuple[str | int, ...]
D = TypeVar("D", bound=Document)


class Loaded(NamedTuple):
    """What a YAML text says, and where it says it."""

    value: Any
    lines: Mapping[Path, int]
    """The line of each key and list element, by its path, counted from 1."""


class Problem(NamedTuple):
    """Something wrong with a document."""

    key: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.key}: {self.message}"


def read_model(text: str) -> ModelDocument:
    """Reads model.yaml; raises Fault naming the key and line of what is wrong."""
    return read(text, ModelDocument, "the model document")


def read_view(text: str) -> FeatureView:
    """Reads view.yaml; raises Fault naming the key and line of what is wrong."""
    return read(text, FeatureView, "the view definition")


def read(text: str, kind: type[D], what: str, complete: Callable[[dict[str, Any]], dict[str, Any]] = dict) -> D:
    """Reads a document of that kind; `complete` may add what the text leaves out. Raises Fault."""
    loaded = load_yaml(text, what)
    if not isinstance(loaded.value, dict):
        raise _fault(what, [Problem("document", 1, "must be a mapping of keys to values")])
    try:
        return kind.model_validate(complete(loaded.value))
    except ValidationError as error:
        raise _fault(what, _problems(error, loaded)) from None


def load_yaml(text: str, what: str) -> Loaded:
    """Reads YAML as data only: no tags, no aliases, no key twice, bounded in size and depth.

    Scalars are read as YAML 1.2 reads them, so that `no`, `on` and 1:30 stay text.
    """
    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise _fault(what, [Problem("document", 1, f"is larger than {MAX_BYTES >> 10} KiB")])
    try:
        _check_events(text, what)
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        message = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
        raise _fault(what, [Problem("document", mark.line + 1 if mark else 1, f"is not YAML: {message}")]) from None
    lines: dict[Path, int] = {(): 1}
    return Loaded(_value(node, (), lines, what), lines)


class _Loader(yaml.SafeLoader):
    """Knows the scalars of YAML 1.2's core schema, and nothing else."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("int", r"^[-+]?[0-9]{1,64}$", "-+0123456789"),
    (
        "float",
        r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,4})?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$",
        "-+0123456789.",
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


def _check_events(text: str, what: str) -> None:
    """Looks at the flat stream of events first, because building the tree of a deep document overflows the stack."""
    depth = nodes = documents = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _fault(what, [Problem("document", line, "has an anchor or alias (& or *); write the value out")])
        if tag := getattr(event, "tag", None):
            raise _fault(what, [Problem("document", line, f"has a tag ({tag[:60]}); plain values only")])
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        nodes += isinstance(event, yaml.NodeEvent)
        documents += isinstance(event, yaml.DocumentStartEvent)
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            raise _fault(
                what, [Problem("document", line, f"is deeper than {MAX_DEPTH} or has over {MAX_NODES} values")]
            )
        if documents > 1:
            raise _fault(what, [Problem("document", line, "starts a second document; one per file")])


def _value(node: yaml.Node | None, path: Path, lines: dict[Path, int], what: str) -> Any:
    match node:
        case yaml.MappingNode():
            return _mapping(node, path, lines, what)
        case yaml.SequenceNode():
            for index, item in enumerate(node.value):
                lines[*path, index] = item.start_mark.line + 1
            return [_value(item, (*path, index), lines, what) for index, item in enumerate(node.value)]
        case yaml.ScalarNode():
            return _scalar(node)
    return None


def _mapping(node: yaml.MappingNode, path: Path, lines: dict[Path, int], what: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise _fault(what, [Problem(_dotted(path), line, "has a key that is not text")])
        name = str(key.value)
        if name in found:
            raise _fault(what, [Problem(_dotted((*path, name)), line, "is there twice; keep one")])
        lines[*path, name] = line
        found[name] = _value(item, (*path, name), lines, what)
    return found


def _scalar(node: yaml.ScalarNode) -> str | int | float | bool | None:
    text: str = node.value
    match node.tag.removeprefix("tag:yaml.org,2002:"):
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            return int(text)
        case "float":
            return float(
                text.replace(".inf", "inf").replace(".Inf", "inf").replace(".INF", "inf").replace(".nan", "nan")
            )
    return text


def _problems(error: ValidationError, loaded: Loaded) -> list[Problem]:
    found: dict[str, Problem] = {}
    for item in error.errors(include_url=False, include_context=False):
        if not _concerns(item["loc"], loaded.value):
            continue
        path, line = _place(item["loc"], loaded)
        message = _plain(str(item["type"]), str(item["msg"]), item.get("input"))
        named = re.match(r"^([a-z_]+(?:\.[a-z_]+)*): (.*)$", message) if not path else None
        if named:  # rules across keys name theirs in the message
            path = tuple(named[1].split("."))
            line, message = loaded.lines.get(path[:1], line), named[2]
        key = _dotted(path)
        found.setdefault(key, Problem(key, line, message))
    return sorted(found.values(), key=lambda problem: problem.line)


def _concerns(loc: Sequence[str | int], value: Any) -> bool:
    """Whether an error is of the kind of input that was meant: one with `request`, or else a stored one."""
    if len(loc) < 3 or loc[2] not in ("StoredInput", "RequestInput"):
        return True
    item = value["inputs"][loc[1]]
    requested = isinstance(item, dict) and "request" in item
    return bool(loc[2] == ("RequestInput" if requested else "StoredInput"))


def _place(loc: Sequence[str | int], loaded: Loaded) -> tuple[Path, int]:
    """The path as the document has it, without what the schema puts between, and the nearest line."""
    path: Path = tuple(part for part in loc if part not in ("StoredInput", "RequestInput"))
    if path[:1] == ("decision",):
        path = path[:1] + path[2:]  # the second part is the kind, not a key
    at = path
    while at and at not in loaded.lines:
        at = at[:-1]
    return path, loaded.lines[at]


PLAIN: Final = {
    "missing": "is missing",
    "extra_forbidden": "is not a known key",
    "string_too_short": "must not be empty",
    "union_tag_not_found": "needs a `kind`",
}
"""What to say instead of the validation library's words."""


def _plain(kind: str, message: str, value: Any) -> str:
    if kind in PLAIN:
        return PLAIN[kind]
    message = message.removeprefix("Value error, ")
    if kind == "string_type" and isinstance(value, bool | int | float):
        return f"must be text; put {str(value).lower() if isinstance(value, bool) else value} in quotes"
    if kind == "string_pattern_mismatch":
        return f"{str(value)[:80]!r} does not match the pattern {message.split('pattern ')[-1]}"
    return message[:1].lower() + message[1:]


def _dotted(path: Path) -> str:
    return ".".join(str(part) for part in path) or "document"


def _fault(what: str, problems: list[Problem]) -> Fault:
    shown = "; ".join(str(problem) for problem in problems[:MAX_PROBLEMS])
    more = f"; and {len(problems) - MAX_PROBLEMS} more" if len(problems) > MAX_PROBLEMS else ""
    return Fault(Reason.DOCUMENT_INVALID, f"{what}: {shown}{more}", key=problems[0].key, line=str(problems[0].line))
