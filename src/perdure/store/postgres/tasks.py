"""Claims, tasks and sweeps: short calls on a connection of the pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from perdure.kernel.data.commit import Fence, Task
from perdure.ports.store import (
    NO_INSTANCE,
    Claim,
    Incarnation,
    Leased,
    Overdue,
    Page,
    Renewal,
    SessionHold,
    Swept,
    TaskHint,
    TaskRequest,
)
from perdure.store.derived import FIRST_OVERDUE, overdue_key
from perdure.store.leasing import (
    FindNext,
    FindTasks,
    GiveTasks,
    NoteStarts,
    OpenSessions,
    QueueState,
    ReadQueue,
    ReadSessions,
    Step,
    leasing,
)
from perdure.store.limits import StoreLimits
from perdure.store.page import key_of, page_of
from perdure.store.postgres.connection import Connection, Values, columns
from perdure.store.statements import statements

SQL = statements("perdure.store.postgres", "tasks")


async def claim(
    connection: Connection, scopes: Sequence[str], owner: Incarnation
) -> dict[str, Claim]:
    """Take scopes over."""
    rows = await connection.fetch(SQL["claim"], list(scopes), owner.node, owner.id)
    found = {scope: Claim(epoch, clean) for scope, epoch, clean in rows}
    return {scope: found[scope] for scope in scopes}


def _columns(fences: Sequence[Fence]) -> list[list[Any]]:
    return columns(map(msgspec.structs.astuple, fences), 3)


async def release(connection: Connection, fences: Sequence[Fence]) -> list[str]:
    """Give up the scopes that these fences own."""
    rows = await connection.fetch(SQL["release"], *_columns(fences))
    given_up = [scope for (scope,) in rows]
    # In the order of the fences.
    return sorted(given_up, key=[fence.scope for fence in fences].index)


async def lease(connection: Connection, request: TaskRequest) -> Leased:
    """Lease tasks that no worker has and that this one can take, by rank.

    It is called inside a transaction, which keeps the found rows from other workers.
    """
    steps = leasing(request)
    found: object = None
    try:
        while True:
            found = await _carry_out(connection, request, steps.send(found))
    except StopIteration as end:
        leased: Leased = end.value
        return leased


async def _carry_out(connection: Connection, request: TaskRequest, step: Step) -> object:
    """Carry out a step of a lease. Return what it has found."""
    queue, worker, at = request.queue, request.worker, request.at
    match step:
        case ReadQueue():
            starts: bytes | None = await connection.fetchval(SQL["lock_queue"], queue)
            # Behind the lock, so that no other worker leases in between.
            keys = await connection.fetch(SQL["count_keys"], queue)
            return QueueState(_mapping(keys), starts)
        case FindTasks():
            return await _find(connection, request, step)
        case ReadSessions():
            return _mapping(await connection.fetch(SQL["read_sessions"], queue, at))
        case OpenSessions():
            await connection.execute(SQL["forget_sessions"], at)
            rows = await connection.fetch(
                SQL["open_sessions"], queue, step.sessions, worker, step.until, at
            )
            return [session for (session,) in rows]
        case GiveTasks():
            await _give(connection, step.tasks)
        case NoteStarts():
            await connection.execute(SQL["write_starts"], queue, step.starts)
        case FindNext():
            return await connection.fetchval(SQL["find_next"], queue, at)
    return None


def _mapping(rows: Sequence[Values]) -> dict[Any, Any]:
    """Rows of two columns as a dictionary."""
    return {row[0]: row[1] for row in rows}


async def _find(connection: Connection, request: TaskRequest, step: FindTasks) -> list[Task]:
    match = request.match
    names: list[str] | None = None
    if match.names is not None:
        names = list(match.names)
    rows = await connection.fetch(
        SQL["find_waiting"],
        request.queue,
        request.at,
        names,
        list(match.tags),
        step.limit,
        match.only_tagged,
        step.full_keys,
        request.worker,
        step.may_open,
    )
    return [Task(*row) for row in rows]


async def _give(connection: Connection, given: Sequence[Task]) -> None:
    first = given[0]
    rows = [
        (task.unit, task.run, task.execution, task.seq, task.attempt, task.token) for task in given
    ]
    await connection.execute(
        SQL["lease"], first.worker, first.expires_at, first.leased_at, *columns(rows, 6)
    )


async def renew(
    connection: Connection, renewals: Sequence[Renewal], at: int
) -> list[Literal["kept", "lost"]]:
    """Extend leases whose row still has the token."""
    # One statement writes them all, and can write each row once.
    latest: dict[Values, Values] = {}
    for one in renewals:
        key = (one.unit, one.seq, one.attempt, one.token)
        latest[key] = (*key, at + one.lease_ms, one.details)
    rows = await connection.fetch(SQL["renew"], *columns(latest.values(), 6))
    kept = set(map(tuple, rows))
    results: list[Literal["kept", "lost"]] = []
    for one in renewals:
        if (one.unit, one.seq, one.attempt, one.token) in kept:
            results.append("kept")
        else:
            results.append("lost")
    return results


async def give_back(connection: Connection, leases: Sequence[Renewal]) -> list[TaskHint]:
    """Take the worker from tasks whose row still has the token."""
    rows = [(one.unit, one.seq, one.attempt, one.token, one.details) for one in leases]
    queues = await connection.fetch(SQL["give_back"], *columns(rows, 5))
    return [TaskHint(queue) for queue in dict.fromkeys(name for (name,) in queues)]


async def hold_sessions(
    connection: Connection, holds: Sequence[SessionHold], at: int
) -> list[bool]:
    """Keep sessions, or give them up."""
    # Sorted, so that two workers never wait for each other.
    lengths = {(one.queue, one.session, one.worker): one.lease_ms for one in holds}
    kept = [(*key, at + lease_ms) for key, lease_ms in sorted(lengths.items()) if lease_ms]
    dropped = [key for key, lease_ms in sorted(lengths.items()) if not lease_ms]
    found: list[Values] = []
    if kept:
        found += await connection.fetch(SQL["hold_sessions"], *columns(kept, 4))
    if dropped:
        found += await connection.fetch(SQL["drop_sessions"], *columns(dropped, 3))
    held = set(map(tuple, found))
    return [(one.queue, one.session, one.worker) in held for one in holds]


async def overdue(connection: Connection, query: Overdue) -> Page[Task]:
    """Tasks of scopes whose time has passed, the earliest first."""
    start = key_of(query.after, tuple[int, str, bytes, int, int, int]) or FIRST_OVERDUE
    rows = await connection.fetch(
        SQL["overdue"], list(query.scopes), query.at, *start, query.limit + 1
    )
    tasks = [Task(*row) for row in rows]
    return page_of([(overdue_key(task), task) for task in tasks], query.limit)


async def sweep(
    connection: Connection, fences: Sequence[Fence], at: int, limit: int, limits: StoreLimits
) -> Swept:
    """Remove at most `limit` expired rows, oldest first, and bury undelivered messages."""
    row = await connection.fetchrow(
        SQL["sweep"],
        *_columns(fences),
        at,
        limit,
        limits.undelivered_ms,
        limits.dead_letter_ms,
        NO_INSTANCE,
    )
    assert row is not None, "a function without a set has one row"
    removed, buried = row
    return Swept(removed, list(buried))


async def drop_letters(connection: Connection, letters: Sequence[bytes]) -> int:
    """Remove dead letters. Returns how many were there."""
    dropped: int = await connection.fetchval(SQL["drop_letters"], list(letters))
    return dropped
