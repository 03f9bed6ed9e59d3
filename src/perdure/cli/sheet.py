"""A sheet: a table that is printed while its rows are read, however many there are.

The columns are as wide as the first rows need, and grow when a later one needs more.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from perdure.cli import screen
from perdure.cli.layout import Column, Layout, Row, columns_of, grown, heads, lines_of, plan

if TYPE_CHECKING:
    from rich.console import Console


class Sheet:
    """Prints rows on stdout, below a line with the names of the columns."""

    def __init__(self, columns: Sequence[Column], *, wide: bool = False) -> None:
        """Nothing is printed before the first rows. `wide`: nothing is cut or folded."""
        self._columns = columns
        self._widths = [columns_of(column.name) for column in columns]
        self.is_empty = True
        self._console: Console = screen.answers()
        self._room: int | None = None
        # Programs like `grep` want one whole line for one row.
        if self._console.is_terminal and not wide:
            self._room = self._console.width

    def add(self, rows: Iterable[Row]) -> None:
        """Print rows."""
        cells = list(rows)
        self._widths = grown(self._widths, cells)
        layout = plan(self._columns, self._widths, self._room)
        if self.is_empty and cells:
            self.is_empty = False
            self._print(layout, heads(layout, self._columns))
        for row in cells:
            self._print(layout, row)
        sys.stdout.flush()

    def _print(self, layout: Layout, row: Row) -> None:
        for line in lines_of(layout, self._columns, row):
            texts = [screen.styled(self._console, text, style) for text, style in line]
            sys.stdout.write("".join(texts) + "\n")
