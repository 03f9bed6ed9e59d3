"""Claims, tasks and sweeps: short calls on a connection of the pool."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import starmap
from operator import itemgetter
from typing import Any, Literal

import msgspec

from perdure.kernel.data.commit import Fence, Task
from perdure.ports.store import (
    NO_INSTANCE,
    Claim,
    Incarnation,
    Overdue,
    Page,
    Swept,
    Tasks,
    Waiting,
)
from perdure.ports.tasks import Leased, Renewal, SessionHold, TaskHint, TaskRequest
from perdure.store.derived import (
    overdue_from,
    overdue_page,
    tasks_from,
    tasks_page,
    waiting_from,
    waiting_page,
)
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
from perdure.store.postgres.connection import Connection, Values, columns
from perdure.store.statements import statements

SQL = statements("perdure.store.postgres", "tasks")


_first = itemgetter(0)


def _key_and_token(task: Task) -> Values:
    return (task.unit, task.run, task.execution, task.seq, task.attempt, task.token)


def _given_back(lease: Renewal) -> Values:
    return (lease.unit, lease.seq, lease.attempt, lease.token, lease.details)


def _session_key(hold: SessionHold) -> tuple[str, str, str]:
    return (hold.queue, hold.session, hold.worker)


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
            return list(map(_first, rows))
        case GiveTasks():
            await _give(connection, step.tasks)
        case NoteStarts():
            await connection.execute(SQL["write_starts"], queue, step.starts)
        case FindNext():
            return await connection.fetchval(SQL["find_next"], queue, at)
    return None


def _mapping(rows: Sequence[Values]) -> dict[Any, Any]:
    """Rows of two columns as a dictionary."""
    return dict(map(tuple, rows))


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
    return list(starmap(Task, rows))


async def _give(connection: Connection, given: Sequence[Task]) -> None:
    first = given[0]
    rows = map(_key_and_token, given)
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
    rows = map(_given_back, leases)
    queues = await connection.fetch(SQL["give_back"], *columns(rows, 5))
    # One hint for each queue, in order.
    return list(map(TaskHint, dict.fromkeys(map(_first, queues))))


async def hold_sessions(
    connection: Connection, holds: Sequence[SessionHold], at: int
) -> list[bool]:
    """Keep sessions, or give them up."""
    # Sorted, so that two workers never wait for each other.
    kept: dict[Values, Values] = {}
    dropped: dict[Values, None] = {}
    for one in sorted(holds, key=_session_key):
        if one.lease_ms:
            kept[_session_key(one)] = (*_session_key(one), at + one.lease_ms)
        else:
            dropped[_session_key(one)] = None
    found: list[Values] = []
    if kept:
        found += await connection.fetch(SQL["hold_sessions"], *columns(kept.values(), 4))
    if dropped:
        found += await connection.fetch(SQL["drop_sessions"], *columns(dropped, 3))
    held = set(map(tuple, found))
    return [_session_key(one) in held for one in holds]


async def waiting(connection: Connection, query: Waiting) -> Page[str]:
    """Queues that have a visible task without a worker."""
    queues = list(query.queues)
    rows = await connection.fetch(
        SQL["waiting"], queues, waiting_from(query), query.at, query.limit + 1
    )
    return waiting_page(query, rows)


async def tasks_of_unit(connection: Connection, query: Tasks) -> Page[Task]:
    """The tasks of a unit, by the numbers of their calls."""
    rows = await connection.fetch(
        SQL["tasks_of_unit"], query.unit, *tasks_from(query), query.limit + 1
    )
    return tasks_page(query, starmap(Task, rows))


async def overdue(connection: Connection, query: Overdue) -> Page[Task]:
    """Tasks of scopes whose time has passed, the earliest first."""
    rows = await connection.fetch(
        SQL["overdue"], list(query.scopes), query.at, *overdue_from(query), query.limit + 1
    )
    return overdue_page(query, starmap(Task, rows))


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
