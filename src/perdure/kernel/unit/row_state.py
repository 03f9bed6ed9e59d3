"""The state of a unit, as its row shows it to people and to the next owner.

A turn puts it into the row after the run was collected, and before it is packed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.kernel.data.commit import CLOSED
from perdure.kernel.unit import held

if TYPE_CHECKING:
    from perdure.kernel.data.commit import UnitRow
    from perdure.kernel.unit.turn import Turn
    from perdure.kernel.unit.workflow_unit import WorkflowUnit


MOVING = "moving"
"""The reason of an instance that goes to a node with the code that its owner lacks."""


def describe(unit: WorkflowUnit, row: UnitRow, turn: Turn) -> None:
    """Put the state that the unit is in into its row."""
    run = unit.run
    if row.status in CLOSED:
        turn.end()
        return
    is_leaving = unit.held is not None and _is_leaving(unit, row)
    if is_leaving:
        # At once, so that the next owner looks for that node if this one dies before.
        is_new = row.become("running", MOVING, 0, None)
    elif unit.held is not None:
        reason = held.REASONS.get(unit.held.type, unit.held.type)
        is_new = row.become("suspended", reason, None, unit.held)
    elif row.paused:
        is_new = row.become("suspended", "paused", None, None)
    elif not row.started_at:
        is_new = row.become("pending", "delayed", row.wake_at, None)
    elif run is None:
        is_new = row.become("running", None, 0, None)
    else:
        timer_at: int | None = None
        if run.deadlines:
            timer_at = run.timer_at()
        wake_at = run.wake_at(timer_at)
        is_new = row.become("running", run.waiting_for(), wake_at, None)
        if timer_at is not None:
            # Local work is under way, so only a timer is worth a turn of its own.
            turn.wait_until(timer_at)
    if is_new:
        turn.touch()
        if unit.held is not None and not is_leaving:
            turn.reach(held=True)
    if row.status != "running" or run is None:
        turn.wait_until(row.wake_at)


def _is_leaving(unit: WorkflowUnit, row: UnitRow) -> bool:
    """Whether it is held only until it is at a node that has its code."""
    if not unit.lacks or unit.is_elsewhere is None:
        return False
    return unit.is_elsewhere(row, unit.lacks)
