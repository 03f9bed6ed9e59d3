"""Deleting a unit, and pruning the history of its ended executions.

Theory of operation. A delete is a message like any other, so it is in order with the rest of a unit's life: its commit
removes the row and all that the unit owns. An open unit is refused, or, with `force`, ended first as by a terminate:
its parent is told, its open children are told as their `parent_close` says, and with `cascade` deleted as well. A
tombstone stays until a redelivered start of this run cannot come any more. What else is in the
mailbox is answered as if there were no such unit, except for starts of other runs, which begin anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.kernel import control, lifecycle, outbox
from perdure.kernel import events as ev
from perdure.kernel import message as msg
from perdure.kernel.call import ChildCall
from perdure.kernel.commit import CLOSED
from perdure.kernel.placement import derived_id
from perdure.kernel.turn import Turn

if TYPE_CHECKING:
    from perdure.kernel.commit import Fence, UnitRow
    from perdure.kernel.draft import Draft
    from perdure.kernel.mailbox import Entry, Mailbox
    from perdure.kernel.unit import Unit

START_DEDUPE_MS = 30 * 24 * 3600 * 1000
"""How long after a start the same start may be delivered again (WRITE_PATH 10)."""


def take(unit: Unit, entry: Entry, body: msg.Delete | msg.Prune) -> None:
    """Take a delete or a prune, whatever state the unit is in."""
    row, draft = unit.row, unit.draft
    if row is None or draft.delete is not None:
        draft.consumed(entry, "missing")
    elif isinstance(body, msg.Delete):
        _delete(unit, row, entry, body)
    else:
        draft.prune.extend(
            e for e in body.executions if e < row.execution
        )  # one turn may take several
        draft.touched = True
        draft.consumed(entry)


def _delete(unit: Unit, row: UnitRow, entry: Entry, body: msg.Delete) -> None:
    draft, run = unit.draft, unit.run
    ended = run.ended if run is not None else None
    is_open = row.status not in CLOSED and (ended is None or isinstance(ended, ev.ContinuedAsNew))
    if is_open and not body.force:
        draft.consumed(entry, "open")
        return
    if is_open:
        children = (
            [c for c in run.pending.values() if isinstance(c, ChildCall)] if run is not None else []
        )
        if not body.tell_parent:
            row.parent = None
        control.terminate(unit, row, body.reason or "it was deleted")
        if body.cascade:
            _delete_children(draft, children, body)
    if run is not None and row.status not in CLOSED:
        lifecycle.settle(unit, run)
    draft.consumed(entry)
    last_start = row.created_at + START_DEDUPE_MS
    draft.delete = last_start if last_start > draft.now and not body.forget else 0


def _delete_children(draft: Draft, children: list[ChildCall], body: msg.Delete) -> None:
    """Instead of what their `parent_close` says: a request to stop would find nobody, or have a parent told that is
    gone.
    """
    targets = {call.target for call in children}
    draft.post = [
        m
        for m in draft.post
        if m.to not in targets or not isinstance(m.body, msg.Cancel | msg.Terminate)
    ]
    for call in children:
        below = msg.Delete(force=True, forget=body.forget, reason=body.reason, tell_parent=False)
        draft.send(call.target, below, derived_id(call.run, 0, call.seq, b"delete"))


def pack(unit: Unit, mailbox: Mailbox, fence: Fence, commit_id: bytes) -> Turn:
    """The turn that removes the unit. Starts of other runs stay in the mailbox."""
    row, draft, run = unit.row, unit.draft, unit.run
    assert row is not None
    turn = Turn(None, draft.answers, closed=True, deleted=True)
    for entry in (*unit.waiting.take_all(), *mailbox.take_rest()):
        draft.consumed(entry, "missing")
    if run is not None:
        outbox.send_commands(draft, run.outgoing or (), run)
        cancelled = run.cancelled_calls or ()
        outbox.close_children(draft, run, cancelled)
        turn.cancelled.extend(cancelled)
    turn.cancelled.extend(draft.cancelled)
    draft.chunks, draft.ended, draft.kv = [], [], []
    turn.commit = draft.commit(row, unit.version, fence, commit_id)
    unit.version = 0
    return turn
