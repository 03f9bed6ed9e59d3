"""The tools of the sections: two nodes with a link, and a handler that notes what it sees."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from perdure.ports.clock import Clock
from perdure.ports.store import Incarnation
from perdure.ports.transport import (
    DEFAULT_OPTIONS,
    Link,
    Overloaded,
    Peer,
    Request,
    Transport,
    TransportError,
    TransportOptions,
)

PATIENCE_S = 20.0
"""What a test waits for comes within this time, also on a machine with much to do."""
LONG_MS = 60_000
"""The timeout of calls that must not end by it."""


class TransportFactory(Protocol):
    """Makes a transport that is not yet bound."""

    def __call__(
        self,
        me: Peer,
        token: bytes = b"",
        options: TransportOptions = DEFAULT_OPTIONS,
        clock: Clock | None = None,
    ) -> Transport:
        """Of this node, with this token, these options and this clock (None: the machine's)."""
        ...


def peer(node: str, store: str = "store-1", *features: str) -> Peer:
    """A node in its first life."""
    return Peer(Incarnation(node, f"{node}-1"), store, frozenset(features))


class Recorder:
    """A handler that answers by the kind of a call, and notes all that it sees.

    `echo` gives the body back, `later` the same in a task, `hold` when `release` was called, `fail`
    an error, `full` an error of the transport, and `wrong` no bytes.
    """

    def __init__(self) -> None:
        """Nothing was seen."""
        self.links: list[Link] = []
        self.ended: list[TransportError | None] = []
        self.told: list[tuple[str, bytes]] = []
        self.requests: list[Request] = []
        self.cancelled = 0
        self._released = asyncio.Event()
        self._seen = asyncio.Event()

    def release(self) -> None:
        """Let the calls that are held be answered."""
        self._released.set()

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until something is so. It is looked at after each thing that this handler sees."""
        async with asyncio.timeout(PATIENCE_S):
            while not is_so():
                self._seen.clear()
                await self._seen.wait()

    def opened(self, link: Link) -> None:
        """Note it."""
        self.links.append(link)
        self._seen.set()

    def closed(self, link: Link, error: TransportError | None) -> None:
        """Note it."""
        self.ended.append(error)
        self._seen.set()

    def tell(self, link: Link, kind: str, body: bytes) -> None:
        """Note it."""
        if kind == "fail":
            msg = "no note was taken"
            raise LookupError(msg)
        self.told.append((kind, body))
        self._seen.set()

    def call(self, request: Request) -> bytes | Awaitable[bytes]:
        """Answer by the kind."""
        self.requests.append(request)
        self._seen.set()
        match request.kind:
            case "echo":
                return request.body
            case "later":
                return self._later(request.body)
            case "hold":
                # A task, because a coroutine that is cancelled before its first step counts, too.
                held = asyncio.ensure_future(self._hold(request.body))
                held.add_done_callback(self._note_end)
                return held
            case "full":
                msg = "a queue behind this node is full"
                raise Overloaded(msg)
            case "wrong":
                return "text"  # type: ignore[return-value] # pyright: ignore[reportReturnType]
            case _:
                msg = f"no such kind: {request.kind}"
                raise LookupError(msg)

    async def _later(self, body: bytes) -> bytes:
        await asyncio.sleep(0)
        return body

    async def _hold(self, body: bytes) -> bytes:
        await self._released.wait()
        return body

    def _note_end(self, held: asyncio.Future[bytes]) -> None:
        if held.cancelled():
            self.cancelled += 1
            self._seen.set()


@dataclass
class Met:
    """Two nodes with a link: `one` has connected to `two`."""

    one: Recorder
    two: Recorder
    link: Link
    transports: tuple[Transport, Transport]

    @property
    def back(self) -> Link:
        """The same link, as the node sees it that was connected to."""
        return self.two.links[0]


@asynccontextmanager
async def met(
    factory: TransportFactory,
    options: TransportOptions = DEFAULT_OPTIONS,
    clocks: tuple[Clock | None, Clock | None] = (None, None),
) -> AsyncGenerator[Met]:
    """Let two nodes meet."""
    one, two = Recorder(), Recorder()
    connecting = factory(peer("one"), options=options, clock=clocks[0])
    listening = factory(peer("two"), options=options, clock=clocks[1])
    async with connecting, listening:
        link = await connecting.connect(await listening.listen(two), one)
        # A link opens first where its handshake ends, and that is the node that listens.
        await two.until(lambda: bool(two.links))
        yield Met(one, two, link, (connecting, listening))


async def error_of(call: Awaitable[object]) -> Exception | None:
    """The error in which a call ends."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            await call
    except Exception as error:
        return error
    return None
