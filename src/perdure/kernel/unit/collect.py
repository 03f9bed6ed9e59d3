"""Collecting the results of a run in a turn: its events, messages, work and variables.

This comes after all messages were delivered, and before the turn is packed. The run gives each
result once. They go into the turn in the order in which one depends on the other. The journal is
first, because it may be too long and end the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.errors import Failure
from perdure.kernel.data import events as ev
from perdure.kernel.data import message as msg
from perdure.kernel.data.commit import CLOSED, JournalChunk
from perdure.kernel.data.placement import activity_of
from perdure.kernel.loop.call import ActivityCall, Call, CheckpointCall
from perdure.kernel.unit import held, lifecycle, outbox
from perdure.kernel.unit.tasks import add_task, drop_tasks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from perdure.kernel.data.commit import UnitRow
    from perdure.kernel.data.limits import Limits
    from perdure.kernel.execution.execution import Execution
    from perdure.kernel.execution.progress import Progress
    from perdure.kernel.execution.variables import Changes
    from perdure.kernel.unit.turn import Turn
    from perdure.kernel.unit.workflow_unit import WorkflowUnit

_LOCAL = (ActivityCall, CheckpointCall)
"""Calls whose work is done on the unit's own node."""


def collect(unit: WorkflowUnit, run: Execution, row: UnitRow, turn: Turn, *, more: bool) -> None:
    """Take the results of the run since the last turn.

    `more` says that the mailbox holds messages that this turn did not take.
    """
    if run.logs:
        turn.log(run.take_logs())
    # It has work open or waits for something, mostly. Then there is nothing to look into.
    if unit.held is None and run.ended is None and (run.broken is not None or not run.pending):
        unit.check_run()
    if run.broken is not None:
        # Its events do not fit the journal.
        run.discard()
        if run.definition.on_mismatch == "fail":
            lifecycle.fail(unit, run, turn, run.broken)
    elif run.ended is not None and run.events:
        lifecycle.settle(unit, run, turn)
    if run.events:
        _append_events(unit, run, row, turn)
    if run.has_progress:
        _collect_progress(unit, run, row, turn, run.take_progress(), more=more)
    elif unit.rederives:
        _collect_work(unit, run, row, turn, (), more=more)
    if run.queued is not None:
        drop_tasks(run, turn)
    if row.status in CLOSED:
        turn.unsend_to_self()
    ended = run.ended
    if isinstance(ended, ev.ContinuedAsNew):
        _store_variables(run, row, turn, run.variables.take_changes(last=True))
        lifecycle.continue_as_new(unit, run, row, turn, ended)
    elif run.variables.is_changed:
        _store_variables(run, row, turn, run.variables.take_changes(last=False))


def _collect_progress(
    unit: WorkflowUnit, run: Execution, row: UnitRow, turn: Turn, progress: Progress, *, more: bool
) -> None:
    """Take the requests of the code."""
    if progress.outgoing:
        outbox.send_commands(turn, run.started, progress.outgoing)
    if progress.cancelled:
        outbox.close_children(turn, progress.cancelled, progress.opened)
        turn.give_up(progress.cancelled)
    if progress.opened:
        outbox.start_children(turn, run, progress.opened)
    if progress.opened or unit.rederives:
        _collect_work(unit, run, row, turn, progress.opened, more=more)


# ---------------------------------------------------------------- the journal


def _append_events(unit: WorkflowUnit, run: Execution, row: UnitRow, turn: Turn) -> None:
    """Write the run's new events, and fail the run if they cross a limit."""
    events = run.take_events()
    data = ev.encode_events(events)
    limits = unit.limits
    count, size = row.journal_events + len(events), row.journal_bytes + len(data)
    is_over = count > limits.history_events or size > limits.history_bytes
    if is_over and run.ended is None:
        over = _over_limit(count, size, limits)
        text = f"{over}: use workflow.continue_as_new before that"
        failure = Failure("LimitExceeded", text, "application", retryable=False)
        lifecycle.fail(unit, run, turn, failure)
        events += run.take_events()
        data = ev.encode_events(events)
    elif count >= limits.history_events * 8 // 10 or size >= limits.history_bytes * 8 // 10:
        warning = _near_limit(row, count, size, limits)
        if warning is not None:
            turn.warn(warning)
    first = row.journal_events + 1
    row.grow(len(events), len(data))
    turn.append(JournalChunk(run.started.execution, first, len(events), data))


def _near_limit(row: UnitRow, events: int, size: int, limits: Limits) -> str | None:
    """The warning of a history that has come to this length and size. None: it needs none."""
    # Once, by the turn that crosses the line of 80 %, which leaves time for a deploy.
    if row.journal_events < limits.history_events * 8 // 10 <= events:
        has = f"{events} events"
        end = f"at {limits.history_events} the run fails (Limits.history_events)"
    elif row.journal_bytes < limits.history_bytes * 8 // 10 <= size:
        has = f"{size} bytes"
        end = f"at {limits.history_bytes} the run fails (Limits.history_bytes)"
    else:
        return None
    return f"the history of {row.id!r} has {has}; {end}: use workflow.continue_as_new"


def _over_limit(events: int, size: int, limits: Limits) -> str:
    if events > limits.history_events:
        return (
            f"the history would have {events} events; the limit is "
            f"{limits.history_events} (Limits.history_events)"
        )
    return (
        f"the history would have {size} bytes; the limit is "
        f"{limits.history_bytes} (Limits.history_bytes)"
    )


# ---------------------------------------------------------------- work


def _collect_work(
    unit: WorkflowUnit,
    run: Execution,
    row: UnitRow,
    turn: Turn,
    opened: Iterable[Call],
    *,
    more: bool,
) -> None:
    """Activities and checkpoints to run: those of this turn, and after a load all that are open."""
    if unit.held is not None:
        # No work begins for it, and the next load hands out all that is open.
        return
    if unit.rederives:
        if more:
            # A result may wait in the inbox, so the inbox has to be seen through first.
            return
        opened = [call for call in run.pending.values() if isinstance(call, Call)]
    done: set[int] = set()
    if unit.waiting.kept:
        done = _done_while_paused(unit, row)
    for call in opened:
        # `isinstance` would ask the abstract classes of `Call`, which is slow.
        kind = type(call)
        if kind not in _LOCAL or call.seq not in run.pending or call.seq in done:
            continue
        if isinstance(call, ActivityCall):
            # Another node may have code for it that this one lacks.
            if run.queued is not None and run.queued.is_open(call.seq):
                add_task(run, row, turn, call)
                continue
            if unit.definitions.find_activity(call.name) is None:
                unit.hold(held.missing_activity(call.name), _code_of_calls(run))
                turn.run_nothing()
                return
        turn.run(call)
    unit.has_derived_work()


def _code_of_calls(run: Execution) -> str:
    """The code of all open activities, as pins name it.

    Not only what is missing: two nodes with a part each would hand the unit to each other for ever.
    """
    names: set[str] = set()
    for call in run.pending.values():
        # Workers run those of a queue, wherever the unit is.
        is_task = run.queued is not None and run.queued.is_open(call.seq)
        if isinstance(call, ActivityCall) and not is_task:
            names.add(call.name)
    return "+".join(activity_of(name) for name in sorted(names))


def _done_while_paused(unit: WorkflowUnit, row: UnitRow) -> set[int]:
    """Calls whose result waits among the kept messages already."""
    done: set[int] = set()
    for entry in unit.waiting.kept:
        body = entry.message.body
        if not isinstance(body, msg.ActivityDone | msg.CheckpointDone):
            continue
        if body.run == row.run and body.execution == row.execution:
            done.add(body.seq)
    return done


# ---------------------------------------------------------------- variables


def _store_variables(run: Execution, row: UnitRow, turn: Turn, changes: Changes) -> None:
    turn.store_kv(changes.kv)
    if changes.has_status:
        row.show_status(run.variables.status)
    if changes.has_attributes:
        row.tag(run.variables.attributes)
