"""Links between the nodes of one process.

network = InProcessNetwork(seed=7, clock=clock)
a = InProcessTransport(Peer(Incarnation("a", "a-1"), "store-1"), network)
b = InProcessTransport(Peer(Incarnation("b", "b-1"), "store-1"), network)
link = await a.connect(await b.listen(handler))
network.use(Faults(drop=0.1, duplicate=0.1, reorder=0.1, delay_ms=(0, 50)))
network.partition({"a"})
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from itertools import count
from types import TracebackType
from typing import Literal, Self

from perdure.ports.clock import Clock
from perdure.ports.transport import (
    DEFAULT_OPTIONS,
    Envelope,
    Handler,
    Link,
    LinkLost,
    Peer,
    TransportError,
    TransportOptions,
    Unreachable,
)
from perdure.transport.address import host_and_port
from perdure.transport.exchange import Exchange
from perdure.transport.handshake import Handshake
from perdure.transport.network import HANG_UP, Item, Lane, Network
from perdure.transport.network import Faults as Faults  # noqa: PLC0414 - part of the adapter
from perdure.transport.opening import Opening
from perdure.transport.silence import Silence

HIGH_BYTES = 1 << 20
"""What may be on its way to a peer before its sender is paused."""


class _End:
    """One end of a connection. It is also the `Pipe` of its exchange."""

    def __init__(self, opening: Opening, on_gone: Callable[[_End], None], context: Context) -> None:
        """Wait for its lanes. What comes along them is taken in the context of its node."""
        self._opening = opening
        self._context = context
        self._on_gone = on_gone
        self._exchange: Exchange | None = None
        self._out: Lane | None = None
        self._in: Lane | None = None
        self._is_paused = False
        self._is_gone = False
        self._stop_watching = opening.watch(self.give_up)

    def join(self, out: Lane, into: Lane) -> None:
        """Send along one lane, and take what comes along the other."""
        self._out = out
        self._in = into

    def begin(self) -> None:
        """Greet, as the end that connects does."""
        greeting = self._opening.begin()
        if greeting is not None:
            self._send(greeting)

    # ------------------------------------------------------------ the pipe

    def write(self, batch: Sequence[Envelope]) -> None:
        """Send envelopes."""
        for envelope in batch:
            self._send(envelope)
        if self.unsent_bytes() > HIGH_BYTES and self._exchange is not None:
            self._is_paused = True
            self._exchange.pause()

    def unsent_bytes(self) -> int:
        """What is on its way."""
        if self._out is None:
            return 0
        return self._out.sent_bytes - self._out.taken_bytes

    def taken_bytes(self) -> int:
        """What has been delivered, or lost."""
        if self._out is None:
            return 0
        return self._out.taken_bytes

    def close(self) -> None:
        """Hang up behind what was sent. The other end hangs up then, unless it does not read."""
        self._send(HANG_UP)

    def abort(self) -> None:
        """Hang up now."""
        self.give_up(LinkLost("this node has hung up"))

    # ------------------------------------------------------------ the lanes

    # Each of them is called by the other end, or by the network. A copy of the context, because a
    # context can be entered only once at a time.

    def taken(self) -> None:
        """The other end has taken something."""
        self._context.copy().run(self._taken)

    def take(self, items: Sequence[Item]) -> None:
        """Take what the other end has sent."""
        self._context.copy().run(self._take, items)

    def broken(self) -> None:
        """The connection is no more."""
        self._context.copy().run(self._broken)

    def _taken(self) -> None:
        if self._is_paused and self.unsent_bytes() <= HIGH_BYTES // 2:
            self._is_paused = False
            if self._exchange is not None:
                self._exchange.resume()

    def _take(self, items: Sequence[Item]) -> None:
        batch: list[Envelope] = []
        for item in items:
            if isinstance(item, bytes):
                self._greeted(item)
            elif isinstance(item, Envelope):
                batch.append(item)
        if batch and self._exchange is not None:
            self._exchange.received(batch)
        if HANG_UP in items:
            self._broken()

    def _broken(self) -> None:
        if self._exchange is None:
            self.give_up(Unreachable(f"{self._opening.address} has hung up in the handshake"))
        else:
            self.give_up(LinkLost("the peer has hung up without a farewell"))

    # ------------------------------------------------------------ inside

    async def end(self) -> None:
        """Close the link in order, or give up the attempt to open one."""
        if self._exchange is not None:
            await self._exchange.close()
        self.give_up(Unreachable(f"the transport at {self._opening.address} has closed"))

    def give_up(self, error: TransportError) -> None:
        """End the link, or the attempt to open one, and hang up."""
        if self._is_gone:
            return
        self._is_gone = True
        self._stop_watching()
        self._send(HANG_UP)
        if self._in is not None:
            self._in.close()
        if self._exchange is not None:
            self._exchange.end(error)
        else:
            self._opening.fail(error)
        self._on_gone(self)

    def _send(self, item: Item) -> None:
        if self._out is not None:
            self._out.send(item)

    def _greeted(self, message: bytes) -> None:
        # The last message of a peer that is refused comes when this end is gone already.
        if self._is_gone:
            return
        step = self._opening.received(message)
        if step.send is not None:
            self._send(step.send)
        if step.error is not None:
            self.give_up(step.error)
        elif step.agreement is not None:
            self._stop_watching()
            self._exchange = self._opening.open(step.agreement, self)
            self._exchange.start()


class InProcessNetwork(Network):
    """Connects the transports of one process, and finds each by its address."""

    def __init__(
        self, seed: int = 0, clock: Clock | None = None, faults: Faults | None = None
    ) -> None:
        """Begin whole. Faults come from `seed`, and time from `clock`."""
        super().__init__(seed, clock, faults)
        self._bound: dict[str, InProcessTransport] = {}
        self._numbers = count(1)

    def bind(self, transport: InProcessTransport) -> str:
        """Give a transport an address."""
        address = f"inprocess:{next(self._numbers)}"
        self._bound[address] = transport
        return address

    def unbind(self, address: str) -> None:
        """Forget an address."""
        self._bound.pop(address, None)

    def find(self, address: str) -> InProcessTransport | None:
        """The transport at an address."""
        return self._bound.get(address)


class InProcessTransport:
    """A node's transport on a network of this process."""

    def __init__(
        self,
        me: Peer,
        network: InProcessNetwork,
        *,
        token: bytes = b"",
        options: TransportOptions = DEFAULT_OPTIONS,
        clock: Clock | None = None,
    ) -> None:
        """Open nothing yet. `clock` is that of the node (None: that of the network)."""
        self._network = network
        # The context in which the node makes it. Other nodes call it in theirs.
        self._context = copy_context()
        self._clock = clock or network.clock
        self._me = me
        self._token = token
        self._options = options
        self._address: str | None = None
        self._handler: Handler | None = None
        self._ends: dict[_End, None] = {}
        self._waiting: list[Callable[[Handler], None]] = []
        self._is_closed = False

    # ------------------------------------------------------------ the port

    @property
    def address(self) -> str | None:
        """Where others reach this node. None: it is not bound."""
        return self._address

    async def bind(self) -> str:
        """Take an address of the network."""
        if self._address is None:
            self._check_open()
            self._address = self._network.bind(self)
        return self._address

    async def listen(self, handler: Handler) -> str:
        """Serve peers from now on, also those that wait already."""
        address = await self.bind()
        self._handler = handler
        waiting = self._waiting
        self._waiting = []
        for serve in waiting:
            serve(handler)
        return address

    async def connect(
        self, address: str, handler: Handler | None = None, timeout_ms: int = 5_000
    ) -> Link:
        """Open a link to a peer."""
        self._check_open()
        host_and_port(address)
        peer = self._network.find(address)
        if peer is None:
            msg = f"no node answers at {address}; is it running there?"
            raise Unreachable(msg)
        opening = self._opening("connecting", address, handler or self._handler or Silence())
        end = self._end(opening)
        peer.meet(self._me.node.node, end)
        late = Unreachable(f"{address} did not answer within {timeout_ms:,} ms; is the node alive?")
        alarm = self._clock.call_after(timeout_ms, lambda: end.give_up(late))
        try:
            return await opening.wait()
        except asyncio.CancelledError:
            end.give_up(late)
            raise
        finally:
            alarm.cancel()

    def vanish(self) -> None:
        """Be there no more, as the transport of a process that was killed. It says no farewell."""
        self._is_closed = True
        if self._address is not None:
            self._network.unbind(self._address)
        self._network.cut(self._me.node.node)

    async def close(self) -> None:
        """Stop listening, and close all links."""
        self._is_closed = True
        if self._address is not None:
            self._network.unbind(self._address)
        await asyncio.gather(*(end.end() for end in list(self._ends)))

    async def __aenter__(self) -> Self:
        """Nothing happens yet."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        await self.close()

    # ------------------------------------------------------------ meeting others

    def meet(self, node: str, theirs: _End) -> None:
        """Let another node's end meet one of this node, now or when it listens."""

        def serve(handler: Handler) -> None:
            self._context.copy().run(meet, handler)

        def meet(handler: Handler) -> None:
            ours = self._end(self._opening("listening", f"inprocess {node}", handler))
            me = self._me.node.node
            there = Lane(self._network, node, me, (theirs, ours))
            back = Lane(self._network, me, node, (ours, theirs))
            theirs.join(there, back)
            ours.join(back, there)
            theirs.begin()

        if self._handler is None:
            self._waiting.append(serve)
        else:
            serve(self._handler)

    def _opening(
        self, role: Literal["connecting", "listening"], address: str, handler: Handler
    ) -> Opening:
        handshake = Handshake(role, self._me, self._token, self._options)
        return Opening(handshake, address, handler, self._options, self._clock)

    def _end(self, opening: Opening) -> _End:
        end = _End(opening, self._forget, self._context)
        self._ends[end] = None
        return end

    def _forget(self, end: _End) -> None:
        self._ends.pop(end, None)

    def _check_open(self) -> None:
        if self._is_closed:
            msg = f"the transport of node {self._me.node.node!r} is closed; make a new one"
            raise Unreachable(msg)
