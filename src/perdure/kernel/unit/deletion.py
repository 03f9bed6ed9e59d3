"""Deleting a unit, and pruning the history of its ended executions.

A delete is a message like any other, so it is in order with the rest of a unit's life. It is taken
with the control messages (`control.py`), whatever state the unit is in. Its commit removes the row
and all that the unit owns.

An open unit is refused. With `force` it is ended first as by a terminate: its parent is told, and
its open children are told as their `parent_close` says. With `cascade` they are deleted as well.

A tombstone stays until a redelivered start of this run cannot come any more. Everything else that
came before the start of another run is answered as if there were no such unit. That start begins
anew, and all that came behind it is for its run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.kernel.data import message as msg
from perdure.kernel.data.commit import CLOSED
from perdure.kernel.data.placement import derived_id
from perdure.kernel.loop.call import ChildCall
from perdure.kernel.unit import lifecycle

if TYPE_CHECKING:
    from perdure.kernel.data.commit import Fence, UnitRow
    from perdure.kernel.unit.children import OpenChild
    from perdure.kernel.unit.mailbox import Entry, Mailbox
    from perdure.kernel.unit.turn import Turn
    from perdure.kernel.unit.workflow_unit import WorkflowUnit


def take(unit: WorkflowUnit, turn: Turn, entry: Entry, body: msg.Delete | msg.Prune) -> None:
    """Take a delete or a prune, whatever state the unit is in."""
    row = unit.row
    if row is None or turn.removes_unit:
        turn.consume(entry, "missing")
    elif isinstance(body, msg.Delete):
        _delete(unit, row, turn, entry, body)
    else:
        # The current execution is no history, also when the client has read an older state.
        turn.remove_history(number for number in body.executions if number < row.execution)
        turn.consume(entry)


def _delete(unit: WorkflowUnit, row: UnitRow, turn: Turn, entry: Entry, body: msg.Delete) -> None:
    run = unit.run
    if lifecycle.is_open(row, run):
        if not body.force:
            turn.consume(entry, "open")
            return
        _end(unit, row, turn, body)
    if run is not None and row.status not in CLOSED:
        lifecycle.settle(unit, run, turn)
    turn.consume(entry)
    # Until then the start of this run may be delivered again, and must not run again.
    last_start = row.created_at + unit.dedupe_ms
    if body.forget or last_start <= turn.now:
        turn.remove_unit(0)
    else:
        turn.remove_unit(last_start)


def _end(unit: WorkflowUnit, row: UnitRow, turn: Turn, body: msg.Delete) -> None:
    """End an open unit that is about to go."""
    run = unit.run
    # Before the run is ended, because it forgets its calls then.
    children: list[ChildCall | OpenChild] = [*unit.children_without_code]
    if run is not None and not children:
        children = [call for call in run.pending.values() if isinstance(call, ChildCall)]
    if not body.tell_parent:
        row.orphan()
    lifecycle.terminate(unit, row, turn, body.reason or "it was deleted")
    if body.cascade:
        _delete_children(turn, children, body)


def _delete_children(turn: Turn, children: list[ChildCall | OpenChild], body: msg.Delete) -> None:
    """Delete the children, whatever their `parent_close` says."""
    # A request to stop would find no unit, or would have a parent told that is gone.
    turn.unsend_stops({call.target for call in children})
    for call in children:
        below = msg.Delete(force=True, forget=body.forget, reason=body.reason, tell_parent=False)
        turn.send(call.target, below, derived_id(call.run, 0, call.seq, b"delete"))


def pack(
    unit: WorkflowUnit, row: UnitRow, turn: Turn, mailbox: Mailbox, fence: Fence, commit_id: bytes
) -> None:
    """Pack the turn that removes the unit. The start of another run, and what follows it, stays."""
    for entry in (*unit.waiting.take_all(), *mailbox.take_rest()):
        turn.consume(entry, "missing")
    if unit.run is not None:
        lifecycle.give_up(unit.run, turn)
    turn.pack_removal(row, unit.version, fence, commit_id, unit.dedupe_ms)
