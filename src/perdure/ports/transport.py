"""The transport port: how nodes talk.

Two peers have a link: a stream of envelopes in both directions, written in batches. Each of the two
may call the other (`call`: a request with one answer) and tell it something (`tell`).

Guarantees, one section of the conformance suite (`perdure.testing.conformance.transport`) each:

1. Nothing durable depends on a link. Any envelope may be lost, and a `tell` may also come twice or
   out of order.
2. A `call` runs at most once, and ends in an answer or in a `TransportError` that says whether it
   may have run.
3. A deadline travels as time left. A call that is late, or whose caller is gone, is not run.
4. Queues are bounded. A full one drops each `tell` and refuses each `call` with `Overloaded`.
5. Both peers have shown that they know the token, serve the same store (or none, as a client does)
   and share a version before the first envelope.
6. A peer that is dead, does not read, or sends what is no envelope loses its link. Others keep
   theirs.
"""

from __future__ import annotations

from collections.abc import Awaitable
from types import TracebackType
from typing import Literal, Protocol, Self

import msgspec

from perdure.errors import PerdureError
from perdure.ports.store import Incarnation

Outcome = Literal["none", "unknown"]
"""Whether a call that failed may have run: `none` says that it did not."""


# ---------------------------------------------------------------- errors


class TransportError(PerdureError):
    """A peer could not be reached, or a call to it failed. Nothing durable was lost.

    `outcome` says whether the call may have run.
    """

    outcome: Outcome = "none"


class Unreachable(TransportError):
    """No link came to be: nothing listens at the address, or it did not answer in time."""


class Refused(TransportError):
    """No link came to be, because the two peers do not belong together.

    `reason` is `version`, `token`, `store` or `tls`. Trying again does not help before the cause is
    removed.
    """

    def __init__(self, message: str, reason: str) -> None:
        """Keep the reason beside the message."""
        super().__init__(message)
        self.reason = reason


class DeadlineExceeded(TransportError, TimeoutError):
    """The time of a call was up before its answer came. It may run or have run, unless `none`."""

    def __init__(self, message: str, outcome: Outcome = "unknown") -> None:
        """Keep the outcome beside the message."""
        super().__init__(message)
        self.outcome = outcome


class LinkLost(TransportError):
    """The link ended before the answer came. A call that was already sent may have run."""

    def __init__(self, message: str, outcome: Outcome = "unknown") -> None:
        """Keep the outcome beside the message."""
        super().__init__(message)
        self.outcome = outcome


class Overloaded(TransportError):
    """A queue on the way is full. The call did not run: try again later, or elsewhere."""


class FrameTooLarge(TransportError):
    """A request or an answer is larger than a frame may be. Too large an answer means it ran."""

    def __init__(self, message: str, outcome: Outcome = "none") -> None:
        """Keep the outcome beside the message."""
        super().__init__(message)
        self.outcome = outcome


class Garbage(TransportError):
    """A peer sent what is no frame, no envelope, or not what belongs there. Its link has ended."""


class HandlerFailed(TransportError):
    """The peer's handler raised an error. `type` is the name of its class."""

    outcome: Outcome = "unknown"

    def __init__(self, message: str, type: str) -> None:
        """Keep the name of the class beside the message."""
        super().__init__(message)
        self.type = type


# ---------------------------------------------------------------- what travels


class Envelope(msgspec.Struct, array_like=True, gc=False):
    """What travels on a link.

    `call` is the number of a call, which its answer repeats (0: a `tell`). `left_ms` is the time
    left for it. The clocks of two machines differ, so no time of day travels.
    """

    # The order of the fields is a format. New fields go to the end, with defaults.
    kind: str
    call: int = 0
    left_ms: int = 0
    body: bytes = b""


OWN_KINDS = "."
"""Kinds that begin with a point are the transport's own."""


class Peer(msgspec.Struct, frozen=True):
    """What a node says of itself when a link opens.

    `store` is the id of the store that it serves. It is empty for a client, which serves none.
    `features` are the names of what it can do beyond the version of the protocol.
    """

    node: Incarnation
    store: str
    features: frozenset[str] = frozenset()


class TransportOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of a transport. Each holds for one link, except `links`.

    Both peers use the smaller of their two keep-alive intervals.
    """

    frame_bytes: int = 16 << 20
    # What waits to be written, while the peer reads slowly.
    queue_messages: int = 16_384
    queue_bytes: int = 32 << 20
    # Calls of the peer that run here at the same time.
    calls: int = 16_384
    # A peer from which nothing came for three of these is dead.
    keep_alive_ms: int = 5_000
    # What a new connection has until it has shown who it is.
    handshake_ms: int = 5_000
    # Links and unfinished connections that others have opened.
    links: int = 1_024
    # The versions of the protocol that it speaks, from the lowest to the highest.
    versions: tuple[int, int] = (1, 1)


DEFAULT_OPTIONS = TransportOptions()
SILENT_INTERVALS = 3
"""A peer is dead after so many keep-alive intervals without a byte."""


# ---------------------------------------------------------------- the port


class Link(Protocol):
    """A stream of envelopes between this node and one peer, in both directions."""

    @property
    def peer(self) -> Peer:
        """The node at the other end, as it has shown itself in the handshake."""
        ...

    @property
    def address(self) -> str:
        """Where the peer was met, for people."""
        ...

    @property
    def version(self) -> int:
        """The version of the protocol that both speak."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        ...

    @property
    def dropped(self) -> int:
        """How often `tell` found the queue full."""
        ...

    async def call(self, kind: str, body: bytes, timeout_ms: int) -> bytes:
        """Ask the peer, and wait for its answer. Cancelling the wait tells the peer.

        Raises:
            DeadlineExceeded: no answer came within `timeout_ms`.
            LinkLost: the link has ended.
            Overloaded: too much waits to be sent, or the peer has too many calls.
            FrameTooLarge: the body or the answer does not fit into a frame.
            HandlerFailed: the peer's handler raised an error.
            UsageError: the kind is empty, or one of the transport's own.
        """
        ...

    def tell(self, kind: str, body: bytes) -> bool:
        """Send without an answer. It may be lost. False: it was dropped here already.

        Raises:
            FrameTooLarge: the body does not fit into a frame.
            UsageError: the kind is empty, or one of the transport's own.
        """
        ...

    async def close(self) -> None:
        """Send what waits, and hang up. Calls that are open end as `LinkLost`."""
        ...

    async def wait_closed(self) -> TransportError | None:
        """Wait until the link has ended. None: one of the two peers closed it in order."""
        ...


class Request(msgspec.Struct, gc=False):
    """A call of a peer.

    `deadline_ms` is on the clock of this transport. A request that is handed on to a third node
    gets the time that is left.
    """

    link: Link
    kind: str
    body: bytes
    deadline_ms: int


class Handler(Protocol):
    """What a node does with what its peers send. It runs on the event loop of the transport."""

    def opened(self, link: Link) -> None:
        """A link has come to be, whichever of the two peers began."""
        ...

    def closed(self, link: Link, error: TransportError | None) -> None:
        """A link has ended. The error is that of `Link.wait_closed`."""
        ...

    # Plain bytes cost no task, and many answers stand ready in memory.
    def call(self, request: Request) -> bytes | Awaitable[bytes]:
        """Answer a call, at once or later.

        The awaitable is cancelled when the caller gives up or its link ends. A `TransportError`
        arrives as its own class, any other error as `HandlerFailed`.
        """
        ...

    def tell(self, link: Link, kind: str, body: bytes) -> None:
        """Take note of something. An error is logged."""
        ...


class Transport(Protocol):
    """Listens, and connects. Use it with `async with`, which closes it."""

    @property
    def address(self) -> str | None:
        """Where others reach this node. None: it is not bound."""
        ...

    # Apart from `listen`, so that a node can tell its address before it takes the first call.
    async def bind(self) -> str:
        """Take the address, and return it as others reach it. Connections wait until `listen`.

        Raises:
            Unreachable: the address is taken, or not one of this machine.
        """
        ...

    async def listen(self, handler: Handler) -> str:
        """Serve peers from now on. Binds if that was not done, and returns the address."""
        ...

    async def connect(
        self, address: str, handler: Handler | None = None, timeout_ms: int = 5_000
    ) -> Link:
        """Open a link to a peer.

        Its calls go to `handler`. None means that of `listen`, and without it each call fails.

        Raises:
            Unreachable: nothing listens there, or it did not answer in time.
            Refused: the two have other tokens, stores or versions.
            Garbage: what listens there is no Perdure node.
            UsageError: this is no address.
        """
        ...

    async def close(self) -> None:
        """Stop listening, and close all links."""
        ...

    async def __aenter__(self) -> Self:
        """Nothing happens yet."""
        ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        ...
