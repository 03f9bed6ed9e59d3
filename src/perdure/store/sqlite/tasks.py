"""Tasks and claims on SQLite tables, inside an open transaction.

The same is done to dictionaries by `memory.rows`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import starmap
from typing import Literal

from perdure.kernel.data.commit import Fence, Task
from perdure.ports.store import (
    Claim,
    Incarnation,
    Overdue,
    Page,
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


def lease(connection: Connection, request: TaskRequest) -> Leased:
    """Lease tasks that no worker has and that this one can take, by rank."""
    steps = leasing(request)
    found: object = None
    try:
        while True:
            found = _carry_out(connection, request, steps.send(found))
    except StopIteration as end:
        leased: Leased = end.value
        return leased


def _carry_out(connection: Connection, request: TaskRequest, step: Step) -> object:
    """Carry out a step of a lease. Return what it has found."""
    queue, worker, at = request.queue, request.worker, request.at
    match step:
        case ReadQueue():
            starts: bytes | None = connection.execute(TASKS["read_starts"], (queue,)).get
            keys: dict[str | None, int] = dict(connection.execute(TASKS["count_keys"], (queue,)))
            return QueueState(keys, starts)
        case FindTasks():
            return _find(connection, request, step)
        case ReadSessions():
            return dict(connection.execute(TASKS["read_sessions"], (queue, at)))
        case OpenSessions():
            connection.execute(TASKS["forget_sessions"], (at,))
            opened: list[str] = []
            for session in step.sessions:
                values = (queue, session, worker, step.until, at)
                # No row comes back if another worker has it.
                for (name,) in connection.execute(TASKS["open_session"], values):
                    opened.append(name)
            return opened
        case GiveTasks():
            connection.executemany(TASKS["lease"], map(_given, step.tasks))
        case NoteStarts():
            connection.execute(TASKS["write_starts"], (queue, step.starts))
        case FindNext():
            return connection.execute(TASKS["find_next"], (queue, at)).get
    return None


def _find(connection: Connection, request: TaskRequest, step: FindTasks) -> list[Task]:
    match = request.match
    names: str | None = None
    if match.names is not None:
        names = ids_json(match.names)
    values = (
        *(request.queue, request.at, names, ids_json(match.tags), step.limit),
        *(match.only_tagged, ids_json(step.full_keys), request.worker, step.may_open),
    )
    # All of them at once: what is leased leaves the index that this walks.
    return list(starmap(Task, connection.execute(TASKS["find_waiting"], values)))


def _given(task: Task) -> Values:
    key = (task.unit, task.run, task.execution, task.seq, task.attempt)
    return task.worker, task.token, task.expires_at, task.leased_at, *key


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


def give_back(connection: Connection, leases: Sequence[Renewal]) -> list[TaskHint]:
    """Take the worker from tasks whose row still has the token."""
    hints: dict[TaskHint, None] = {}
    for one in leases:
        values = (one.details, one.unit, one.seq, one.attempt, one.token)
        for (queue,) in connection.execute(TASKS["give_back"], values):
            hints[TaskHint(queue)] = None
    return list(hints)


def hold_sessions(connection: Connection, holds: Sequence[SessionHold], at: int) -> list[bool]:
    """Keep sessions, or give them up."""
    held: list[bool] = []
    for one in holds:
        key = (one.queue, one.session, one.worker)
        if one.lease_ms:
            connection.execute(TASKS["hold_session"], (*key, at + one.lease_ms))
        else:
            connection.execute(TASKS["drop_session"], key)
        held.append(connection.changes() > 0)
    return held


def waiting(connection: Connection, query: Waiting) -> Page[str]:
    """Queues that have a visible task without a worker."""
    queues = ids_json(sorted(set(query.queues)))
    values = (queues, waiting_from(query), query.at, query.limit + 1)
    return waiting_page(query, connection.execute(TASKS["waiting"], values))


def tasks_of_unit(connection: Connection, query: Tasks) -> Page[Task]:
    """The tasks of a unit, by the numbers of their calls."""
    values = (query.unit, *tasks_from(query), query.limit + 1)
    return tasks_page(query, starmap(Task, connection.execute(TASKS["tasks_of_unit"], values)))


def overdue(connection: Connection, query: Overdue) -> Page[Task]:
    """Tasks of scopes whose time has passed, the earliest first."""
    values = (ids_json(query.scopes), query.at, *overdue_from(query), query.limit + 1)
    return overdue_page(query, starmap(Task, connection.execute(TASKS["overdue"], values)))
