"""Tasks and claims on SQLite tables, inside an open transaction.

The same is done to dictionaries by `memory.rows`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from perdure.kernel.data.commit import Fence, Task
from perdure.ports.store import Claim, Incarnation, Renewal, TaskMatch
from perdure.store.derived import token_of
from perdure.store.sqlite.connection import Connection, Values, ids_json
from perdure.store.statements import statements

SCOPES = statements("perdure.store.sqlite", "scopes")
TASKS = statements("perdure.store.sqlite", "tasks")


def claim(connection: Connection, scopes: Sequence[str], owner: Incarnation) -> dict[str, Claim]:
    """Take scopes over."""
    # A scope that was never claimed has no row. Nobody has left it in disorder.
    claims = {scope: Claim(1, clean=True) for scope in scopes}
    for scope, epoch, clean in connection.execute(SCOPES["find_scopes"], (ids_json(scopes),)):
        claims[scope] = Claim(epoch + 1, bool(clean))
    rows = [(scope, claim.epoch, owner.node, owner.id, False) for scope, claim in claims.items()]
    connection.executemany(SCOPES["set_scope"], rows)
    return claims


def held_scopes(connection: Connection, fences: Sequence[Fence]) -> list[str]:
    """The scopes that these fences own."""
    names = ids_json([fence.scope for fence in fences])
    # One query, because a node has thousands of scopes and no other write runs meanwhile. A fence
    # names the epoch, too: the same incarnation may have claimed the scope again since.
    held = {Fence(*row) for row in connection.execute(SCOPES["find_owners"], (names,))}
    return [fence.scope for fence in fences if fence in held]


def release(connection: Connection, fences: Sequence[Fence]) -> list[str]:
    """Give up the scopes that these fences own."""
    scopes = held_scopes(connection, fences)
    connection.executemany(SCOPES["release"], [(scope,) for scope in scopes])
    return scopes


def lease(
    connection: Connection,
    queue: str,
    worker: str,
    limit: int,
    lease_ms: int,
    at: int,
    match: TaskMatch,
) -> list[Task]:
    """Lease tasks that no worker has had yet and that this one can take, oldest first."""
    names: str | None = None
    if match.names is not None:
        names = ids_json(match.names)
    values = (queue, at, names, ids_json(match.tags), limit)
    expires_at = at + lease_ms
    leased: list[Task] = []
    rows: list[Values] = []
    for row in connection.execute(TASKS["find_waiting"], values):
        task = Task(*row)
        token = token_of(task, worker, at)
        leased.append(
            msgspec.structs.replace(task, worker=worker, token=token, expires_at=expires_at)
        )
        key = (task.unit, task.run, task.execution, task.seq, task.attempt)
        rows.append((worker, token, expires_at, *key))
    # Behind the reading, which walks the index that this changes.
    connection.executemany(TASKS["lease"], rows)
    return leased


def renew(
    connection: Connection, renewals: Sequence[Renewal], at: int
) -> list[Literal["kept", "lost"]]:
    """Extend leases whose row still has the token."""
    results: list[Literal["kept", "lost"]] = []
    for one in renewals:
        connection.execute(
            TASKS["renew"],
            (at + one.lease_ms, one.details, one.unit, one.seq, one.attempt, one.token),
        )
        if connection.changes():
            results.append("kept")
        else:
            results.append("lost")
    return results
