"""The control lane: cancel, terminate, pause, resume, retry, place.

Control messages are taken before all others, also while the unit is paused or held. They are taken
before the next execution of a unit begins, too. Code that continues as new without waiting could
not be stopped otherwise. Only a cancel goes to the code, as a delivery. The others change the row,
or end the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.errors import Failure
from perdure.kernel.data import events as ev
from perdure.kernel.data import message as msg
from perdure.kernel.data.commit import CLOSED
from perdure.kernel.data.placement import group_of, scope_of
from perdure.kernel.unit import lifecycle

if TYPE_CHECKING:
    from perdure.kernel.data.commit import UnitRow
    from perdure.kernel.unit.mailbox import Entry
    from perdure.kernel.unit.turn import Turn
    from perdure.kernel.unit.workflow_unit import WorkflowUnit


def take(unit: WorkflowUnit, turn: Turn, entry: Entry) -> None:
    """Take one message of the control lane."""
    row = unit.row
    if row is None or turn.removes_unit:
        turn.consume(entry, "missing")
        return
    if row.status in CLOSED or (unit.run is not None and unit.run.ended is not None):
        turn.consume(entry, "closed")
        return
    match body := entry.message.body:
        case msg.Cancel():
            _cancel(unit, row, turn, entry, body)
            return
        case msg.Terminate():
            if body.run in (None, row.run):
                lifecycle.terminate(unit, row, turn, body.reason)
        case msg.Pause():
            _pause(unit, row, turn, body)
        case msg.Resume():
            _resume(unit, row, turn)
        case msg.Place():
            _place(unit, row, turn, body)
        case _:
            # A retry. The owner has loaded the unit again, so that only the row is left to change.
            row.suspect_of(0)
            turn.touch()
    turn.consume(entry)


def _place(unit: WorkflowUnit, row: UnitRow, turn: Turn, body: msg.Place) -> None:
    scope = body.scope
    if not scope:
        scope = scope_of(unit.id, unit.shards, group_of(row.scope))
    # In its own scope this is the message by which it was told that it has come.
    if unit.is_elsewhere is not None and scope != row.scope:
        lifecycle.move(unit, row, turn, scope)


def _pause(unit: WorkflowUnit, row: UnitRow, turn: Turn, body: msg.Pause) -> None:
    if row.paused:
        return
    row.pause()
    turn.touch()
    _note(unit, ev.Paused(turn.now, body.reason))


def _resume(unit: WorkflowUnit, row: UnitRow, turn: Turn) -> None:
    if not row.paused:
        return
    row.resume()
    turn.touch()
    _note(unit, ev.Resumed(turn.now))


def _cancel(unit: WorkflowUnit, row: UnitRow, turn: Turn, entry: Entry, body: msg.Cancel) -> None:
    if body.run not in (None, row.run):
        # It is meant for an earlier run of this id.
        turn.consume(entry)
        return
    if not row.started_at:
        turn.consume(entry)
        failure = Failure("CancelledError", body.reason, "cancelled", retryable=False)
        lifecycle.close(unit, turn, "cancelled", failure)
        return
    unit.begin_execution()
    run = unit.run
    if run is None or run.broken is not None:
        # The code cannot be asked now. It is asked when the unit is no longer held.
        unit.keep_control(turn, entry)
        return
    turn.consume(entry)
    if isinstance(run.ended, ev.ContinuedAsNew):
        run.cancel_instead(turn.now, body.reason)
    if run.ended is not None:
        # Code that began just now has ended at once, and nothing follows an end.
        return
    # A cancel ends a pause: the code has to run to clean up.
    _resume(unit, row, turn)
    if run.cancel_requested is None:
        unit.release()
        unit.deliver(turn, ev.CancelRequested(turn.now, body.reason))


def _note(unit: WorkflowUnit, event: ev.Event) -> None:
    """Write an event that the code is not told."""
    # Between two executions there is none. The next one's code has not run, and its first command
    # must stand right behind its start.
    if unit.run is not None and unit.run.broken is None:
        unit.run.note(event)
