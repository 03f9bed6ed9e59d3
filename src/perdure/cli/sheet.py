"""A sheet: a table that is printed while its rows are read, however many there are.

A table of rich looks at every cell before it prints the first row, which takes a millisecond per row. Here the columns
are as wide as the first rows need, and grow when a later one needs more.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perdure.cli import screen

if TYPE_CHECKING:
    from rich.console import Console

_GAP = "  "
_LAST_MIN = 20
"""How narrow the last column may be on a terminal before its lines are left to the terminal."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its name, its colour, and the side to which its cells keep."""

    name: str
    style: str = ""
    is_right: bool = False


class Sheet:
    """Prints rows of text on stdout, below a line with the names of the columns."""

    def __init__(self, columns: Sequence[Column]) -> None:
        """Nothing is printed before the first rows."""
        self._columns = columns
        self._widths = [0] * (len(columns) - 1)
        self._is_empty = True
        self._console: Console = screen.answers()

    def add(self, rows: Iterable[Sequence[str]]) -> None:
        """Print rows. Cells of the last column may have several lines. A terminal folds long ones."""
        cells = list(rows)
        names = [column.name for column in self._columns]
        for row in [names, *cells]:
            for place, cell in enumerate(row[:-1]):
                self._widths[place] = max(self._widths[place], _width(cell))
        if self._is_empty and cells:
            self._is_empty = False
            sys.stdout.write("".join(self._lines(names, ["bright_black"] * len(names))))
        styles = [column.style for column in self._columns]
        for row in cells:
            sys.stdout.write("".join(self._lines(row, styles)))
        sys.stdout.flush()

    def _lines(self, row: Sequence[str], styles: Sequence[str]) -> Iterator[str]:
        head = [self._cell(place, cell, styles[place]) for place, cell in enumerate(row[:-1])]
        blank = " " * (sum(self._widths) + len(_GAP) * len(self._widths))
        for number, text in enumerate(self._folded(row[-1], len(blank))):
            if number:
                before = blank
            else:
                before = _GAP.join([*head, ""])
            yield f"{before}{screen.styled(self._console, text, styles[-1])}".rstrip() + "\n"

    def _cell(self, place: int, cell: str, style: str) -> str:
        blank = " " * (self._widths[place] - _width(cell))
        text = screen.styled(self._console, cell, style)
        if self._columns[place].is_right:
            return f"{blank}{text}"
        return f"{text}{blank}"

    def _folded(self, text: str, used: int) -> Iterator[str]:
        room = 0
        if self._console.is_terminal:
            room = max(_LAST_MIN, self._console.width - used)
        for line in text.splitlines() or [""]:
            for first in range(0, len(line), room) if room and line else [0]:
                yield line[first : first + room] if room else line


def _width(text: str) -> int:
    """The columns that a text takes on a screen."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
