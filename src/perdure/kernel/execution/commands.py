"""Commands that workflow code gives: activities, children, messages to others, waits, checkpoints.

The functions of `perdure.workflow` call these. Each command is recorded, or found in the journal,
before anything comes of it. New calls are handed out with the turn (`kernel/unit/collect.py`).
Commands that change what the execution remembers are in `changes.py`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from perdure.kernel.data import events as ev
from perdure.kernel.data.placement import child_id, child_run
from perdure.kernel.loop.call import ActivityCall, CheckpointCall, ChildCall, WaitCall

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from perdure.codec import Signature
    from perdure.kernel.data.definition import (
        ActivityDefinition,
        ActivityOptions,
        WorkflowDefinition,
    )
    from perdure.kernel.execution.execution import Execution
    from perdure.kernel.loop.call import Reader

# ---------------------------------------------------------------- work of this node


def schedule_activity(
    run: Execution, definition: ActivityDefinition, options: ActivityOptions, data: bytes
) -> ActivityCall:
    """Call an activity with encoded arguments.

    Raises:
        PayloadError: they do not fit its signature, or are too large.
    """
    # The number is used up only when the command is not refused (`Execution.open`).
    seq = run.seq + 1
    event = ev.ActivityScheduled(seq, definition.name, data, options.queue, options.session)
    _, new = run.command(event, partial(_check, run, definition.signature, data))
    call = ActivityCall(loop=run.loop)
    call.ask(run, seq, definition, options, data, run.loop.now_ms)
    run.open(call, new=new)
    return call


def start_checkpoint(
    run: Execution,
    name: str,
    fn: Callable[[], Awaitable[Any] | Any],
    encode: Callable[[Any], bytes],
    codec: Reader,
) -> CheckpointCall:
    """Run a function in this process once and record its outcome."""
    occurrence = run.variables.next_occurrence(name)
    seq = run.seq + 1
    _, new = run.command(ev.CheckpointStarted(seq, name, occurrence))
    call = CheckpointCall(loop=run.loop)
    call.ask(run, seq, name, occurrence, fn, encode, codec)
    run.open(call, new=new)
    return call


def _check(run: Execution, signature: Signature, data: bytes) -> None:
    signature.check(data)
    run.check_size(data, f"the input of {signature.what}")


# ---------------------------------------------------------------- other instances


def start_child(
    run: Execution,
    definition: WorkflowDefinition,
    version: str | None,
    data: bytes,
    target: str | None,
    parent_close: ev.ParentClose,
) -> ChildCall:
    """Call another instance and await its reply.

    Raises:
        PayloadError: the arguments do not fit, or are too large.
    """
    seq = run.seq + 1
    if target is None:
        target = _child_id(run, seq)
    event = ev.CallStarted(seq, target, definition.name, version, data, False, parent_close)
    _, new = run.command(event, partial(_check, run, definition.signature, data))
    call = ChildCall(loop=run.loop)
    started = run.started
    run_of_child = child_run(started.run, started.execution, seq)
    call.ask(run, seq, event, run_of_child, definition.signature.result)
    run.open(call, new=new)
    return call


def _child_id(run: Execution, seq: int) -> str:
    started = run.started
    if started.flags & ev.RUN_IN_CHILD_IDS:
        return child_id(run.unit, started.run, started.execution, seq)
    # An older release began it, and replay must give the same ids.
    return f"{run.unit}/{started.execution}.{seq}"


def start_detached(
    run: Execution,
    workflow: str,
    version: str | None,
    data: bytes,
    target: str | None,
    check: Callable[[], None],
) -> str:
    """Start an instance that has no parent, and give its id.

    It is started even if this run ends in the same turn.
    """
    seq = run.seq + 1
    if target is None:
        target = _child_id(run, seq)
    event = ev.CallStarted(seq, target, workflow, version, data, True, "abandon")
    run.send(event, check)
    return target


def send_message(
    run: Execution, target: str, channel: str, value: bytes, check: Callable[[], None]
) -> None:
    """Send a message to another instance when this turn is durable.

    Raises:
        PayloadError: `check` refuses it, or it is too large.
    """

    def check_all() -> None:
        check()
        run.check_size(value, f"the message for channel {channel!r}")

    run.send(ev.MessageSent(run.seq + 1, target, channel, value), check_all)


def send_cancel(run: Execution, target: str, reason: str) -> None:
    """Ask another instance to stop when this turn is durable."""
    run.send(ev.CancelSent(run.seq + 1, target, reason))


# ---------------------------------------------------------------- waits


def wait(run: Execution, channel: str, codec: Reader, *, positional: bool) -> WaitCall:
    """Wait for a message of a channel, or for a positional event."""
    seq = run.seq + 1
    _, new = run.command(ev.WaitStarted(seq, channel, positional))
    call = WaitCall(loop=run.loop)
    call.ask(run, seq, channel, codec, positional=positional)
    run.open(call, new=new)
    return call
