"""Messages from a run to other units: starts, messages of channels, requests to stop, and replies.

They are a part of the turn's Commit, and go out when it is durable. Their ids are derived from the
command that sends them, so that a repeated turn sends the same messages and not new ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.errors import Failure
from perdure.kernel.data import events as ev
from perdure.kernel.data import message as msg
from perdure.kernel.data.placement import derived_id
from perdure.kernel.loop.call import Call, ChildCall

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from perdure.kernel.execution.execution import Execution
    from perdure.kernel.unit.children import OpenChild
    from perdure.kernel.unit.turn import Turn


def send_commands(turn: Turn, started: ev.Started, commands: Iterable[ev.Event]) -> None:
    """Send the detached starts, messages and cancel requests that the code gave in this turn."""
    for event in commands:
        match event:
            case ev.CallStarted():
                # "join", because a detached start that is sent again means the same instance.
                body = msg.Start(
                    event.workflow, event.version, event.input, None, "join", None, turn.unit
                )
                turn.send(event.target, body, _id_of(started, event.seq, b"detached"))
            case ev.MessageSent():
                message = msg.Send(event.channel, event.value)
                turn.send(event.target, message, _id_of(started, event.seq, b"send"))
            case ev.CancelSent():
                request = msg.Cancel(event.reason)
                turn.send(event.target, request, _id_of(started, event.seq, b"cancel"))
            case _:
                raise AssertionError(event)


def _id_of(started: ev.Started, seq: int, purpose: bytes) -> bytes:
    return derived_id(started.run, started.execution, seq, purpose)


def start_children(turn: Turn, run: Execution, opened: Iterable[Call]) -> None:
    """Start the children that were called in this turn and are still wanted."""
    started = run.started
    for call in opened:
        # `isinstance` would ask the abstract classes of `Call`, which is slow.
        if type(call) is not ChildCall or call.seq not in run.pending:
            continue
        parent = ev.Parent(turn.unit, started.run, started.execution, call.seq)
        # "reject": the reply must be that of this call's own child, and of no other instance.
        body = msg.Start(call.workflow, call.version, call.input, parent, "reject")
        turn.send(call.target, body, call.run)


def close_children(turn: Turn, calls: Iterable[Call], opened: Collection[Call]) -> None:
    """Tell children that their parent no longer waits, as their `parent_close` says.

    Children that were `opened` in this very turn are not started, so there is nothing to tell.
    """
    for call in calls:
        if isinstance(call, ChildCall) and call not in opened:
            _close_child(turn, call)


def close_recorded(turn: Turn, children: Iterable[OpenChild]) -> None:
    """The same for children that the parent's code does not know of. Some may have been told."""
    told = {message.id for message in turn.post}
    for child in children:
        if _id_of_close(child) not in told:
            _close_child(turn, child)


def _close_child(turn: Turn, child: ChildCall | OpenChild) -> None:
    if child.parent_close == "abandon":
        return
    reason = f"its parent {turn.unit!r} no longer waits for it"
    body: msg.Terminate | msg.Cancel = msg.Cancel(reason, child.run)
    if child.parent_close == "terminate":
        body = msg.Terminate(reason, child.run)
    turn.send(child.target, body, _id_of_close(child))


def _id_of_close(child: ChildCall | OpenChild) -> bytes:
    return derived_id(child.run, 0, child.seq, b"close")


def reply(
    turn: Turn, parent: ev.Parent, run: bytes, result: bytes | None, failure: Failure | None
) -> None:
    """Tell the parent how the instance ended."""
    body = msg.Reply(parent.run, parent.execution, parent.seq, result, failure)
    turn.send(parent.unit, body, derived_id(run, 0, 0, b"reply"))
