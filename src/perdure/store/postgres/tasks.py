"""Claims, tasks and sweeps: short calls on a connection of the pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from perdure.kernel.data.commit import Fence, Task
from perdure.ports.store import NO_INSTANCE, Claim, Incarnation, Renewal, Swept, TaskMatch
from perdure.store.derived import token_of
from perdure.store.limits import StoreLimits
from perdure.store.postgres.connection import Connection
from perdure.store.statements import statements

SQL = statements("perdure.store.postgres", "tasks")


async def claim(
    connection: Connection, scopes: Sequence[str], owner: Incarnation
) -> dict[str, Claim]:
    """Take scopes over."""
    rows = await connection.fetch(SQL["claim"], list(scopes), owner.node, owner.id)
    found = {scope: Claim(epoch, clean) for scope, epoch, clean in rows}
    return {scope: found[scope] for scope in scopes}


def _columns(fences: Sequence[Fence]) -> tuple[list[str], list[int], list[str]]:
    return (
        [fence.scope for fence in fences],
        [fence.epoch for fence in fences],
        [fence.incarnation for fence in fences],
    )


async def release(connection: Connection, fences: Sequence[Fence]) -> list[str]:
    """Give up the scopes that these fences own."""
    rows = await connection.fetch(SQL["release"], *_columns(fences))
    given_up = {scope for (scope,) in rows}
    # In the order of the fences, each once.
    return [scope for scope in dict.fromkeys(fence.scope for fence in fences) if scope in given_up]


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
    for row in rows:
        task = Task(*row)
        token = token_of(task, worker, at)
        leased.append(
            msgspec.structs.replace(task, worker=worker, token=token, expires_at=at + lease_ms)
        )
    if leased:
        await connection.execute(
            SQL["lease"],
            worker,
            at + lease_ms,
            [task.unit for task in leased],
            [task.run for task in leased],
            [task.execution for task in leased],
            [task.seq for task in leased],
            [task.attempt for task in leased],
            [task.token for task in leased],
        )
    return leased


async def renew(
    connection: Connection, renewals: Sequence[Renewal], at: int
) -> list[Literal["kept", "lost"]]:
    """Extend leases whose row still has the token."""
    # One statement writes them all, and can write each row once.
    latest = {(one.unit, one.seq, one.attempt, one.token): one for one in renewals}
    rows = await connection.fetch(
        SQL["renew"],
        [one.unit for one in latest.values()],
        [one.seq for one in latest.values()],
        [one.attempt for one in latest.values()],
        [one.token for one in latest.values()],
        [at + one.lease_ms for one in latest.values()],
        [one.details for one in latest.values()],
    )
    kept = {tuple(row) for row in rows}
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
