"""Tasks and claims on SQLite tables: what `tables` does to dictionaries, inside an open transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from perdure.kernel.commit import Fence, Task
from perdure.ports.store import Claim, Incarnation, Renewal
from perdure.store.apply import ids_json
from perdure.store.columns import TASK_COLUMNS
from perdure.store.connection import Connection
from perdure.store.tables import token_of

_SET_SCOPE = (
    "INSERT INTO scopes (scope, epoch, node, incarnation, clean) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (scope) DO UPDATE SET epoch = excluded.epoch,"
    " node = excluded.node, incarnation = excluded.incarnation, clean = excluded.clean"
)
_RELEASE = "UPDATE scopes SET node = NULL, incarnation = NULL, clean = 1 WHERE scope = ?"
_WAITING = (
    f"SELECT {TASK_COLUMNS} FROM tasks WHERE queue = ? AND worker IS NULL AND visible_at <= ?"  # noqa: S608 - no input
    " ORDER BY visible_at, unit, run, execution, seq, attempt LIMIT ?"
)
_LEASE = (
    "UPDATE tasks SET worker = ?, token = ?, expires_at = ?"
    " WHERE unit = ? AND run = ? AND execution = ? AND seq = ? AND attempt = ?"
)
_RENEW = (
    "UPDATE tasks SET expires_at = ?, details = coalesce(?, details)"
    " WHERE unit = ? AND seq = ? AND attempt = ? AND token = ?"
)


def claim(connection: Connection, scopes: Sequence[str], owner: Incarnation) -> dict[str, Claim]:
    """Take scopes over."""
    query = "SELECT scope, epoch, clean FROM scopes WHERE scope IN (SELECT value FROM json_each(?))"
    held = {
        scope: (epoch, bool(clean))
        for scope, epoch, clean in connection.execute(query, (ids_json(scopes),))
    }
    claims: dict[str, Claim] = {}
    for scope in scopes:
        epoch, clean = held.get(scope, (0, True))
        claims[scope] = Claim(epoch + 1, clean)
    rows = [(scope, claim.epoch, owner.node, owner.id, False) for scope, claim in claims.items()]
    connection.executemany(_SET_SCOPE, rows)
    return claims


def held_scopes(connection: Connection, fences: Sequence[Fence]) -> list[str]:
    """The scopes that these fences own."""
    query = "SELECT scope FROM scopes WHERE scope = ? AND epoch = ? AND incarnation = ?"
    return [
        scope for (scope,) in connection.executemany(query, map(msgspec.structs.astuple, fences))
    ]


def release(connection: Connection, fences: Sequence[Fence]) -> list[str]:
    """Give up the scopes that these fences own."""
    scopes = held_scopes(connection, fences)
    connection.executemany(_RELEASE, [(scope,) for scope in scopes])
    return scopes


def lease(
    connection: Connection, queue: str, worker: str, limit: int, lease_ms: int, at: int
) -> list[Task]:
    """Lease tasks that nobody has had yet, oldest first."""
    found = [Task(*row) for row in connection.execute(_WAITING, (queue, at, limit))]
    for task in found:
        task.worker, task.token, task.expires_at = worker, token_of(task, worker, at), at + lease_ms
    rows = [
        (t.worker, t.token, t.expires_at, t.unit, t.run, t.execution, t.seq, t.attempt)
        for t in found
    ]
    connection.executemany(_LEASE, rows)
    return found


def renew(
    connection: Connection, renewals: Sequence[Renewal], at: int
) -> list[Literal["kept", "lost"]]:
    """Extend leases whose row still has the token."""
    results: list[Literal["kept", "lost"]] = []
    for one in renewals:
        connection.execute(
            _RENEW, (at + one.lease_ms, one.details, one.unit, one.seq, one.attempt, one.token)
        )
        results.append("kept" if connection.changes() else "lost")
    return results
