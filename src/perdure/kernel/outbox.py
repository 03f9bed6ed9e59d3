"""What a run sends to other units: starts, messages and requests to stop, as messages of the turn's Commit.

Their ids are derived from the command that sends them, so that a repeated turn sends the same messages and not new
ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.errors import Failure
from perdure.kernel import events as ev
from perdure.kernel import message as msg
from perdure.kernel.call import Call, ChildCall
from perdure.kernel.placement import derived_id

if TYPE_CHECKING:
    from collections.abc import Iterable

    from perdure.kernel.draft import Draft
    from perdure.kernel.run import Run


def send_commands(draft: Draft, events: Iterable[ev.Event], run: Run) -> None:
    """Detached starts, messages and cancel requests that the code gave in this turn."""
    started = run.started
    for event in events:
        match event:
            case ev.CallStarted():
                body = msg.Start(
                    event.workflow, event.version, event.input, None, "join", None, draft.unit
                )
                draft.send(
                    event.target,
                    body,
                    derived_id(started.run, started.execution, event.seq, b"detached"),
                )
            case ev.MessageSent():
                message_id = derived_id(started.run, started.execution, event.seq, b"send")
                draft.send(event.target, msg.Send(event.channel, event.value), message_id)
            case ev.CancelSent():
                message_id = derived_id(started.run, started.execution, event.seq, b"cancel")
                draft.send(event.target, msg.Cancel(event.reason), message_id)
            case _:
                raise AssertionError(event)


def start_children(draft: Draft, run: Run, calls: Iterable[Call]) -> None:
    """Children that were called in this turn and are still wanted."""
    started = run.started
    for call in calls:
        if (
            type(call) is ChildCall and call.seq in run.pending
        ):  # isinstance would ask the abstract classes
            parent = ev.Parent(draft.unit, started.run, started.execution, call.seq)
            draft.send(
                call.target,
                msg.Start(call.workflow, call.version, call.input, parent, "reject"),
                call.run,
            )


def close_children(draft: Draft, run: Run, calls: Iterable[Call]) -> None:
    """Tell children that nobody waits for them any more, as their `parent_close` says."""
    for call in calls:
        if (
            not isinstance(call, ChildCall)
            or call in (run.opened or ())
            or call.parent_close == "abandon"
        ):
            continue
        reason = f"its parent {draft.unit!r} no longer waits for it"
        body = (
            msg.Terminate(reason, call.run)
            if call.parent_close == "terminate"
            else msg.Cancel(reason, call.run)
        )
        draft.send(call.target, body, derived_id(call.run, 0, call.seq, b"close"))


def reply(
    draft: Draft, parent: ev.Parent, run: bytes, result: bytes | None, failure: Failure | None
) -> None:
    """Tell the parent how the instance ended."""
    body = msg.Reply(parent.run, parent.execution, parent.seq, result, failure)
    draft.send(parent.unit, body, derived_id(run, 0, 0, b"reply"))
