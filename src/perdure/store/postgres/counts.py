"""Counts of a PostgreSQL store, as functions of a connection that is inside a snapshot.

The units by status cost one walk of an index. Messages, tasks and the like cost one walk of theirs.
The totals cost one walk of all units' rows in addition. Nothing is counted while commits are
applied, so commits do not pay for it.
"""

from __future__ import annotations

from typing import get_args

from perdure.kernel.data.commit import Status
from perdure.ports.store import Counts, Page, QueueDepth, Queues, Totals
from perdure.store.page import key_of, page_of
from perdure.store.postgres.connection import Connection, Values
from perdure.store.statements import statements

STATUSES: tuple[str, ...] = get_args(Status)

SQL = statements("perdure.store.postgres", "counts")


async def _row(connection: Connection, name: str, *values: object) -> Values:
    row = await connection.fetchrow(SQL[name], *values)
    assert row is not None, "a count has one row"
    return row


async def _by_status(connection: Connection) -> list[tuple[str, int]]:
    # A status without units has no row, and its count is wanted, too.
    found = dict.fromkeys(STATUSES, 0)
    for status, count in await connection.fetch(SQL["units_by_status"]):
        found[status] = count
    return list(found.items())


async def counts(connection: Connection, query: Counts) -> Page[tuple[str, int]]:
    """Units by status, and messages, tasks and dead letters."""
    found = await _by_status(connection)
    for table in ("inbox", "tasks"):
        found.append((table, await connection.fetchval(SQL[f"{table}_count"], query.at)))
    for table in ("dead_letters", "starts"):
        found.append((table, await connection.fetchval(SQL[f"{table}_count"])))
    return Page(found)


async def totals(connection: Connection, query: Totals) -> Page[tuple[str, int]]:
    """All numbers of the store, in one snapshot."""
    found = dict(await _by_status(connection))
    units, events, size = await _row(connection, "units_total")
    ended, ended_events = await _row(connection, "executions_total")
    found |= {
        "executions": units + ended,
        "history_events": events + ended_events,
        "history_bytes": size,
    }
    messages = await _row(connection, "inbox_total", query.at)
    found |= zip(("messages", "messages_delayed"), messages, strict=True)
    depths = await _row(connection, "tasks_total", query.at)
    found |= zip(("tasks", "tasks_delayed", "tasks_leased", "tasks_expired"), depths, strict=True)
    for table in ("answers", "tombstones", "dead_letters", "starts"):
        found[table] = await connection.fetchval(SQL[f"{table}_count"])
    return Page(list(found.items()))


async def queues(connection: Connection, query: Queues) -> Page[QueueDepth]:
    """Tasks by queue."""
    start = key_of(query.after, tuple[str]) or (None,)
    rows = await connection.fetch(SQL["queues"], query.at, start[0], query.limit + 1)
    return page_of([((row[0],), QueueDepth(*row)) for row in rows], query.limit)
