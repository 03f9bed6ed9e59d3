"""Links between the nodes of one process, with the faults of a network that a test asks for.

    network = Network(seed=7, clock=clock)
    a = network.transport(Peer(Incarnation("a", "a-1"), "store-1"))
    b = network.transport(Peer(Incarnation("b", "b-1"), "store-1"))
    link = await a.connect(await b.listen(handler))
    network.use(Faults(drop=0.1, duplicate=0.1, reorder=0.1, delay_ms=(0, 50)))
    network.partition({"a"})

Time is that of the clock. Chance comes from the seed, for each link and direction apart, so that
the same run has the same faults whatever else happens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from heapq import heappop, heappush
from itertools import count
from random import Random
from types import TracebackType
from typing import Literal, Self, TypeAlias

import msgspec

from perdure.ports.clock import Alarm, Clock, SystemClock
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
from perdure.transport.frame import size_of
from perdure.transport.handshake import Handshake
from perdure.transport.opening import Opening
from perdure.transport.silence import Silence

HIGH_BYTES = 1 << 20
"""What may be on its way to a peer before its sender is paused."""
OVERTAKES = 16
"""How many earlier envelopes an envelope may overtake."""


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to envelopes: shares from 0 to 1, and a delay from and to.

    Without `reorder` a delay keeps the order. The handshake is delayed, and has no other faults.
    """

    drop: float = 0
    duplicate: float = 0
    reorder: float = 0
    delay_ms: tuple[int, int] = (0, 0)


class _HangUp:
    """The end of what an end has sent."""


_HANG_UP = _HangUp()
_Item: TypeAlias = Envelope | bytes | _HangUp


class Network:
    """Connects the transports of one process."""

    def __init__(
        self, seed: int = 0, clock: Clock | None = None, faults: Faults | None = None
    ) -> None:
        """Begin whole. Faults come from `seed`, and time from `clock`."""
        self.clock: Clock = clock or SystemClock()
        self._seed = seed
        self._faults = faults or Faults()
        self._bound: dict[str, InProcessTransport] = {}
        self._numbers = count(1)
        self._pairs: dict[tuple[str, str], int] = {}
        self._groups: list[frozenset[str]] = []
        self._stalled: set[str] = set()
        self._lanes: set[_Lane] = set()

    def transport(
        self, me: Peer, *, token: bytes = b"", options: TransportOptions = DEFAULT_OPTIONS
    ) -> InProcessTransport:
        """A node's transport on this network."""
        return InProcessTransport(self, me, token, options)

    @property
    def faults(self) -> Faults:
        """What happens to envelopes that are sent now."""
        return self._faults

    def use(self, faults: Faults) -> None:
        """Have these faults from now on."""
        self._faults = faults

    def partition(self, *groups: Collection[str]) -> None:
        """Let nodes reach only those of their own group, by name. Nodes of no group are one."""
        self._groups = [frozenset(group) for group in groups]

    def heal(self) -> None:
        """Let all nodes reach each other."""
        self._groups = []

    def stall(self, node: str) -> None:
        """Let a node read nothing, as one that is stopped, until `resume`."""
        self._stalled.add(node)

    def resume(self, node: str) -> None:
        """Let a node read again."""
        self._stalled.discard(node)
        for lane in list(self._lanes):
            lane.look()

    def cut(self, node: str) -> None:
        """End all links of a node without a farewell, as the death of its process does."""
        for lane in list(self._lanes):
            if node in (lane.sender, lane.receiver):
                lane.cut()

    # ------------------------------------------------------------ for the transports

    def reaches(self, sender: str, receiver: str) -> bool:
        """Whether what one node sends comes to the other."""
        return self._group_of(sender) == self._group_of(receiver)

    def _group_of(self, node: str) -> int:
        for number, group in enumerate(self._groups):
            if node in group:
                return number
        return -1

    def is_stalled(self, node: str) -> bool:
        """Whether the node reads nothing."""
        return node in self._stalled

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

    def chance(self, sender: str, receiver: str) -> Random:
        """The source of chance of a new lane."""
        number = self._pairs.get((sender, receiver), 0)
        self._pairs[sender, receiver] = number + 1
        return Random(f"{self._seed}/{sender}/{receiver}/{number}")

    def add(self, lane: _Lane) -> None:
        """Note a lane in use."""
        self._lanes.add(lane)

    def remove(self, lane: _Lane) -> None:
        """Forget a lane."""
        self._lanes.discard(lane)


class _Lane:
    """What is on its way from one end to the other."""

    def __init__(self, network: Network, sender: str, receiver: str, ends: tuple[_End, _End]):
        """Lead from the first end to the second."""
        self.sender = sender
        self.receiver = receiver
        self._network = network
        self._from, self._to = ends
        self._chance = network.chance(sender, receiver)
        self._items: list[tuple[int, int, int, _Item]] = []
        self._numbers = count()
        self._last_ms = 0
        self._alarm: Alarm | None = None
        self._armed_ms = 0
        self.sent_bytes = 0
        self.taken_bytes = 0
        network.add(self)

    def send(self, item: _Item) -> None:
        """Send something, with the faults of the network."""
        if not self._network.reaches(self.sender, self.receiver):
            return
        faults = self._network.faults
        copies = 1
        overtakes = 0
        if isinstance(item, Envelope):
            # Each draws the same number of times, so that a fault leaves the later ones as they are.
            dice = [self._chance.random() for _ in range(3)]
            if dice[0] < faults.drop:
                return
            if dice[1] < faults.duplicate:
                copies = 2
            if dice[2] < faults.reorder:
                overtakes = self._chance.randint(1, OVERTAKES)
        for _ in range(copies):
            self._put(item, self._due(overtakes), next(self._numbers) - overtakes)

    def _due(self, overtakes: int) -> int:
        due_ms = self._network.clock.now_ms() + self._chance.randint(*self._network.faults.delay_ms)
        if overtakes:
            return due_ms
        self._last_ms = max(self._last_ms, due_ms)
        return self._last_ms

    def _put(self, item: _Item, due_ms: int, place: int) -> None:
        # A second number, because two items can have the same place, and cannot be compared.
        heappush(self._items, (due_ms, place, next(self._numbers), item))
        self.sent_bytes += _bytes_of(item)
        self.look()

    def look(self) -> None:
        """Arm for the next item, if it can be delivered."""
        if not self._items or self._network.is_stalled(self.receiver):
            return
        due_ms = self._items[0][0]
        if self._alarm is not None:
            if self._armed_ms <= due_ms:
                return
            self._alarm.cancel()
        self._armed_ms = due_ms
        self._alarm = self._network.clock.call_at(due_ms, self._deliver)

    def _deliver(self) -> None:
        self._alarm = None
        if self._network.is_stalled(self.receiver):
            return
        now_ms = self._network.clock.now_ms()
        batch: list[_Item] = []
        while self._items and self._items[0][0] <= now_ms:
            item = heappop(self._items)[3]
            self.taken_bytes += _bytes_of(item)
            # What is on its way when a network falls apart is lost as well.
            if self._network.reaches(self.sender, self.receiver):
                batch.append(item)
        self._to.take(batch)
        self._from.taken()
        self.look()

    def cut(self) -> None:
        """End both ends now. What is on its way is lost."""
        self._from.broken()
        self._to.broken()

    def close(self) -> None:
        """Deliver nothing more."""
        self._items.clear()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._network.remove(self)


def _bytes_of(item: _Item) -> int:
    if isinstance(item, Envelope):
        return size_of(item)
    return 0


class _End:
    """One end of a connection. It is also the `Pipe` of its exchange."""

    def __init__(self, opening: Opening, on_gone: Callable[[_End], None]) -> None:
        """Wait for its lanes."""
        self._opening = opening
        self._on_gone = on_gone
        self._exchange: Exchange | None = None
        self._out: _Lane | None = None
        self._in: _Lane | None = None
        self._is_paused = False
        self._is_gone = False
        self._stop_watching = opening.watch(self.give_up)

    def join(self, out: _Lane, into: _Lane) -> None:
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
        self._send(_HANG_UP)

    def abort(self) -> None:
        """Hang up now."""
        self.give_up(LinkLost("this node has hung up"))

    # ------------------------------------------------------------ the lanes

    def taken(self) -> None:
        """The other end has taken something."""
        if self._is_paused and self.unsent_bytes() <= HIGH_BYTES // 2:
            self._is_paused = False
            if self._exchange is not None:
                self._exchange.resume()

    def take(self, items: Sequence[_Item]) -> None:
        """Take what the other end has sent."""
        batch: list[Envelope] = []
        for item in items:
            if isinstance(item, bytes):
                self._greeted(item)
            elif isinstance(item, Envelope):
                batch.append(item)
        if batch and self._exchange is not None:
            self._exchange.received(batch)
        if _HANG_UP in items:
            self.broken()

    def broken(self) -> None:
        """The connection is no more."""
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
        self._send(_HANG_UP)
        if self._in is not None:
            self._in.close()
        if self._exchange is not None:
            self._exchange.end(error)
        else:
            self._opening.fail(error)
        self._on_gone(self)

    def _send(self, item: _Item) -> None:
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


class InProcessTransport:
    """A node's transport on a `Network`."""

    def __init__(self, network: Network, me: Peer, token: bytes, options: TransportOptions) -> None:
        """Made by `Network.transport`."""
        self._network = network
        self._me = me
        self._token = token
        self._options = options
        self._address: str | None = None
        self._handler: Handler | None = None
        self._ends: set[_End] = set()
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
        alarm = self._network.clock.call_after(timeout_ms, lambda: end.give_up(late))
        try:
            return await opening.wait()
        except asyncio.CancelledError:
            end.give_up(late)
            raise
        finally:
            alarm.cancel()

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
            ours = self._end(self._opening("listening", f"inprocess {node}", handler))
            me = self._me.node.node
            there = _Lane(self._network, node, me, (theirs, ours))
            back = _Lane(self._network, me, node, (ours, theirs))
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
        return Opening(handshake, address, handler, self._options, self._network.clock)

    def _end(self, opening: Opening) -> _End:
        end = _End(opening, self._ends.discard)
        self._ends.add(end)
        return end

    def _check_open(self) -> None:
        if self._is_closed:
            msg = f"the transport of node {self._me.node.node!r} is closed; make a new one"
            raise Unreachable(msg)
