"""What expires when: for rows in dictionaries, what an index on (scope, expires_at) is for rows in SQL.

An entry is a hint. The row may be gone by then, or live longer: whoever takes an entry looks at the row again.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush
from typing import NamedTuple

ANSWER, TOMBSTONE, DELETION, DEAD_LETTER, UNDELIVERED = range(5)
"""Kinds of rows, in the order in which a sweep removes them."""


class Entry(NamedTuple):
    """A row of a unit, and when it expires. Entries are ordered by time, unit and key."""

    at: int
    unit: str
    key: bytes
    scope: str


class Expiries:
    """Entries by kind and scope, earliest first."""

    def __init__(self) -> None:
        """Start with none."""
        self._heaps: dict[tuple[int, str], list[Entry]] = {}

    def add(self, kind: int, entry: Entry) -> None:
        """Remember a row."""
        heappush(self._heaps.setdefault((kind, entry.scope), []), entry)

    def take(self, kind: int, scopes: Iterable[str], until: int) -> Entry | None:
        """The earliest entry of these scopes that has expired by `until`; it is forgotten."""
        heaps = [heap for scope in scopes if (heap := self._heaps.get((kind, scope)))]
        first = min(heaps, key=lambda heap: heap[0], default=None)
        return heappop(first) if first is not None and first[0].at <= until else None
