"""Sweeping SQLite tables, inside an open transaction. `memory.rows` does the same to dictionaries.

A node sweeps every minute, and no other write runs meanwhile. So a sweep must cost what it removes:
each query walks an index from the oldest row on, in one scope, and stops at the limit.
"""

from __future__ import annotations

from collections.abc import Sequence

from perdure.kernel.data.commit import Fence
from perdure.ports.store import NO_INSTANCE, Swept
from perdure.store.limits import StoreLimits
from perdure.store.sqlite.connection import Connection, Values
from perdure.store.sqlite.tasks import held_scopes
from perdure.store.statements import statements

SQL = statements("perdure.store.sqlite", "sweeping")
EXPIRING = ("answers", "tombstones", "deletions", "dead_letters")
"""Tables with rows that expire, in the order in which they are swept."""


def _oldest(
    connection: Connection, sql: str, scopes: Sequence[str], at: int, limit: int
) -> list[Values]:
    """The keys of the oldest rows of all scopes."""
    found: list[Values] = []
    # Each scope by itself, because an index that begins with the scope has the order of one only.
    for scope in scopes:
        found += connection.execute(sql, {"scope": scope, "at": at, "limit": limit})
    # The first column is the time by which they are sorted.
    return [values[1:] for values in sorted(found)[:limit]]


def sweep(
    connection: Connection, fences: Sequence[Fence], at: int, limit: int, limits: StoreLimits
) -> Swept:
    """Remove at most `limit` expired rows, oldest first, and bury undelivered messages."""
    removed = 0
    scopes = sorted(set(held_scopes(connection, fences)))
    for table in EXPIRING:
        rows = _oldest(connection, SQL[f"find_{table}"], scopes, at, limit - removed)
        connection.executemany(SQL[f"remove_{table}"], rows)
        removed += len(rows)
    messages = _oldest(
        connection, SQL["undelivered"], scopes, at - limits.undelivered_ms, limit - removed
    )
    # `bury` copies the rows of the inbox, so they are removed behind it.
    until = at + limits.dead_letter_ms
    connection.executemany(SQL["bury"], [(*message, until, NO_INSTANCE) for message in messages])
    connection.executemany(SQL["drop_message"], messages)
    return Swept(removed + len(messages), [unit for unit, _ in messages])


def drop_letters(connection: Connection, letters: Sequence[bytes]) -> int:
    """Remove dead letters. Returns how many were there."""
    dropped = 0
    for letter in letters:
        connection.execute(SQL["drop_letter"], (letter,))
        dropped += connection.changes()
    return dropped
