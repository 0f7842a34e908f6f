"""Answers that read well, as text and in a notebook's cell. Pure."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

SHOWN: Final = 20
"""Rows that are printed; the rest is in the value."""
DIGITS: Final = 6


@dataclass(frozen=True, slots=True, repr=False)
class Table:
    """Rows under columns. Iterating gives each row by column name; `frame()` is a pandas DataFrame."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    title: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (dict(zip(self.columns, row, strict=True)) for row in self.rows)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return dict(zip(self.columns, self.rows[place], strict=True))

    def frame(self) -> Any:
        """The rows as a pandas DataFrame, where pandas is installed."""
        import pandas as pd

        return pd.DataFrame([list(row) for row in self.rows], columns=list(self.columns))

    def __repr__(self) -> str:
        cells = [list(self.columns), *([shown(cell) for cell in row] for row in self.rows[:SHOWN])]
        widths = [max(len(row[place]) for row in cells) for place in range(len(self.columns))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
        ]
        return "\n".join([*self._title(), *lines, *self._more()])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(column)}</th>" for column in self.columns)
        body = "".join(
            f"<tr>{''.join(f'<td>{html.escape(shown(cell))}</td>' for cell in row)}</tr>" for row in self.rows[:SHOWN]
        )
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        around = "".join(f"<p>{html.escape(line)}</p>" for line in (*self._title(), *self._more()))
        return around + table

    def _title(self) -> list[str]:
        return [self.title] if self.title else []

    def _more(self) -> list[str]:
        return [f"({len(self.rows) - SHOWN} more rows)"] if len(self.rows) > SHOWN else []


def shown(cell: object) -> str:
    """A cell as people read it."""
    match cell:
        case None:
            return ""
        case bool():
            return "yes" if cell else "no"
        case float():
            return f"{cell:.{DIGITS}g}"
        case str():
            return cell
        case list() | tuple():
            return ", ".join(map(shown, cell))
    return str(cell)
