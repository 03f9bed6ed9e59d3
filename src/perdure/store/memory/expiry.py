"""The times at which rows expire. For rows in dictionaries it is the index on (scope, expires_at).

An entry is a hint. The row may be gone by then, or live longer. So the row is looked at again when
its entry is taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush
from typing import NamedTuple

ANSWER, TOMBSTONE, DELETION, DEAD_LETTER, UNDELIVERED = range(5)
"""Kinds of rows, in the order in which a sweep removes them."""


class Entry(NamedTuple):
    """A row of a unit, and when it expires. Entries are ordered by time, unit and key."""

    # The order of the fields is that in which the SQL stores sort what has expired.
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
        heap = self._heaps.setdefault((kind, entry.scope), [])
        heappush(heap, entry)

    def take(self, kind: int, scopes: Iterable[str], until: int) -> Entry | None:
        """Forget and return the earliest entry of these scopes that has expired by `until`."""
        first: list[Entry] = []
        for scope in scopes:
            heap = self._heaps.get((kind, scope), [])
            # Entries name their scope, so two heaps never begin with the same one.
            is_earlier = heap and (not first or heap[0] < first[0])
            if is_earlier:
                first = heap
        if not first or first[0].at > until:
            return None
        return heappop(first)
