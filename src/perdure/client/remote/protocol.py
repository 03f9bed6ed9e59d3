"""What clients ask nodes, and nodes ask each other: the bodies of calls on a link.

A request is one of the structs below, and its kind is its name in `KINDS`. An answer is a `Reply`:
a value, or the trouble that there was. Nothing that comes is believed: `check_message` looks at
what a message says before it goes to its unit.

Messages always go by the store's inbox, which knows a message that comes again. So a request whose
answer was lost may be repeated, by another node too. A start has its own identity: the run has the
id of its start.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec

from perdure.client.gateway import Begun
from perdure.errors import (
    AlreadyStarted,
    DecodeError,
    NotFound,
    PayloadTooLarge,
    PerdureError,
    StoreFormat,
    StoreUnavailable,
    UsageError,
)
from perdure.kernel.data import message as msg
from perdure.kernel.data.attributes import check_attributes
from perdure.kernel.data.commit import UnitRow
from perdure.kernel.data.definition import check_label, check_name, check_text
from perdure.kernel.data.limits import Limits
from perdure.kernel.data.placement import check_id
from perdure.kernel.unit.turn import Outcome
from perdure.ports.store import StoreInfo

T = TypeVar("T")

CALL_MS: Final = 10_000
"""How long a request for an answer that stands ready may take."""
WAIT_MS: Final = 60_000
"""How long a request that waits for something may take. It is asked again then: it may be lost."""
ID_BYTES: Final = 16
# Each journal may be many MB.
LOADS_MAX: Final = 64
"""Units that one request loads. A node leaves out what is more."""
LETTERS_MAX: Final = 10_000
"""Dead letters that one request removes. A node leaves out what is more."""

# ---------------------------------------------------------------- requests
#
# The order of the fields is a format. New fields go to the end, with defaults.


class Greet(msgspec.Struct, array_like=True, frozen=True):
    """Tell me what a client must know. The answer is a `Welcome`."""


class Post(msgspec.Struct, array_like=True, frozen=True):
    """Put a message into the inbox of its unit. The answer is an outcome."""

    message: msg.Message


class Begin(msgspec.Struct, array_like=True, frozen=True):
    """Deliver a start. The answer is a `Started`.

    `again`: an earlier request of this start may have been done.
    """

    message: msg.Message
    again: bool = False


class PostAll(msgspec.Struct, array_like=True, frozen=True):
    """Put messages into inboxes, which are durable together. The answer is a list of outcomes."""

    messages: list[msg.Message]


class BeginAll(msgspec.Struct, array_like=True, frozen=True):
    """Deliver many starts. The answer is a list: for each a `Started`, or its trouble.

    `again` as in `Begin`.
    """

    messages: list[msg.Message]
    again: bool = False


class Await(msgspec.Struct, array_like=True, frozen=True):
    """Wait until a run has ended, or is held. The answer is its row."""

    unit: str
    run: bytes
    twin: tuple[str, str | None] | None = None
    may_be_refused: bool = False
    through_suspension: bool = False

    @property
    def begun(self) -> Begun:
        """The run that is meant."""
        return Begun(self.run, self.twin, self.may_be_refused)


class Changed(msgspec.Struct, array_like=True, frozen=True):
    """Wait until the row of a unit has another version. The answer is that version."""

    unit: str
    version: int
    within_ms: int


class Ask(msgspec.Struct, array_like=True, frozen=True):
    """Answer a query of the store port, whose name is given. The answer is a page."""

    name: str
    query: msgspec.Raw


class Load(msgspec.Struct, array_like=True, frozen=True):
    """Units with all that is stored of them. The answer is a list of `Loaded`."""

    units: list[str]


class Drop(msgspec.Struct, array_like=True, frozen=True):
    """Remove dead letters. The answer is how many there were."""

    letters: list[bytes]


class Owner(msgspec.Struct, array_like=True, frozen=True):
    """Who owns the store, for people. The answer is a text, or None."""


class StartHere(msgspec.Struct, array_like=True, frozen=True):
    """Deliver a start, if the receiver owns its unit. The answer is a `Started`, or None: moved.

    Only nodes ask this.
    """

    message: msg.Message


class AwaitHere(Await, frozen=True):
    """The same, if the receiver owns the unit. The answer is the row, or None: moved.

    Only nodes ask this.
    """


Request = (
    Greet
    | Post
    | PostAll
    | Begin
    | BeginAll
    | Await
    | Changed
    | Ask
    | Load
    | Drop
    | Owner
    | StartHere
    | AwaitHere
)

KINDS: dict[str, type[Request]] = {
    "greet": Greet,
    "post": Post,
    "post all": PostAll,
    "begin": Begin,
    "begin all": BeginAll,
    "await": Await,
    "changed": Changed,
    "ask": Ask,
    "load": Load,
    "drop": Drop,
    "owner": Owner,
    "start here": StartHere,
    "await here": AwaitHere,
}
"""The kind of a call, and the struct of its body."""
KIND_OF: dict[type[Request], str] = {struct: kind for kind, struct in KINDS.items()}

HINT: Final = "hint"
"""Told to a node: these units (a list of ids) have messages."""
NODES: Final = "nodes"
"""Told to a client: nodes answer at these addresses."""

# ---------------------------------------------------------------- answers


class Welcome(msgspec.Struct, array_like=True, frozen=True):
    """What a client must know: the store, its limits, and where nodes answer."""

    info: StoreInfo
    limits: Limits
    addresses: list[str]


class Started(msgspec.Struct, array_like=True, frozen=True):
    """The outcome of a start, and the run that it began or joined (None: it was refused)."""

    outcome: Outcome
    run: bytes | None = None
    twin: tuple[str, str | None] | None = None
    may_be_refused: bool = False

    @classmethod
    def of(cls, outcome: Outcome, begun: Begun | None) -> Started:
        """What a gateway has answered."""
        if begun is None:
            return cls(outcome)
        return cls(outcome, begun.run, begun.twin, begun.may_be_refused)

    @property
    def begun(self) -> Begun | None:
        """The run that it began or joined."""
        if self.run is None:
            return None
        return Begun(self.run, self.twin, self.may_be_refused)


class Trouble(msgspec.Struct, array_like=True, frozen=True):
    """The error in which a request ended. `outcome`: whether it may have been done."""

    code: str
    text: str
    outcome: str = "none"

    @classmethod
    def of(cls, error: PerdureError) -> Trouble:
        """What an error says, for the other end."""
        # An error that is not expected here may have come behind the work.
        code = "StoreUnavailable"
        outcome = "unknown"
        if isinstance(error, StoreUnavailable):
            outcome = error.outcome
        else:
            for name, kind in _ERRORS.items():
                if isinstance(error, kind):
                    code = name
                    outcome = "none"
        return cls(code, str(error), outcome)

    @property
    def error(self) -> PerdureError:
        """The error, as its caller sees it."""
        kind = _ERRORS.get(self.code)
        if kind is not None:
            return kind(self.text)
        if self.outcome == "none":
            return StoreUnavailable(self.text, "none")
        return StoreUnavailable(self.text, "unknown")


class StartResult(msgspec.Struct, array_like=True, frozen=True):
    """What became of one start of many."""

    started: Started | None = None
    trouble: Trouble | None = None


class Reply(msgspec.Struct, array_like=True, frozen=True):
    """An answer: an encoded value, or trouble."""

    # The nil of MessagePack: an answer with trouble has no value.
    value: msgspec.Raw = msgspec.Raw(b"\xc0")
    trouble: Trouble | None = None


class Elsewhere(PerdureError):
    """The node cannot answer now, and another one may. Nothing was done, or it may be repeated."""


_ERRORS: dict[str, type[PerdureError]] = {
    "NotFound": NotFound,
    "AlreadyStarted": AlreadyStarted,
    "UsageError": UsageError,
    "DecodeError": DecodeError,
    "PayloadTooLarge": PayloadTooLarge,
    "StoreFormat": StoreFormat,
    "Elsewhere": Elsewhere,
}
"""The errors that arrive as their own class. A class that derives from one arrives as that one."""

_encoder = msgspec.msgpack.Encoder()
_decoders: dict[type[Request], msgspec.msgpack.Decoder[Request]] = {
    struct: msgspec.msgpack.Decoder(struct) for struct in KINDS.values()
}
_reply_decoder = msgspec.msgpack.Decoder(Reply)
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError)
"""The errors of bytes that are not what they should be."""

encode = _encoder.encode
"""The bytes of a request, or of a value in a `Reply`."""


def decode_request(kind: str, body: bytes) -> Request:
    """What a peer asks.

    Raises:
        UsageError: this release knows no such request, or it is damaged.
    """
    struct = KINDS.get(kind)
    if struct is None:
        msg_ = f"a node of this release knows no request {kind!r}; upgrade it, or the client"
        raise UsageError(msg_)
    try:
        return _decoders[struct].decode(body)
    except UNREADABLE as error:
        msg_ = f"a request {kind!r} cannot be read: {error}"
        raise UsageError(msg_) from error


def reply_with(value: Any) -> bytes:
    """The bytes of an answer."""
    return _encoder.encode(Reply(msgspec.Raw(_encoder.encode(value))))


def reply_with_trouble(error: PerdureError) -> bytes:
    """The bytes of the answer to a request that ended in an error."""
    return _encoder.encode(Reply(trouble=Trouble.of(error)))


def value_of_reply(body: bytes, decoder: msgspec.msgpack.Decoder[T]) -> T:
    """The value of an answer.

    Raises:
        PerdureError: the trouble that there was.
        DecodeError: the answer is not what it should be.
    """
    try:
        reply = _reply_decoder.decode(body)
        if reply.trouble is None:
            return decoder.decode(reply.value)
    except UNREADABLE as error:
        msg_ = f"the answer of a node cannot be read: {error}; are its release and this one alike?"
        raise DecodeError(msg_) from error
    # Outside of the `try`: an error of the node is no answer that cannot be read.
    raise reply.trouble.error


WELCOME = msgspec.msgpack.Decoder(Welcome)
STARTED = msgspec.msgpack.Decoder(Started)
MAYBE_STARTED: msgspec.msgpack.Decoder[Started | None] = msgspec.msgpack.Decoder(Started | None)
ROW = msgspec.msgpack.Decoder(UnitRow)
MAYBE_ROW: msgspec.msgpack.Decoder[UnitRow | None] = msgspec.msgpack.Decoder(UnitRow | None)
OUTCOME: msgspec.msgpack.Decoder[Outcome] = msgspec.msgpack.Decoder(Outcome)
OUTCOMES: msgspec.msgpack.Decoder[list[Outcome]] = msgspec.msgpack.Decoder(list[Outcome])
RESULTS: msgspec.msgpack.Decoder[list[StartResult]] = msgspec.msgpack.Decoder(list[StartResult])
NUMBER = msgspec.msgpack.Decoder(int)
TEXTS: msgspec.msgpack.Decoder[list[str]] = msgspec.msgpack.Decoder(list[str])
MAYBE_TEXT: msgspec.msgpack.Decoder[str | None] = msgspec.msgpack.Decoder(str | None)

# ---------------------------------------------------------------- checking


_REASONED = (msg.Cancel, msg.Terminate, msg.Pause, msg.Delete)
_IF_EXISTS = ("join", "reject", "replace", "renew")
_PLAIN = (msg.Resume, msg.Retry, msg.Prune)


def check_message(message: msg.Message, limits: Limits) -> msg.Message:
    """Refuse a message that no client can send. Returns it as it goes on.

    Raises:
        UsageError: naming what is wrong with it.
        PayloadTooLarge: its value is larger than the node allows.
    """
    check_id(message.to)
    if len(message.id) != ID_BYTES:
        msg_ = f"a message to {message.to!r} has an id of {len(message.id)} bytes, not {ID_BYTES}"
        raise UsageError(msg_)
    if message.sender is not None or message.previous is not None or message.token is not None:
        # Only units and workers have these, and both write to the store themselves.
        msg_ = f"a message to {message.to!r} claims to come from another unit"
        raise UsageError(msg_)
    check_text(message.scope, "a scope")
    body = message.body
    data = b""
    if isinstance(body, msg.Start):
        check_name(body.workflow, "a workflow")
        if body.parent is not None:
            msg_ = f"the start of {message.to!r} claims to have a parent"
            raise UsageError(msg_)
        if body.if_exists not in _IF_EXISTS:
            msg_ = f"if_exists must be one of {', '.join(_IF_EXISTS)}, got {body.if_exists!r}"
            raise UsageError(msg_)
        check_attributes(body.attributes, limits)
        data = body.input
    elif isinstance(body, msg.Send):
        check_label(body.channel, "a channel")
        data = body.value
    elif isinstance(body, msg.Raise):
        check_label(body.name, "an event")
        data = body.value
    elif isinstance(body, _REASONED):
        check_text(body.reason, "a reason")
    elif isinstance(body, msg.Place):
        check_text(body.scope, "a scope")
    elif not isinstance(body, _PLAIN):
        msg_ = f"a client cannot send a {type(body).__name__} to {message.to!r}"
        raise UsageError(msg_)
    if len(data) > limits.payload_bytes:
        msg_ = (
            f"a message to {message.to!r} has {len(data):,} bytes; the limit of the node is "
            f"{limits.payload_bytes:,} (Limits.payload_bytes): store it elsewhere and send a "
            "reference"
        )
        raise PayloadTooLarge(msg_)
    return message
