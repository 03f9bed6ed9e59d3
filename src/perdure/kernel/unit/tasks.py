"""Tasks: attempts of activities for workers elsewhere, as a turn adds and drops them.

A task is one attempt. It is added with the call, or with the failure of the attempt before, and it
goes with the result that its worker posts. The turn drops it in all other cases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.kernel.data.commit import Task
from perdure.kernel.data.message import ActivityDone
from perdure.kernel.data.queue import TaskCall, encode_call, rank_of
from perdure.kernel.data.retry import WORKER_LOST

if TYPE_CHECKING:
    from collections.abc import Iterable

    from perdure.kernel.data.commit import UnitRow
    from perdure.kernel.execution.execution import Execution
    from perdure.kernel.loop.call import ActivityCall
    from perdure.kernel.unit.mailbox import Entry
    from perdure.kernel.unit.turn import Turn

_SAID_BY_OWNER = (WORKER_LOST, "ActivityTimeout")
"""Failures that the owner of an instance finds out about a task."""


def know_tasks(run: Execution, row: UnitRow, stored: Iterable[Task]) -> None:
    """Note the tasks of the current execution that are stored."""
    for task in stored:
        if task.run == row.run and task.execution == row.execution:
            run.tasks.know(task.seq, task.attempt)


def add_task(run: Execution, row: UnitRow, turn: Turn, call: ActivityCall) -> None:
    """Have the next attempt of a queued call be a task, unless that is stored already."""
    assert run.queued is not None
    if run.ended is None and run.queued.needs_task(call.seq, call.attempt):
        turn.add_task(task_of(row, call, turn.now))


def drop_tasks(run: Execution, turn: Turn) -> None:
    """Drop the tasks that are not wanted any more."""
    queued = run.queued
    if queued is None:
        return
    if run.ended is not None:
        queued.leave_all()
    if queued.has_dropped:
        started = run.started
        for seq, attempt in queued.take_dropped():
            turn.drop_task((started.run, started.execution, seq, attempt))


def drop_stored(stored: Iterable[Task], turn: Turn) -> None:
    """Drop the tasks with which a unit was loaded, and which no run of it knows."""
    for task in stored:
        turn.drop_task((task.run, task.execution, task.seq, task.attempt))


def drop_late(turn: Turn, entry: Entry) -> None:
    """Drop the task of a result that comes too late, if the result has not taken its place.

    The owner itself says that an attempt is lost, and its task stands there until a commit drops
    it. A worker's result comes by the inbox.
    """
    body = entry.message.body
    if not isinstance(body, ActivityDone) or entry.stored or body.failure is None:
        return
    if body.failure.type in _SAID_BY_OWNER:
        turn.drop_task((body.run, body.execution, body.seq, body.attempt))


def task_of(row: UnitRow, call: ActivityCall, now: int) -> Task:
    """The task of the next attempt of a call at `now` (ms)."""
    options = call.options
    assert options.queue is not None
    visible_at = max(call.retry_at, now)
    ends_at: int | None = None
    limits: list[int] = []
    if options.total_timeout_ms is not None:
        ends_at = call.scheduled_at + options.total_timeout_ms
        limits.append(ends_at)
    if options.start_timeout_ms is not None:
        limits.append(visible_at + options.start_timeout_ms)
    about = TaskCall(row.type, row.type_version, call.scheduled_at, options.to_data())
    return Task(
        row.id,
        row.run,
        row.execution,
        call.seq,
        call.attempt,
        row.scope,
        options.queue,
        call.name,
        call.input,
        visible_at,
        # Without a worker this is how long it may wait for one.
        expires_at=min(limits, default=None),
        details=call.details,
        tag=options.tag,
        rank=rank_of(visible_at, options.priority),
        key=options.key,
        session=options.session,
        ends_at=ends_at,
        call=encode_call(about),
    )
