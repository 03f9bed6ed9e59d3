"""Messages: requests and news for a unit, from clients, other units and the node itself.

A message is plain data with a 128-bit id. A second message with the same id is the same message.
A message reaches its unit in one of two ways. A *Post* puts it into the store's inbox, where it is
durable. Or it reaches the owner in memory, and becomes durable with the turn that consumes it. In
both cases it stands in the unit's mailbox next (`kernel/unit/mailbox.py`), until a turn takes it.

Control messages (`Cancel`, `Terminate`, `Pause`, `Resume`, `Retry`, `Delete`, `Prune`) have a lane
of their own. A unit sees them first, also while it is paused.

Tags and the order of fields are part of the store's format and never change. A new field goes last
and has a default.
"""

from __future__ import annotations

import msgspec

from perdure.errors import Failure
from perdure.kernel.data.events import Parent


class Body(msgspec.Struct, array_like=True, gc=False):
    """The content of a message."""


class Start(Body, tag=1):
    """Begin an instance. The message's id becomes the run id."""

    workflow: str
    version: str | None
    input: bytes
    parent: Parent | None = None
    # "join", "reject", "replace" or "renew" (`kernel/unit/lifecycle.py`).
    if_exists: str = "join"
    attributes: bytes | None = None
    detached_from: str | None = None

    @property
    def replaces_closed(self) -> bool:
        """Whether a run that has ended gives its id to this start."""
        return self.if_exists in {"replace", "renew"}


class Send(Body, tag=2):
    """Put a value into one of the unit's channels (first in, first out)."""

    channel: str
    value: bytes


class Raise(Body, tag=3):
    """A positional event.

    The n-th active wait for the name takes the n-th event. While no call waits for the name, an
    event is only recorded.
    """

    name: str
    value: bytes


class Cancel(Body, tag=4):
    """Ask the unit to stop. Its code may clean up."""

    reason: str = ""
    # Only this run is meant. A parent that gives its child up must not stop a later run of the id.
    run: bytes | None = None


class Terminate(Body, tag=5):
    """End the unit at once."""

    reason: str = ""
    run: bytes | None = None


class Pause(Body, tag=6):
    """Stop delivering to the unit."""

    reason: str = ""


class Resume(Body, tag=7):
    """Go on delivering."""


class Retry(Body, tag=8):
    """Try a suspended unit again."""


class ActivityDone(Body, tag=9):
    """An attempt of an activity ended.

    `details` are those of the attempt's last heartbeat.
    """

    # Run, execution and command together, because an id can be used again, and commands of each
    # execution count from 1.
    run: bytes
    execution: int
    seq: int
    attempt: int
    result: bytes | None = None
    failure: Failure | None = None
    details: bytes | None = None


class CheckpointDone(Body, tag=10):
    """A checkpoint's function ended."""

    run: bytes
    execution: int
    seq: int
    value: bytes | None = None
    failure: Failure | None = None


class Reply(Body, tag=11):
    """A called instance ended."""

    run: bytes
    execution: int
    seq: int
    result: bytes | None = None
    failure: Failure | None = None


class Delete(Body, tag=12):
    """Remove the unit and all it owns, also when it has ended.

    `tell_parent=False`: the parent is deleted, too, so no reply goes to it.
    """

    force: bool = False
    forget: bool = False
    cascade: bool = True
    reason: str = ""
    tell_parent: bool = True


class Prune(Body, tag=13):
    """Remove executions that continue-as-new ended, also when the unit has ended."""

    executions: list[int] = []


class Place(Body, tag=14):
    """Put the unit into this scope, whose owner does its work from then on.

    The unit sends the same message to itself with the commit that moves it, so that its new owner
    hears of it. An empty scope is the unit's home: its group, and the shard of its id.
    """

    scope: str


# It has the last tag, so that the tags before it are left to bodies of later releases.
class Unreadable(Body, tag=255):
    """A body that this release cannot decode. The row of its message stays as it is.

    A newer release wrote it, or the file is damaged.
    """

    data: bytes
    why: str


AnyBody = (
    Start
    | Send
    | Raise
    | Cancel
    | Terminate
    | Pause
    | Resume
    | Retry
    | ActivityDone
    | CheckpointDone
    | Reply
    | Delete
    | Prune
    | Place
    | Unreadable
)

CONTROL: frozenset[type] = frozenset(
    {Cancel, Terminate, Pause, Resume, Retry, Delete, Prune, Place}
)
"""Bodies of the control lane."""

ADMIN = (Delete, Prune)
"""Bodies that a closed unit takes as well."""


class Message(msgspec.Struct, array_like=True, gc=False):
    """A message and its envelope.

    `at` is when it was posted, and `visible_at` when it may be seen (both store time, ms).
    `previous` is the message that the sender sent to the same unit before. `scope` is the scope in
    which the message waits while its unit does not exist. The sender says it, because a store
    cannot know the group of an id. `token` belongs to the lease whose result this is, and is not
    stored.
    """

    id: bytes
    to: str
    body: AnyBody
    at: int
    visible_at: int = 0
    sender: str | None = None
    previous: bytes | None = None
    scope: str = ""
    token: bytes | None = None

    def wait_in(self, scope: str) -> None:
        """Wait in this scope for a unit that does not exist."""
        self.scope = scope


_body_encoder = msgspec.msgpack.Encoder()
_body_decoder: msgspec.msgpack.Decoder[AnyBody] = msgspec.msgpack.Decoder(AnyBody)

encode_body = _body_encoder.encode
"""Encode a body as the bytes of an inbox row."""


def decode_body(data: bytes) -> AnyBody:
    """Decode the bytes of an inbox row. Bytes that cannot be read become `Unreadable`."""
    try:
        return _body_decoder.decode(data)
    # An error here would keep all other units of the same read out of memory.
    except (msgspec.MsgspecError, ValueError) as error:
        return Unreadable(data, str(error))
