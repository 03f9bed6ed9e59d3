"""The layout of a table: which columns stand on which line of a row, and how wide they are.

Ids, names and statuses are copied into other commands, so their columns are never cut. On a narrow
screen the bars shrink first, then long text shrinks or moves to a line of its own, and at last the
row is broken into several lines. Without a width (a pipe, `--wide`) each row is one whole line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

GAP = 2
_INDENT = 2
NEVER = 1_000_000
"""`least` of a long text that is shown beside the others only where it fits whole."""
_ELLIPSIS = "…"
# Text of users may hold codes that move the cursor or change its colour.
_CONTROLS = dict.fromkeys((*range(32), *range(127, 160)), "�")

Role = Literal["whole", "bar", "text", "folded"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its name, its colour, the side to which its cells keep, and its role.

    whole: never cut.
    bar: between `least` and `most` columns wide, and left out where even that is too much.
    text: the last column. It is cut where there are at least `least` columns for it. Where there
        are fewer it moves to a line of its own.
    folded: the last column. Long lines are folded below each other.

    Where a row needs several lines, the first one has the columns up to the head.
    """

    name: str
    style: str = ""
    is_right: bool = False
    role: Role = "whole"
    least: int = 0
    most: int = 0
    is_head: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """A text, and the style that it has in place of its column's. `is_whole`: it is never cut."""

    text: str
    style: str = ""
    is_whole: bool = False


Row = Sequence[str | Cell]


@dataclass(frozen=True, slots=True)
class Place:
    """A column on a line. `width` None: the cell is as wide as its text."""

    column: int
    width: int | None


@dataclass(frozen=True, slots=True)
class Layout:
    """The lines of each row. All but the first are indented."""

    lines: list[list[Place]]

    def width_of(self, column: int) -> int:
        """The width of a column. 0: it is not shown."""
        for line in self.lines:
            for place in line:
                if place.column == column:
                    return place.width or 0
        return 0


def plan(columns: Sequence[Column], widths: Sequence[int], room: int | None) -> Layout:
    """The layout for cells of these widths on a screen of `room` columns (None: any number)."""
    whole = [at for at, column in enumerate(columns) if column.role == "whole"]
    long = [at for at, column in enumerate(columns) if column.role in ("text", "folded")]
    bars = [at for at, column in enumerate(columns) if column.role == "bar"]
    if room is None:
        line = [Place(at, widths[at]) for at in whole]
        line += [Place(at, columns[at].most) for at in bars]
        line += [Place(at, None) for at in long]
        return Layout([sorted(line, key=lambda place: place.column)])
    lines = _packed(columns, [Place(at, widths[at]) for at in whole], room)
    left = room - _used(lines[-1], len(lines) > 1)
    least_bar = sum(columns[at].least + GAP for at in bars)
    # A row of several lines has no room for a bar.
    if len(lines) > 1 or left < least_bar:
        bars, least_bar = [], 0
    below: list[list[Place]] = []
    for at in long:
        width = _beside(columns[at], widths[at], left - least_bar - GAP)
        if width is None:
            below.append([Place(at, room - _INDENT)])
        else:
            lines[-1].append(Place(at, width))
            left -= width + GAP
    for at in bars:
        lines[-1].append(Place(at, min(columns[at].most, left - GAP)))
        lines[-1].sort(key=lambda place: place.column)
    return Layout([*lines, *below])


def _packed(columns: Sequence[Column], places: list[Place], room: int) -> list[list[Place]]:
    """The whole columns on one line. If there is no room, the head alone, and the others below."""
    if _used(places, False) <= room:
        return [places]
    lines: list[list[Place]] = [[]]
    is_full = False
    for place in places:
        if is_full or (lines[-1] and _used([*lines[-1], place], len(lines) > 1) > room):
            lines.append([])
        lines[-1].append(place)
        is_full = columns[place.column].is_head
    return lines


def _used(line: list[Place], is_indented: bool) -> int:
    used = sum(place.width or 0 for place in line) + GAP * (len(line) - 1)
    if is_indented:
        used += _INDENT
    return used


def _beside(column: Column, width: int, room: int) -> int | None:
    """The width of a long text beside the other columns. None: it goes below them."""
    if width <= room:
        return width
    if room >= column.least:
        return room
    return None


# ---------------------------------------------------------------- cells


def columns_of(text: str) -> int:
    """The columns that a text takes on a screen."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def harmless(text: str) -> str:
    """The text without codes that a terminal would carry out."""
    if text.isprintable():
        return text
    return text.translate(_CONTROLS)


def clipped(text: str, room: int) -> str:
    """The beginning of a text that is too long, with a mark at its end."""
    if columns_of(text) <= room:
        return text
    kept = next(pieces(text, max(1, room - 1)))
    return f"{kept}{_ELLIPSIS}"


def pieces(text: str, room: int) -> Iterator[str]:
    """The text in pieces that fit."""
    piece, used = "", 0
    for character in text:
        width = columns_of(character)
        if piece and used + width > room:
            yield piece
            piece, used = "", 0
        piece += character
        used += width
    yield piece


Line = list[tuple[str, str]]
"""Texts from left to right, each with its style."""


def lines_of(layout: Layout, columns: Sequence[Column], row: Row) -> Iterator[Line]:
    """The lines of a row. Empty ones are left out."""
    for number, places in enumerate(layout.lines):
        cells = [_cell(row[place.column], columns[place.column]) for place in places]
        if number and not any(cell.text for cell in cells):
            continue
        line: Line = []
        if number:
            line.append((" " * _INDENT, ""))
        for place, cell in zip(places, cells, strict=True):
            if place is not places[0]:
                line.append((" " * GAP, ""))
            column = columns[place.column]
            if column.role == "folded":
                yield from _folded(line, cell, place.width)
                break
            line += _padded(column, place, cell)
        else:
            yield _trimmed(line)


def _trimmed(line: Line) -> Line:
    """The line without the blanks at its end."""
    end = len(line)
    while end and not line[end - 1][0].strip():
        end -= 1
    return line[:end]


def _cell(cell: str | Cell, column: Column) -> Cell:
    if isinstance(cell, Cell):
        return cell
    return Cell(cell, column.style)


def _padded(column: Column, place: Place, cell: Cell) -> Line:
    text = harmless(cell.text)
    width = place.width
    if width is None:
        return [(text, cell.style)]
    if column.role == "text" and not cell.is_whole:
        text = clipped(text, width)
    # The blank stands apart, so that no colour reaches into it.
    blank = (" " * (width - columns_of(text)), "")
    if column.is_right:
        return [blank, (text, cell.style)]
    return [(text, cell.style), blank]


def _folded(before: Line, cell: Cell, room: int | None) -> Iterator[Line]:
    """The lines of a cell, the first one behind the others of its row, the rest below it."""
    indent = sum(columns_of(text) for text, _ in before)
    for line in cell.text.splitlines() or [""]:
        text = harmless(line)
        parts: Iterable[str] = (text,)
        if room is not None:
            parts = pieces(text, room)
        for part in parts:
            yield [*before, (part, cell.style)]
            before = [(" " * indent, "")]


def grown(widths: Sequence[int], rows: Iterable[Row]) -> list[int]:
    """The widths that the columns need for these rows, too."""
    needed = list(widths)
    for row in rows:
        for at, cell in enumerate(row):
            text = cell
            if isinstance(text, Cell):
                text = text.text
            needed[at] = max(needed[at], columns_of(text))
    return needed


def heads(layout: Layout, columns: Sequence[Column]) -> Row:
    """The names of the columns. A long text that goes below its row needs none."""
    below: set[int] = set()
    for line in layout.lines[1:]:
        below |= {place.column for place in line}
    names: list[Cell] = []
    for at, column in enumerate(columns):
        name = column.name
        if at in below and column.role != "whole":
            name = ""
        names.append(Cell(name, "bright_black"))
    return names
