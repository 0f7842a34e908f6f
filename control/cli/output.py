"""What commands print: one JSON document for programs, or tables and sentences for people."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from rich.console import Console, RenderableType
    from rich.progress import Progress

PIPE_COLUMNS: Final = 200
"""Width where nobody looks: wide enough that grep sees whole rows."""
NS: Final = 1_000_000_000


class Output:
    """Prints results on standard output, and all else on standard error, so that a pipe gets results only."""

    def __init__(self, as_json: bool = False, verbose: bool = False) -> None:
        self.as_json = as_json
        self.verbose = verbose

    def result(self, document: object, *parts: RenderableType) -> None:
        """Prints the document as JSON, or the parts for people: strings as they are, so that they can be pasted."""
        if self.as_json:
            indent = 2 if sys.stdout.isatty() else None
            print(json.dumps(plain(document), ensure_ascii=False, indent=indent), flush=True)
            return
        stdout = console(sys.stdout)
        for part in parts:
            if isinstance(part, str):
                stdout.print(part, soft_wrap=True, markup=False)
            else:
                stdout.print(part)

    def note(self, text: str) -> None:
        """Says something to people that is no result."""
        if not self.as_json:
            console(sys.stderr).print(text, style="dim", markup=False)

    def detail(self, text: str) -> None:
        """Says something that only --verbose asks for."""
        if self.verbose:
            console(sys.stderr).print(text, style="dim", markup=False)

    def failure(self, reason: str, message: str, facts: Mapping[str, str]) -> None:
        """Says why a command failed."""
        if self.as_json:
            print(json.dumps({"reason": reason, "message": message, "facts": dict(facts)}), file=sys.stderr)
            return
        from rich.text import Text

        console(sys.stderr).print(Text.assemble((f"{reason}: ", "bold red"), message))

    def progress(self) -> AbstractContextManager[Progress | None]:
        """A progress display on standard error, where a person can see it."""
        if self.as_json or not sys.stderr.isatty():
            return nullcontext()
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        return Progress(*columns, console=console(sys.stderr), transient=True)


def console(stream: Any) -> Console:
    """A console that colours nothing by guesswork."""
    from rich.console import Console

    width = None if stream.isatty() else PIPE_COLUMNS
    return Console(file=stream, highlight=False, width=width, soft_wrap=not stream.isatty())


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> RenderableType:
    """Columns under their heads, as kubectl and docker print them."""
    from rich.table import Table
    from rich.text import Text

    found = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        found.add_column(column, overflow="fold")
    for row in rows:
        found.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    return found


def facts(pairs: Iterable[tuple[str, object]]) -> RenderableType:
    """Names and values, one pair a line."""
    from rich.table import Table
    from rich.text import Text

    found = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    found.add_column(style="bold", no_wrap=True)
    found.add_column(overflow="fold")
    for name, value in pairs:
        found.add_row(name, value if isinstance(value, Text) else Text(str(value)))
    return found


def text(words: str, style: str = "") -> RenderableType:
    """A sentence, printed as it is: brackets in it are no markup."""
    from rich.text import Text

    return Text(words, style=style)


def plain(value: object) -> object:
    """The value as JSON can hold it: messages become objects, NaN becomes null, canonical JSON inside is opened."""
    from google.protobuf.message import Message

    match value:
        case Message():
            return _message(value)
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case str() | int() | None:
            return value
        case float():
            return value if math.isfinite(value) else None
        case Iterable():
            return [plain(item) for item in value]
    return str(value)


def _message(message: Message) -> dict[str, object]:
    found: dict[str, object] = {}
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            continue
        value = getattr(message, field.name)
        if field.name.endswith("_json"):
            found[field.name.removesuffix("_json")] = _opened(value)
        else:
            found[field.name] = plain(_named(field, value))
    return found


def _opened(value: str) -> object:
    return json.loads(value) if value else None


def _named(field: Any, value: Any) -> object:
    """Enum numbers by their names, less the prefix that proto asks for: ARM_CHAMPION becomes champion."""
    enum = field.enum_type
    if enum is None:
        return value
    prefix = enum.values[0].name.removesuffix("UNSPECIFIED")
    names = [
        enum.values_by_number[number].name.removeprefix(prefix).lower() if number in enum.values_by_number else number
        for number in (value if field.is_repeated else [value])
    ]
    return names if field.is_repeated else names[0]


def moment(time_ns: int, now_ns: int | None = None) -> str:
    """A time for people: UTC to the second, and how long ago."""
    if time_ns <= 0:
        return ""
    at = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(time_ns // NS))
    now_ns = time.time_ns() if now_ns is None else now_ns
    return f"{at} ({span(now_ns - time_ns)} ago)" if now_ns >= time_ns else at


def span(length_ns: int) -> str:
    """A duration in its largest unit."""
    if 0 <= length_ns < NS:
        return f"{length_ns // 1_000_000} ms"
    seconds = length_ns // NS
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def short(digest: str) -> str:
    """As much of a digest as people compare."""
    return digest[:12]


def size(n_bytes: int) -> str:
    """A size in the unit that reads best."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.1f} {unit}"
    return f"{n_bytes} bytes"
