"""The store, as a client sees it that has none: nodes read it, and put messages into it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from random import Random
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from perdure.client.remote.address import Nodes
from perdure.client.remote.protocol import (
    CALL_MS,
    LETTERS_MAX,
    LOADS_MAX,
    MAYBE_TEXT,
    NUMBER,
    Changed,
    Drop,
    Load,
    Owner,
)
from perdure.client.remote.queries import ask, page_decoder
from perdure.client.remote.route import Route
from perdure.ports.clock import Clock
from perdure.ports.store import Incarnation, Loaded, Page, Query, StoreInfo
from perdure.ports.transport import FrameTooLarge, Peer
from perdure.transport.tcp import TcpTransport

T = TypeVar("T")

_LOADED: msgspec.msgpack.Decoder[list[Loaded]] = msgspec.msgpack.Decoder(list[Loaded])
_LOOK_MS = 60_000
"""How long one request waits for a change. It is asked again then."""


def remote_store(nodes: Nodes, clock: Clock) -> RemoteStore:
    """The store behind these nodes, over TCP."""
    # Numbers of processes are used again, and containers share them: the random part is the id.
    me = Peer(Incarnation(f"client-{os.getpid()}", os.urandom(8).hex()), "")
    transport = TcpTransport(me, token=nodes.token, tls=nodes.tls, clock=clock)
    return RemoteStore(Route(nodes, transport, clock, Random()))


class RemoteStore:
    """Queries and waits by a route. Opening it opens the route."""

    def __init__(self, route: Route) -> None:
        """Use a route."""
        self.route = route

    async def __aenter__(self) -> Self:
        """Connect to a node."""
        await self.route.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Hang up."""
        await self.route.__aexit__(kind, error, trace)

    @property
    def info(self) -> StoreInfo:
        """Identity and shape of the store."""
        return self.route.welcome.info

    async def owner(self) -> str | None:
        """The owner, for people."""
        return await self.route.ask(Owner(), MAYBE_TEXT)

    async def query(self, query: Query[T]) -> Page[T]:
        """Lists and histories."""
        while True:
            try:
                return await self.route.ask(ask(query), page_decoder(query))
            except FrameTooLarge:
                # The items are large, so fewer of them make a page.
                if query.limit == 1:
                    raise
                query = msgspec.structs.replace(query, limit=query.limit // 2)

    async def load(self, units: Sequence[str]) -> list[Loaded]:
        """Units as stored, one snapshot each."""
        loaded: list[Loaded] = []
        for first in range(0, len(units), LOADS_MAX):
            few = list(units[first : first + LOADS_MAX])
            found = await self.route.ask(Load(few), _LOADED)
            loaded += found
        return loaded

    async def wait_change(self, unit: str, version: int, timeout_ms: int) -> int:
        """Wait until the unit's row has another version."""
        # A part of the time, because a node that dies silently is found by the end of the call.
        look_ms = min(timeout_ms, _LOOK_MS)
        request = Changed(unit, version, look_ms)
        return await self.route.ask(request, NUMBER, look_ms + CALL_MS, is_wait=True)

    async def drop_letters(self, letters: Sequence[bytes]) -> int:
        """Remove dead letters."""
        dropped = 0
        for first in range(0, len(letters), LETTERS_MAX):
            some = list(letters[first : first + LETTERS_MAX])
            dropped += await self.route.ask(Drop(some), NUMBER)
        return dropped
