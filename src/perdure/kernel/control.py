"""The control lane: cancel, terminate, pause, resume, retry. Seen before all other messages, also while the unit is
paused or held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.errors import Failure
from perdure.kernel import events as ev
from perdure.kernel import lifecycle
from perdure.kernel import message as msg
from perdure.kernel.commit import CLOSED, JournalChunk

if TYPE_CHECKING:
    from perdure.kernel.commit import UnitRow
    from perdure.kernel.unit import Unit


def take(unit: Unit, message: msg.Message) -> None:
    """Take one message of the control lane."""
    body, row, draft = message.body, unit.row, unit.draft
    if row is None or draft.delete is not None:
        draft.consumed(message, "missing")
        return
    run = unit.run
    ended = run.ended if run is not None else None
    if row.status in CLOSED or (ended is not None and not isinstance(ended, ev.ContinuedAsNew)):
        draft.consumed(message, "closed")
        return
    if ended is not None:
        unit.keep(message)  # for the next execution
        return
    match body:
        case msg.Cancel():
            _cancel(unit, row, message, body)
            return
        case msg.Terminate():
            if body.run in (None, row.run):
                terminate(unit, row, body.reason)
        case msg.Pause():
            if not row.paused:
                row.paused = draft.touched = True
                _note(unit, ev.Paused(draft.now, body.reason))
        case msg.Resume():
            _resume(unit, row)
        case _:  # Retry: the owner has loaded the unit again
            row.suspect, draft.touched = 0, True
    draft.consumed(message)


def _resume(unit: Unit, row: UnitRow) -> None:
    if row.paused:
        row.paused, unit.draft.touched = False, True
        _note(unit, ev.Resumed(unit.draft.now))


def _cancel(unit: Unit, row: UnitRow, message: msg.Message, body: msg.Cancel) -> None:
    run, draft = unit.run, unit.draft
    if body.run not in (None, row.run):
        draft.consumed(message)  # meant for an earlier run of this id
    elif not row.started_at:
        draft.consumed(message)
        lifecycle.close(unit, "cancelled", Failure("CancelledError", body.reason, "cancelled", retryable=False))
    elif run is None or run.broken is not None:
        unit.keep(message)  # its code cannot be asked now
    else:
        draft.consumed(message)
        _resume(unit, row)
        if run.cancel_requested is None:
            unit.held = None
            unit.deliver(ev.CancelRequested(draft.now, body.reason))


def _note(unit: Unit, event: ev.Event) -> None:
    """Write an event that the code is not told."""
    if unit.run is not None and unit.run.broken is None:
        unit.run.events.append(event)


def terminate(unit: Unit, row: UnitRow, reason: str) -> None:
    """End the unit without asking its code."""
    run, draft = unit.run, unit.draft
    event = ev.Terminated(draft.now, reason)
    if run is not None:
        run.events = [event] if run.broken is not None else [*run.events, event]
        run.ended = event
        run.broken = unit.held = None
        unit.give_up()
        return
    if row.started_at:
        row.journal_events += 1
        draft.chunks.append(JournalChunk(row.execution, row.journal_events, 1, ev.encode_events([event])))
    lifecycle.close(unit, "cancelled", Failure("Terminated", reason, "cancelled", retryable=False))
