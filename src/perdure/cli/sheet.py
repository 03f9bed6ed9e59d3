"""A sheet: a table that is printed while its rows are read, however many there are.

A table of rich looks at every cell before it prints the first row, which takes a millisecond per
row. Here the columns are as wide as the first rows need, and grow when a later one needs more.
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
# The least width of the last column. On a narrower terminal the terminal folds the lines.
_LAST_MIN = 20


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
        """Print rows.

        Cells of the last column may have several lines. On a terminal long lines are folded.
        """
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
        before = _GAP.join([*head, ""])
        # The colours of the head take characters but no columns, so it cannot be measured.
        blank = " " * (sum(self._widths) + len(_GAP) * len(self._widths))
        for text in self._folded(row[-1], len(blank)):
            yield f"{before}{screen.styled(self._console, text, styles[-1])}".rstrip() + "\n"
            before = blank

    def _cell(self, place: int, cell: str, style: str) -> str:
        blank = " " * (self._widths[place] - _width(cell))
        text = screen.styled(self._console, cell, style)
        if self._columns[place].is_right:
            return f"{blank}{text}"
        return f"{text}{blank}"

    def _folded(self, text: str, used: int) -> Iterator[str]:
        lines = text.splitlines() or [""]
        if not self._console.is_terminal:  # programs like `grep` want one line for one event
            yield from lines
            return
        room = max(_LAST_MIN, self._console.width - used)
        for line in lines:
            yield line[:room]
            for first in range(room, len(line), room):
                yield line[first : first + room]


def _width(text: str) -> int:
    """The columns that a text takes on a screen."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
