"""Comparing what the code does with what its journal says, and saying clearly where they part.

A command matches when its kind and the parts that matter are equal: names, inputs, targets, queues. What may differ:
the delay of a timer, the text of a custom status, the values of optional arguments that a newer signature adds.
Everything else is a mismatch, and a mismatch is a report, not an exception in the workflow's code: the code must not
be able to swallow it.
"""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path
from typing import TYPE_CHECKING

from perdure.codec import digest
from perdure.errors import Failure
from perdure.kernel.data import events as ev
from perdure.kernel.execution import refusal

if TYPE_CHECKING:
    from types import FrameType

    from perdure.kernel.data.definition import Definitions
    from perdure.kernel.loop.loop import WorkflowLoop

NONDETERMINISM = "NondeterminismError"

_OWN_FILES = (__file__.rsplit("kernel", 1)[0], str(asyncio.__file__).rsplit("__init__", 1)[0])
"""Beginnings of file names that are not the user's: ours and asyncio's."""

_BELOW_CODE = ("drain", "wind_up", "replay")
"""Functions of ours below which the stack is not the workflow's any more."""

_DRAIN = str(Path(__file__).parent.parent / "loop" / "loop.py")


def matches(recorded: ev.Event, given: ev.Event, definitions: Definitions) -> bool:
    """Whether a command that is not equal to the recorded one still is the same command."""
    if type(recorded) is not type(given):
        return False
    match given:
        case ev.TimerStarted():
            return (
                isinstance(recorded, ev.TimerStarted)
                and recorded.seq == given.seq
                and recorded.name == given.name
            )
        case ev.ValueRecorded():
            assert isinstance(recorded, ev.ValueRecorded)
            return (recorded.name, recorded.occurrence) == (given.name, given.occurrence)
        case ev.StatusSet() | ev.Completed() | ev.AttributesSet():
            return True
        case ev.Failed() | ev.Cancelled():
            return True
        case ev.ActivityScheduled():
            assert isinstance(recorded, ev.ActivityScheduled)
            definition = definitions.find_activity(given.name)
            return (
                (recorded.seq, recorded.name, recorded.queue, recorded.session)
                == (given.seq, given.name, given.queue, given.session)
                and definition is not None
                and definition.signature.same(recorded.input, given.input)
            )
        case ev.CallStarted():
            assert isinstance(recorded, ev.CallStarted)
            child = definitions.find_workflow(given.workflow, given.version)
            return (
                (recorded.seq, recorded.target, recorded.workflow, recorded.detached)
                == (given.seq, given.target, given.workflow, given.detached)
                and child is not None
                and child.signature.same(recorded.input, given.input)
            )
        case _:
            return False


def describe(event: ev.Event | None) -> str:
    """A command or delivery in a few words."""
    match event:
        case None:
            return "nothing more"
        case ev.ActivityScheduled():
            place = f" on queue {event.queue!r}" if event.queue else ""
            return f"a call of activity {event.name!r}{place} (input {digest(event.input)})"
        case ev.TimerStarted():
            return f"a timer{f' {event.name!r}' if event.name else ''}"
        case ev.WaitStarted():
            return f"a wait for {'event' if event.positional else 'channel'} {event.channel!r}"
        case ev.CallStarted():
            kind = "a detached start" if event.detached else "a call"
            return f"{kind} of workflow {event.workflow!r} (id {event.target!r}, input {digest(event.input)})"
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
            about = f" {event.subject!r}" if event.subject else ""
            return f"the refusal of {refusal.command_name(event.command)}{about} ({event.error})"
        case ev.Completed():
            return "the end of the workflow"
        case _:
            return type(event).__name__


def report(
    index: int,
    recorded: ev.Event | None,
    given: ev.Event | None,
    where: str,
    python: tuple[str, str],
) -> Failure:
    """The failure that says where journal and code part. `index` counts events from 1; `python` is (recorded,
    running).
    """
    is_command = recorded is not None and type(recorded).__struct_config__.tag >= 32  # type: ignore[operator]
    if is_command or recorded is None:
        journal = f"the journal has {describe(recorded)}"
    else:
        journal = f"the journal has no command here ({describe(recorded)} comes next)"
    code = f"the code did {describe(given)}" if given is not None else "the code did nothing"
    if python[0] != python[1]:
        remedy = (
            f"the execution began on Python {python[0]} and this node runs {python[1]}: "
            "run it on the old one first"
        )
    else:
        remedy = (
            "deploy code that does the same up to here, put the change behind `workflow.patched(id)`, "
            "or give the new code a new version; then it goes on by itself. "
            f"If another Python than {python[1]} has run it since it began, run it there"
        )
    return Failure(
        type=NONDETERMINISM,
        message=f"at event {index}, {where}: {journal}, but {code}. Remedy: {remedy}.",
        category="configuration",
        retryable=False,
    )


def user_line(stack: list[str]) -> str | None:
    """The innermost line of the workflow's code in a stack ("file:line function", innermost last); None if it has
    none.
    """
    drains = [i for i, line in enumerate(stack) if line.startswith(_DRAIN)]
    inside = stack[drains[-1] + 1 :] if drains else []
    return next((line for line in reversed(inside) if not line.startswith(_OWN_FILES)), None)


def calling_line() -> str | None:
    """File, line and function of the innermost workflow code on the stack; None if the call does not come from it."""
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
    """Where the tasks of a run wait: the innermost user line of each, main task first."""
    lines: list[str] = []
    for task in loop.tasks:
        if task.done():
            continue
        line = None
        suspended: object = task.get_coro()
        while suspended is not None:
            frame = (
                getattr(suspended, "cr_frame", None)
                or getattr(suspended, "gi_frame", None)
                or getattr(suspended, "ag_frame", None)
            )
            if frame is not None and not frame.f_code.co_filename.startswith(_OWN_FILES):
                line = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
            suspended = (
                getattr(suspended, "cr_await", None)
                or getattr(suspended, "gi_yieldfrom", None)
                or getattr(suspended, "ag_await", None)
            )
        if line is not None:
            lines.append(line)
    return lines
