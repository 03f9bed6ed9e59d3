"""The control lane: cancel, terminate, pause, resume, retry.

They are taken before all other messages, also while the unit is paused or held, and before the next
execution of a unit begins: code that continues as new without waiting could not be stopped otherwise.
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
    from perdure.kernel.mailbox import Entry
    from perdure.kernel.unit import Unit


def take(unit: Unit, entry: Entry) -> None:
    """Take one message of the control lane."""
    body, row, draft = entry.message.body, unit.row, unit.draft
    if row is None or draft.delete is not None:
        draft.consumed(entry, "missing")
        return
    if row.status in CLOSED or (unit.run is not None and unit.run.ended is not None):
        draft.consumed(entry, "closed")
        return
    match body:
        case msg.Cancel():
            _cancel(unit, row, entry, body)
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
    draft.consumed(entry)


def _resume(unit: Unit, row: UnitRow) -> None:
    if row.paused:
        row.paused, unit.draft.touched = False, True
        _note(unit, ev.Resumed(unit.draft.now))


def _cancel(unit: Unit, row: UnitRow, entry: Entry, body: msg.Cancel) -> None:
    draft = unit.draft
    if body.run not in (None, row.run):
        draft.consumed(entry)  # meant for an earlier run of this id
        return
    if not row.started_at:
        draft.consumed(entry)
        lifecycle.close(
            unit, "cancelled", Failure("CancelledError", body.reason, "cancelled", retryable=False)
        )
        return
    unit.begin_execution()
    run = unit.run
    if run is None or run.broken is not None:
        unit.keep_control(entry)  # its code cannot be asked now
        return
    draft.consumed(entry)
    _resume(unit, row)
    if isinstance(run.ended, ev.ContinuedAsNew):
        run.cancel_instead(draft.now, body.reason)
    elif run.cancel_requested is None:
        unit.held = None
        unit.deliver(ev.CancelRequested(draft.now, body.reason))


def _note(unit: Unit, event: ev.Event) -> None:
    """Write an event that the code is not told.

    Between two executions there is none: the next one's code has not run, so that what it does
    first must be the first thing behind its start.
    """
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
        draft.chunks.append(
            JournalChunk(row.execution, row.journal_events, 1, ev.encode_events([event]))
        )
    lifecycle.close(unit, "cancelled", Failure("Terminated", reason, "cancelled", retryable=False))
