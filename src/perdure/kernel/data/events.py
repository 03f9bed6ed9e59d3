"""The journal's events.

A journal is the list of everything that one execution was *told* (deliveries) and everything that
its code *did* (commands), in the one order in which it happened. A turn makes events of messages
and of the calls of the code (`kernel/execution/`). They are stored with the turn's commit.

Replay walks the list. Each delivery is handed to the code, and the commands that the code then
gives must be the ones that follow in the journal. So the position in the list is the whole state
of a replay, and a difference is found at the first event that differs.

Rules for this file:

- Events are plain data.
- Tags and the order of fields are part of the journal's format and never change.
- A new field goes last and has a default, so that journals of older releases can be read.

`seq` numbers the commands of an execution that can be answered. `at` is store time in milliseconds.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from perdure.errors import Failure

REFUSALS_RECORDED = 1
"""Flag of a start: each refusal of a command is in the journal (`Refused`)."""

RUN_IN_CHILD_IDS = 2
"""Flag of a start: the ids of children carry a part of the run's id."""

IDS_APART = 4
"""Flag of a start: ids and random numbers are drawn from a stream each."""

# A flag says how an execution does something that must be alike in each replay. Executions that an
# older release began replay as that release did it.
FLAGS = REFUSALS_RECORDED | RUN_IN_CHILD_IDS | IDS_APART
"""The flags of executions that begin now. An execution keeps its flags to its end."""

ParentClose = Literal["cancel", "terminate", "abandon"]
"""What becomes of a child whose parent ends first."""


# `gc=False`: an event holds data only, so no cycle can go through it, and the garbage collector
# need not look at the many events of a turn.
class Event(msgspec.Struct, array_like=True, gc=False):
    """One entry of a journal."""


class Parent(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """The caller that awaits an instance's reply.

    It is named by its unit, run and execution, and by the number of the command that waits.
    """

    unit: str
    run: bytes
    execution: int
    seq: int


# ---------------------------------------------------------------- deliveries: the code is told

# Tags are in three ranges, so that a tag alone says what an event is: deliveries below 32, commands
# from there, ends from 64.


class Started(Event, tag=1):
    """The execution begins. This is always the first event."""

    at: int
    workflow: str
    version: str
    input: bytes
    run: bytes
    execution: int
    # The report of a mismatch names it, because another Python may run tasks in another order.
    python: str
    flags: int = 0
    parent: Parent | None = None
    # Those that the execution before left, or that the start gave.
    status: bytes | None = None
    attributes: bytes | None = None


class ActivityCompleted(Event, tag=2):
    """An activity's result. `attempt` says how many attempts it took."""

    seq: int
    at: int
    result: bytes
    attempt: int = 1


class ActivityFailed(Event, tag=3):
    """An activity failed for good."""

    seq: int
    at: int
    failure: Failure
    attempt: int = 1


class AttemptFailed(Event, tag=4):
    """One attempt failed and another follows at `retry_at`. The code is not told."""

    seq: int
    at: int
    attempt: int
    failure: Failure
    retry_at: int
    details: bytes | None = None


class TimerFired(Event, tag=5):
    """A timer came due."""

    seq: int
    at: int


class Received(Event, tag=6):
    """A waiting `receive` took a message from its channel."""

    seq: int
    at: int
    message: bytes
    value: bytes


class EventRaised(Event, tag=7):
    """A positional event arrived.

    `seq` is the wait that took it. It is 0 if no call waited, and the event is only recorded.
    """

    seq: int
    at: int
    name: str
    value: bytes


class Replied(Event, tag=8):
    """A called instance ended with a result, or with a failure."""

    seq: int
    at: int
    result: bytes | None = None
    failure: Failure | None = None


class CheckpointRecorded(Event, tag=9):
    """A checkpoint's function ran in the owner's process. Its outcome counts from now on."""

    seq: int
    at: int
    name: str
    occurrence: int
    value: bytes | None = None
    failure: Failure | None = None


class CancelRequested(Event, tag=10):
    """The execution was asked to stop."""

    at: int
    reason: str


class Paused(Event, tag=11):
    """Delivery stops until `Resumed`."""

    at: int
    reason: str


class Resumed(Event, tag=12):
    """Delivery goes on."""

    at: int


# ---------------------------------------------------------------- commands: the code did something


class ActivityScheduled(Event, tag=32):
    """The code called an activity."""

    seq: int
    name: str
    input: bytes
    queue: str | None = None
    session: str | None = None


class TimerStarted(Event, tag=33):
    """The code sleeps, or set a timeout."""

    seq: int
    fire_at: int
    name: str | None = None


class WaitStarted(Event, tag=34):
    """The code waits for a message of a channel, or for a positional event."""

    seq: int
    channel: str
    positional: bool = False


class CallStarted(Event, tag=35):
    """The code called a child and awaits its reply, or started a detached instance."""

    seq: int
    target: str
    workflow: str
    version: str | None
    input: bytes
    detached: bool = False
    parent_close: ParentClose = "cancel"


class CommandCancelled(Event, tag=36):
    """The code no longer wants the answer of command `seq`."""

    seq: int


class CheckpointStarted(Event, tag=37):
    """The code reached a checkpoint with a function."""

    seq: int
    name: str
    occurrence: int


# From here on most commands have no number: their outcome is known at once, so nothing answers.
class ValueRecorded(Event, tag=38):
    """The code stored a value under a name."""

    name: str
    occurrence: int
    value: bytes


class KvSet(Event, tag=39):
    """The code wrote a key of the instance's KV store."""

    key: str
    value: bytes


class KvDeleted(Event, tag=40):
    """The code removed a key."""

    key: str


class KvCleared(Event, tag=41):
    """The code removed all keys."""


class StatusSet(Event, tag=42):
    """The code set or cleared (`None`) the custom status."""

    value: bytes | None


class AttributesSet(Event, tag=43):
    """The code set search attributes, or removed them (None)."""

    values: bytes


class PatchMarked(Event, tag=44):
    """The code took the new side of `workflow.patched(id)`."""

    id: str


class CancelSent(Event, tag=45):
    """The code asked another instance to stop."""

    seq: int
    target: str
    reason: str


class MessageSent(Event, tag=46):
    """The code sent a message to another instance."""

    seq: int
    target: str
    channel: str
    value: bytes


class Refused(Event, tag=47):
    """A check refused a command, and the code got an error.

    `command` is the tag of the refused command, and `subject` is its name or key. Replay raises
    the same error again, because limits and declared types may have changed since.
    """

    command: int
    subject: str
    error: str
    message: str


# ---------------------------------------------------------------- ends


class Completed(Event, tag=64):
    """The code returned."""

    at: int
    result: bytes


class Failed(Event, tag=65):
    """The code raised an error.

    With `without_code` the code was not asked, because its history has become too long.
    """

    at: int
    failure: Failure
    without_code: bool = False


class Cancelled(Event, tag=66):
    """The code stopped because it was asked to."""

    at: int
    failure: Failure


class Terminated(Event, tag=67):
    """The execution was ended without asking the code."""

    at: int
    reason: str


class ContinuedAsNew(Event, tag=68):
    """The code ended this execution and asked for the next one."""

    at: int
    input: bytes
    version: str | None


AnyEvent = (
    Started
    | ActivityCompleted
    | ActivityFailed
    | AttemptFailed
    | TimerFired
    | Received
    | EventRaised
    | Replied
    | CheckpointRecorded
    | CancelRequested
    | Paused
    | Resumed
    | ActivityScheduled
    | TimerStarted
    | WaitStarted
    | CallStarted
    | CommandCancelled
    | CheckpointStarted
    | ValueRecorded
    | KvSet
    | KvDeleted
    | KvCleared
    | StatusSet
    | AttributesSet
    | PatchMarked
    | CancelSent
    | MessageSent
    | Refused
    | Completed
    | Failed
    | Cancelled
    | Terminated
    | ContinuedAsNew
)

END_EVENTS = (Completed, Failed, Cancelled, Terminated, ContinuedAsNew)
"""The last event of an execution is one of these."""

# One of each for the process: to make a decoder of so large a union is slow.
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[AnyEvent])

encode_events = _encoder.encode
"""Encode a list of events as the bytes of one journal row."""

decode_events = _decoder.decode
"""Decode the events of one journal row.

Raises `msgspec.DecodeError` when the bytes are not a journal of a known format.
"""
