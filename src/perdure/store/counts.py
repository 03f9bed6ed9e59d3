"""How much is in a SQLite store, as functions of a connection that is inside a transaction.

What each costs: the units by status one walk of an index; messages, tasks and the like one walk of theirs; the totals
one walk of all units' rows in addition. Nothing is counted while commits are applied, so commits do not pay for it.
"""

from __future__ import annotations

from typing import get_args

from perdure.kernel.commit import Status
from perdure.ports.store import Counts, Page, QueueDepth, Queues, Totals
from perdure.store.connection import Connection
from perdure.store.page import key_of, page_of

STATUSES: tuple[str, ...] = get_args(Status)

_UNITS = (
    "SELECT count(*), coalesce(sum(journal_events), 0), coalesce(sum(journal_bytes), 0) FROM units"
)
_PAST = "SELECT count(*), coalesce(sum(journal_events), 0) FROM executions"
_INBOX = "SELECT count(*) FILTER (WHERE visible_at <= ?1), count(*) FILTER (WHERE visible_at > ?1) FROM inbox"
_DEPTHS = (
    "count(*) FILTER (WHERE worker IS NULL AND visible_at <= ?1),"
    " count(*) FILTER (WHERE worker IS NULL AND visible_at > ?1),"
    " count(*) FILTER (WHERE worker IS NOT NULL AND expires_at > ?1),"
    " count(*) FILTER (WHERE worker IS NOT NULL AND expires_at <= ?1)"
)
_TASKS = f"SELECT {_DEPTHS} FROM tasks"  # noqa: S608 - no input
_QUEUES = (
    f"SELECT queue, {_DEPTHS} FROM tasks WHERE ?2 IS NULL OR queue > ?2"  # noqa: S608 - no input
    " GROUP BY queue ORDER BY queue LIMIT ?3"
)


def _by_status(connection: Connection) -> list[tuple[str, int]]:
    found: dict[str, int] = dict(
        connection.execute("SELECT status, count(*) FROM units GROUP BY status")
    )
    return [(status, found.get(status, 0)) for status in STATUSES]


def counts(connection: Connection, query: Counts) -> Page[tuple[str, int]]:
    """Units by status, and what waits."""
    found = _by_status(connection)
    for table in ("inbox", "tasks"):
        sql = f"SELECT count(*) FROM {table} WHERE ?1 IS NULL OR visible_at <= ?1"  # noqa: S608 - no input
        found.append((table, connection.execute(sql, (query.at,)).get))
    found.append(("dead_letters", connection.execute("SELECT count(*) FROM dead_letters").get))
    return Page(found)


def totals(connection: Connection, query: Totals) -> Page[tuple[str, int]]:
    """All that can be counted, in one snapshot."""
    found = dict(_by_status(connection))
    units, events, size = connection.execute(_UNITS).get
    ended, ended_events = connection.execute(_PAST).get
    found |= {
        "executions": units + ended,
        "history_events": events + ended_events,
        "history_bytes": size,
    }
    found |= zip(
        ("messages", "messages_delayed"), connection.execute(_INBOX, (query.at,)).get, strict=True
    )
    depths = connection.execute(_TASKS, (query.at,)).get
    found |= zip(("tasks", "tasks_delayed", "tasks_leased", "tasks_expired"), depths, strict=True)
    for table in ("answers", "tombstones", "dead_letters"):
        found[table] = connection.execute(f"SELECT count(*) FROM {table}").get  # noqa: S608 - names from above
    return Page(list(found.items()))


def queues(connection: Connection, query: Queues) -> Page[QueueDepth]:
    """Tasks by queue."""
    start = key_of(query.after, tuple[str]) or (None,)
    rows = connection.execute(_QUEUES, (query.at, start[0], query.limit + 1))
    return page_of([((row[0],), QueueDepth(*row)) for row in rows], query.limit)
