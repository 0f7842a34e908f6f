"""Arguments that several commands take, and how they are read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import typer

from gateway.contract.errors import Fault, Reason


class Version(NamedTuple):
    """A version of a model, as people write it and as the audit trail names it: churn/2."""

    model: str
    number: int

    def __str__(self) -> str:
        return f"{self.model}/{self.number}"


def parse_version(text: str) -> Version:
    """Reads MODEL/VERSION."""
    model, _, number = text.rpartition("/")
    if not model or not number.isdecimal() or int(number) < 1:
        raise typer.BadParameter(f"{text!r} is not MODEL/VERSION, such as churn/2; `interlock model list` shows them")
    return Version(model, int(number))


VERSION: Final = typer.Argument(parser=parse_version, metavar="MODEL/VERSION", help="The version, such as churn/2.")
VersionArgument = Annotated[Version, VERSION]
ExistingFile = Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True)]


def read_text(path: Path) -> str:
    """A file's content; what is no UTF-8 text is refused."""
    return "".join(read_lines(path))


def read_lines(path: Path) -> Iterator[str]:
    """A file's lines with their ends; what is no UTF-8 text is refused."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            yield from file
        except UnicodeDecodeError:
            raise Fault(Reason.ARGUMENT_INVALID, f"{path} is not UTF-8 text; save it as UTF-8") from None


def read_pairs(given: list[str], option: str) -> dict[str, str]:
    """Reads NAME=VALUE options."""
    found: dict[str, str] = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not name or not equals:
            raise Fault(Reason.ARGUMENT_INVALID, f"{option} {item}: must be NAME=VALUE")
        if name in found:
            raise Fault(Reason.ARGUMENT_INVALID, f"{option} {item}: {name} is given twice")
        found[name] = value
    return found
