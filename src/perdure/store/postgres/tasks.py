"""Claims, tasks and sweeps: short calls on a connection of the pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from perdure.kernel.data.commit import Fence, Task
from perdure.ports.store import NO_INSTANCE, Claim, Incarnation, Renewal, Swept, TaskMatch
from perdure.store.derived import token_of
from perdure.store.limits import StoreLimits
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


async def lease(
    connection: Connection,
    queue: str,
    worker: str,
    limit: int,
    lease_ms: int,
    at: int,
    match: TaskMatch,
) -> list[Task]:
    """Lease tasks that no worker has had yet and that this one can take, oldest first.

    It is called inside a transaction, which keeps the found rows from other workers.
    """
    names: list[str] | None = None
    if match.names is not None:
        names = list(match.names)
    rows = await connection.fetch(SQL["find_waiting"], queue, at, names, list(match.tags), limit)
    leased: list[Task] = []
    keys: list[Values] = []
    for row in rows:
        task = Task(*row)
        token = token_of(task, worker, at)
        leased.append(
            msgspec.structs.replace(task, worker=worker, token=token, expires_at=at + lease_ms)
        )
        keys.append((task.unit, task.run, task.execution, task.seq, task.attempt, token))
    if leased:
        await connection.execute(
            SQL["lease"],
            worker,
            at + lease_ms,
            *columns(keys, 6),
        )
    return leased


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
