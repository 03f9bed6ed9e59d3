"""Messages for the waits of a run. One that does not fit the type of its wait is refused.

A refused message is a dead letter with the reason, in the commit of the turn. Nothing is recorded
of it, and the wait goes on. So replay has nothing to decide, and code of another version may have
another type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.kernel.data import events as ev
from perdure.kernel.data import message as msg
from perdure.kernel.execution.answers import misfit
from perdure.kernel.loop.entered import Entered

if TYPE_CHECKING:
    from perdure.kernel.execution.execution import Execution
    from perdure.kernel.unit.mailbox import Entry
    from perdure.kernel.unit.turn import Turn
    from perdure.kernel.unit.waiting import Waiting
    from perdure.kernel.unit.workflow_unit import WorkflowUnit


def offer(
    unit: WorkflowUnit,
    run: Execution,
    turn: Turn,
    entry: Entry,
    event: ev.Received | ev.EventRaised,
) -> None:
    """Deliver a message to the wait that takes it, or refuse it because it does not fit."""
    if not run.loop.turning:
        with Entered(run.loop):
            offer(unit, run, turn, entry, event)
        return
    reason = misfit(run, event)
    if reason is not None:
        turn.refuse(entry, reason)
        return
    unit.deliver(turn, event)
    turn.consume(entry)


def feed(waiting: Waiting, turn: Turn, run: Execution) -> None:
    """Give the code the messages of channels that it receives from now."""
    budget = turn.budget
    while run.ended is None and run.broken is None and budget.has_room():
        lane = waiting.first_lane(run.waits.first)
        if lane is None:
            return
        entry = waiting.from_lane(lane)
        message = entry.message
        body = message.body
        assert isinstance(body, msg.Send)
        budget.use(len(body.value))
        event = ev.Received(run.waits.first[lane], turn.now, message.id, body.value)
        reason = misfit(run, event)
        if reason is not None:
            turn.refuse(entry, reason)
        else:
            turn.consume(entry)
            run.deliver(event)
