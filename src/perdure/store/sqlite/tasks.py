"""Tasks and claims on SQLite tables: what `memory.rows` does to dictionaries, inside an open transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from perdure.kernel.data.commit import Fence, Task
from perdure.ports.store import Claim, Incarnation, Renewal, TaskMatch
from perdure.store.derived import token_of
from perdure.store.sqlite.apply import ids_json
from perdure.store.sqlite.connection import Connection
from perdure.store.statements import statements

SCOPES = statements("perdure.store.sqlite", "scopes")
TASKS = statements("perdure.store.sqlite", "tasks")


def claim(connection: Connection, scopes: Sequence[str], owner: Incarnation) -> dict[str, Claim]:
    """Take scopes over."""
    held = {
        scope: (epoch, bool(clean))
        for scope, epoch, clean in connection.execute(SCOPES["find_scopes"], (ids_json(scopes),))
    }
    claims: dict[str, Claim] = {}
    for scope in scopes:
        epoch, clean = held.get(scope, (0, True))
        claims[scope] = Claim(epoch + 1, clean)
    rows = [(scope, claim.epoch, owner.node, owner.id, False) for scope, claim in claims.items()]
    connection.executemany(SCOPES["set_scope"], rows)
    return claims


def held_scopes(connection: Connection, fences: Sequence[Fence]) -> list[str]:
    """The scopes that these fences own."""
    rights = map(msgspec.structs.astuple, fences)
    return [scope for (scope,) in connection.executemany(SCOPES["find_held"], rights)]


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
    """Lease tasks that nobody has had yet and that the worker can take, oldest first."""
    names = None if match.names is None else ids_json(match.names)
    values = (queue, at, names, ids_json(match.tags), limit)
    found = [Task(*row) for row in connection.execute(TASKS["find_waiting"], values)]
    for task in found:
        task.worker, task.token, task.expires_at = worker, token_of(task, worker, at), at + lease_ms
    rows = [
        (t.worker, t.token, t.expires_at, t.unit, t.run, t.execution, t.seq, t.attempt)
        for t in found
    ]
    connection.executemany(TASKS["lease"], rows)
    return found


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
        results.append("kept" if connection.changes() else "lost")
    return results
