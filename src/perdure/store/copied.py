"""The tables that a move copies, alike in all SQL stores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from perdure.ports.moving import PART_BYTES, PART_ROWS, Key, RowPart

KEYS: dict[str, tuple[str, ...]] = {
    "units": ("id",),
    "runs": ("unit", "run"),
    "journal": ("unit", "run", "execution", "first"),
    "executions": ("unit", "run", "execution"),
    "state": ("unit", "part"),
    "kv": ("unit", "key"),
    # By the index that finds a message. Its place is a value like others.
    "inbox": ("unit", "message"),
    "answers": ("unit", "message"),
    "tasks": ("unit", "run", "execution", "seq", "attempt"),
    "sessions": ("queue", "session"),
    "queues": ("queue",),
    "tombstones": ("run",),
    "deletions": ("unit",),
    "dead_letters": ("unit", "message"),
}
"""The tables in the order in which they are copied, each with the columns of its key."""

SCOPES = "scopes"
ALL_KEYS = {**KEYS, SCOPES: ("scope",)}
SEALED = (*ALL_KEYS, "attributes")
"""The tables that a sealed store does not change."""


class PartMaker:
    """Collects rows until they make a part."""

    def __init__(self, table: str, columns: tuple[str, ...]) -> None:
        """Begin with none."""
        self._table = table
        self._columns = columns
        self._rows: list[tuple[Any, ...]] = []
        self._bytes = 0

    def add(self, row: tuple[Any, ...]) -> bool:
        """Take one more row. True: that is enough."""
        self._rows.append(row)
        self._bytes += sum(len(value) for value in row if isinstance(value, str | bytes))
        return self._bytes >= PART_BYTES or len(self._rows) >= PART_ROWS

    def part(self, *, is_last: bool) -> RowPart:
        """All rows so far."""
        if is_last:
            return RowPart(self._columns, self._rows)
        key = tuple(self._rows[-1][self._columns.index(name)] for name in ALL_KEYS[self._table])
        return RowPart(self._columns, self._rows, key)


def behind(table: str, marks: Iterator[str], after: Key | None) -> str:
    """The condition that a row stands behind a key. `marks` are those of the key's values."""
    if after is None:
        return "true"
    names = ", ".join(ALL_KEYS[table])
    values = ", ".join(next(marks) for _ in ALL_KEYS[table])
    return f"({names}) > ({values})"
