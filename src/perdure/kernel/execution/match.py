"""Comparing commands of the code with its journal, and reporting where they part.

Replay asks `matches` when a command is not simply equal to the next event of the journal. A command
matches when its kind and the parts that matter are equal: names, inputs, targets, queues. These may
differ: the delay of a timer, the text of a custom status, and the values of optional arguments that
a newer signature adds. Everything else is a mismatch.

A mismatch is a report, and no exception in the workflow's code, because the code must not be able
to swallow it. The report names the user's file and line, which the functions at the end find.
"""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure.codec import alike, digest
from perdure.errors import Failure
from perdure.kernel.data import events as ev
from perdure.kernel.execution import refusal
from perdure.kernel.execution.difference import difference
from perdure.kernel.loop.disposal import chain

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from perdure.kernel.data.definition import Definitions
    from perdure.kernel.loop.loop import WorkflowLoop

NONDETERMINISM = "NondeterminismError"
DIFFERENCE = "Difference"
"""The type of the cause that has the field that differs, with both values."""


# Tags of deliveries are below this.
_COMMANDS = 32

_OWN_FILES = (__file__.rsplit("kernel", 1)[0], str(asyncio.__file__).rsplit("__init__", 1)[0])
"""Beginnings of file names that are not the user's: ours and asyncio's."""

_BELOW_CODE = ("drain", "wind_up", "replay")
"""Functions of ours that call workflow code. Their callers are the node."""

_DRAIN = str(Path(__file__).parent.parent / "loop" / "loop.py")


def matches(recorded: ev.Event, given: ev.Event, definitions: Definitions) -> bool:
    """Whether a command that is not equal to the recorded one still is the same command."""
    if type(recorded) is not type(given):
        return False
    match given:
        # The journal's time, value and outcome count, whatever the code would give now.
        case ev.TimerStarted():
            assert isinstance(recorded, ev.TimerStarted)
            return (recorded.seq, recorded.name) == (given.seq, given.name)
        case ev.ValueRecorded():
            assert isinstance(recorded, ev.ValueRecorded)
            return (recorded.name, recorded.occurrence) == (given.name, given.occurrence)
        case ev.StatusSet() | ev.AttributesSet() | ev.Completed() | ev.Failed() | ev.Cancelled():
            return True
        case ev.ActivityScheduled():
            assert isinstance(recorded, ev.ActivityScheduled)
            was = (recorded.seq, recorded.name, recorded.queue, recorded.session)
            if was != (given.seq, given.name, given.queue, given.session):
                return False
            activity = definitions.find_activity(given.name)
            # Values are compared, and no bytes: a default that the signature has since is allowed.
            return activity is not None and activity.signature.same(recorded.input, given.input)
        case ev.CallStarted():
            assert isinstance(recorded, ev.CallStarted)
            was_call = (recorded.seq, recorded.target, recorded.workflow, recorded.detached)
            if was_call != (given.seq, given.target, given.workflow, given.detached):
                return False
            child = definitions.find_workflow(given.workflow, given.version)
            return child is not None and child.signature.same(recorded.input, given.input)
        case ev.MessageSent():
            assert isinstance(recorded, ev.MessageSent)
            was_sent = (recorded.seq, recorded.target, recorded.channel)
            # The type of a channel may have changed since.
            return was_sent == (given.seq, given.target, given.channel) and alike(
                recorded.value, given.value
            )
        case _:
            return False


def describe(event: ev.Event | None) -> str:
    """A command or delivery in a few words."""
    match event:
        case None:
            return "nothing more"
        case ev.ActivityScheduled():
            return _describe_activity(event)
        case ev.TimerStarted():
            return f"a timer{_quoted(event.name)}"
        case ev.WaitStarted():
            return _describe_wait(event)
        case ev.CallStarted():
            return _describe_call(event)
        case ev.CommandCancelled():
            return f"the cancellation of command {event.seq}"
        case ev.CheckpointStarted():
            return f"checkpoint {event.name!r}"
        case ev.ValueRecorded():
            return f"the value {event.name!r}"
        case ev.KvSet() | ev.KvDeleted():
            return f"a change of the KV key {event.key!r}"
        case ev.AttributesSet():
            return "a change of the search attributes"
        case ev.PatchMarked():
            return f"the patch {event.id!r}"
        case ev.Refused():
            command = refusal.command_name(event.command)
            return f"the refusal of {command}{_quoted(event.subject)} ({event.error})"
        case ev.Completed():
            return "the end of the workflow"
        case _:
            return type(event).__name__


# An input may be large, or a secret. Its digest is enough to see that it differs, and `difference`
# finds the field.


def _describe_activity(event: ev.ActivityScheduled) -> str:
    place = ""
    if event.queue:
        place = f" on queue {event.queue!r}"
    return f"a call of activity {event.name!r}{place} (input {digest(event.input)})"


def _describe_wait(event: ev.WaitStarted) -> str:
    if event.positional:
        return f"a wait for event {event.channel!r}"
    return f"a wait for channel {event.channel!r}"


def _describe_call(event: ev.CallStarted) -> str:
    kind = "a call"
    if event.detached:
        kind = "a detached start"
    target = f"id {event.target!r}, input {digest(event.input)}"
    return f"{kind} of workflow {event.workflow!r} ({target})"


def _quoted(name: str | None) -> str:
    if not name:
        return ""
    return f" {name!r}"


def report(
    index: int,
    recorded: ev.Event | None,
    given: ev.Event | None,
    where: str,
    python: tuple[str, str],
) -> Failure:
    """The failure that says where journal and code part.

    `index` counts events from 1. `where` is a line of the code. `python` is the version that began
    the execution, and the one that runs.
    """
    if recorded is None or refusal.tag_of(type(recorded)) >= _COMMANDS:
        journal = f"the journal has {describe(recorded)}"
    else:
        journal = f"the journal has no command here ({describe(recorded)} comes next)"
    code = "the code did nothing"
    causes: tuple[tuple[str, str], ...] = ()
    if given is not None:
        code = f"the code did {describe(given)}"
        found = None
        if recorded is not None:
            found = difference(recorded, given)
        if found is not None:
            code = f"{code}, and {found.field} differs"
            # Apart from the message, which is logged: values may be secrets.
            causes = ((DIFFERENCE, str(found)),)
    # Another Python may run the same tasks in another order, so nothing else need be wrong.
    if python[0] != python[1]:
        remedy = (
            f"the execution began on Python {python[0]} and this node runs {python[1]}: "
            "run it on the old one first"
        )
    else:
        remedy = (
            "deploy code that does the same up to here, put the change behind "
            "`workflow.patched(id)`, or give the new code a new version; then it goes on by "
            "itself. Or the code reads a clock or chance: use workflow.now(), workflow.random() "
            "or workflow.uuid4(), and run `perdure lint`. If another Python than "
            f"{python[1]} has run it since it began, run it there"
        )
    return Failure(
        type=NONDETERMINISM,
        message=f"at event {index}, {where}: {journal}, but {code}. Remedy: {remedy}.",
        category="configuration",
        retryable=False,
        causes=causes,
    )


def user_line(stack: list[str]) -> str | None:
    """The innermost line of the workflow's code in a stack. None if it has none.

    The stack's lines are "file:line function", innermost last.
    """
    # The workflow's lines come after the last `drain`. Those before it are the node's own.
    found = None
    is_inside = False
    for line in stack:
        if line.startswith(_DRAIN):
            is_inside = True
            found = None
        elif is_inside and not line.startswith(_OWN_FILES):
            found = line
    return found


def calling_line() -> str | None:
    """File, line and function of the innermost workflow code on the stack.

    None if the call does not come from workflow code.
    """
    frame: FrameType | None = inspect.currentframe()
    while frame is not None:
        code = frame.f_code
        if not code.co_filename.startswith(_OWN_FILES):
            return f"{code.co_filename}:{frame.f_lineno} in {code.co_name}"
        if code.co_name in _BELOW_CODE:
            return None
        frame = frame.f_back
    return None


def waiting_lines(loop: WorkflowLoop) -> list[str]:
    """The lines at which the tasks of an execution wait.

    Each is the innermost user line of a task. The main task comes first.
    """
    lines: list[str] = []
    for task in loop.tasks:
        if task.done():
            continue
        line = None
        for suspended in chain(task.get_coro()):
            frame = _frame_of(suspended)
            if frame is not None and not frame.f_code.co_filename.startswith(_OWN_FILES):
                line = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
        if line is not None:
            lines.append(line)
    return lines


def end_line(loop: WorkflowLoop, fn: Callable[..., Any]) -> str:
    """The line at which the code of an execution waits. It may be at its end."""
    lines = waiting_lines(loop)
    if lines:
        return f"the code waits at {lines[0]}"
    code = fn.__code__
    return f"{code.co_filename}:{code.co_firstlineno} at the end of {code.co_name}"


def _frame_of(suspended: object) -> FrameType | None:
    # A coroutine, a generator and an asynchronous generator have it under a name each.
    for name in ("cr_frame", "gi_frame", "ag_frame"):
        frame: FrameType | None = getattr(suspended, name, None)
        if frame is not None:
            return frame
    return None
