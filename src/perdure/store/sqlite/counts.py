"""Counts of a SQLite store, as functions of a connection that is inside a transaction.

The units by status cost one walk of an index. Messages, tasks and the like cost one walk of theirs.
The totals cost one walk of all units' rows in addition. Nothing is counted while commits are
applied, so commits do not pay for it.
"""

from __future__ import annotations

from typing import get_args

from perdure.kernel.data.commit import Status
from perdure.ports.store import Counts, Page, QueueDepth, Queues, Totals
from perdure.store.page import key_of, page_of
from perdure.store.sqlite.connection import Connection
from perdure.store.statements import statements

STATUSES: tuple[str, ...] = get_args(Status)

SQL = statements("perdure.store.sqlite", "counts")


def _by_status(connection: Connection) -> list[tuple[str, int]]:
    # A status without units has no row, and its count is wanted, too.
    found = dict.fromkeys(STATUSES, 0)
    found.update(connection.execute(SQL["units_by_status"]))
    return list(found.items())


def counts(connection: Connection, query: Counts) -> Page[tuple[str, int]]:
    """Units by status, and messages, tasks and dead letters."""
    found = _by_status(connection)
    for table in ("inbox", "tasks"):
        found.append((table, connection.execute(SQL[f"{table}_count"], (query.at,)).get))
    for table in ("dead_letters", "starts"):
        found.append((table, connection.execute(SQL[f"{table}_count"]).get))
    return Page(found)


def totals(connection: Connection, query: Totals) -> Page[tuple[str, int]]:
    """All numbers of the store, in one snapshot."""
    found = dict(_by_status(connection))
    units, events, size = connection.execute(SQL["units_total"]).get
    ended, ended_events = connection.execute(SQL["executions_total"]).get
    found |= {
        "executions": units + ended,
        "history_events": events + ended_events,
        "history_bytes": size,
    }
    found |= zip(
        ("messages", "messages_delayed"),
        connection.execute(SQL["inbox_total"], (query.at,)).get,
        strict=True,
    )
    depths = connection.execute(SQL["tasks_total"], (query.at,)).get
    found |= zip(("tasks", "tasks_delayed", "tasks_leased", "tasks_expired"), depths, strict=True)
    for table in ("answers", "tombstones", "dead_letters", "starts"):
        found[table] = connection.execute(SQL[f"{table}_count"]).get
    return Page(list(found.items()))


def queues(connection: Connection, query: Queues) -> Page[QueueDepth]:
    """Tasks by queue."""
    start = key_of(query.after, tuple[str]) or (None,)
    rows = connection.execute(SQL["queues"], (query.at, start[0], query.limit + 1))
    return page_of([((row[0],), QueueDepth(*row)) for row in rows], query.limit)
