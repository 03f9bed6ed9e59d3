"""Sweeping SQLite tables: what `tables` does to dictionaries, inside an open transaction.

A node sweeps every minute, and nobody else writes meanwhile, so a sweep must cost what it removes: each query walks an
index from the oldest row on, in one scope, and stops at the limit.
"""

from __future__ import annotations

from collections.abc import Sequence

from perdure.kernel.commit import Fence
from perdure.ports.store import Swept
from perdure.store.connection import Connection, Values
from perdure.store.limits import StoreLimits
from perdure.store.tasks import held_scopes

EXPIRING = {
    "answers": ("unit", "message"),
    "tombstones": ("run",),
    "deletions": ("unit",),
    "dead_letters": ("unit", "message"),
}
"""Tables with rows that expire, and what names a row."""


def find_expired(table: str) -> str:
    """How to find the oldest ones of a scope."""
    key = ", ".join(EXPIRING[table])
    return (
        f"SELECT expires_at, {key} FROM {table} WHERE scope = :scope AND expires_at <= :at"  # noqa: S608 - no input
        f" ORDER BY expires_at, {key} LIMIT :limit"
    )


def _remove(table: str) -> str:
    key = " AND ".join(f"{name} = ?" for name in EXPIRING[table])
    return f"DELETE FROM {table} WHERE {key}"  # noqa: S608 - names from above


UNDELIVERED = """
SELECT max(at, visible_at) AS since, unit, message FROM inbox INDEXED BY inbox_homeless
WHERE scope = :scope AND homeless AND at <= :at AND since <= :at
  AND NOT EXISTS (SELECT 1 FROM units WHERE id = inbox.unit)
  AND NOT EXISTS (SELECT 1 FROM inbox AS other WHERE other.unit = inbox.unit AND other.kind = 'Start')
ORDER BY 1, 2, 3 LIMIT :limit
"""
_BURY = (
    "INSERT INTO dead_letters (unit, message, scope, kind, body, at, sender, expires_at)"
    " SELECT unit, message, scope, kind, body, at, sender, ?3 FROM inbox WHERE unit = ?1 AND message = ?2"
    " ON CONFLICT (unit, message) DO UPDATE SET expires_at = excluded.expires_at"
)
_DROP = "DELETE FROM inbox WHERE unit = ? AND message = ?"


def _oldest(
    connection: Connection, sql: str, scopes: Sequence[str], at: int, limit: int
) -> list[Values]:
    """The keys of the oldest rows of all scopes."""
    found: list[Values] = []
    for scope in scopes:
        found += connection.execute(sql, {"scope": scope, "at": at, "limit": limit})
    return [values[1:] for values in sorted(found)[:limit]]


def sweep(
    connection: Connection, fences: Sequence[Fence], at: int, limit: int, limits: StoreLimits
) -> Swept:
    """Remove what has expired, oldest first, at most `limit` rows; bury undelivered messages."""
    removed = 0
    scopes = sorted(set(held_scopes(connection, fences)))
    for table in EXPIRING:
        rows = _oldest(connection, find_expired(table), scopes, at, limit - removed)
        connection.executemany(_remove(table), rows)
        removed += len(rows)
    letters = _oldest(connection, UNDELIVERED, scopes, at - limits.undelivered_ms, limit - removed)
    connection.executemany(_BURY, [(*letter, at + limits.dead_letter_ms) for letter in letters])
    connection.executemany(_DROP, letters)
    return Swept(removed + len(letters), [unit for unit, _ in letters])
