"""Nodes that listen, on one store, and clients that have none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import Any

from engine import until

from perdure import App, Client, Door, Node, NodeOptions
from perdure.client.remote.address import Nodes
from perdure.client.remote.gateway import RemoteGateway
from perdure.client.remote.route import Route
from perdure.client.remote.store import RemoteStore
from perdure.cluster.local import LocalCluster
from perdure.kernel.data.placement import scope_of
from perdure.ports.clock import SystemClock
from perdure.ports.store import Incarnation
from perdure.ports.transport import Peer, TransportOptions
from perdure.store.memory import MemoryStore
from perdure.transport.inprocess import InProcessNetwork, InProcessTransport

SHARDS = 8
TOKEN = b"a token of the tests"


class Fleet:
    """Nodes by their names, on one store, and in one cluster."""

    def __init__(self, app: App, store: MemoryStore, *, seed: int = 0) -> None:
        self.app = app
        self.store = store
        self.clock = SystemClock()
        self.cluster = LocalCluster(self.clock)
        self.network = InProcessNetwork(seed, self.clock)
        self.nodes: dict[str, Node] = {}
        # A dead link is noticed soon.
        self.bounds = TransportOptions(keep_alive_ms=200)

    def transport(self, me: Peer) -> InProcessTransport:
        return InProcessTransport(me, self.network, token=TOKEN, options=self.bounds)

    def make(self, name: str, *, tcp: bool = False, listens: bool = True, **options: Any) -> Node:
        """A node. Nothing but hints and links finds messages soon."""
        options.setdefault("rescan_ms", 60_000)
        options.setdefault("stop_ms", 0)
        door: Door | None = None
        if listens and tcp:
            door = Door("127.0.0.1:0", token=TOKEN)
        elif listens:
            door = Door(transport=self.transport)
        node = Node(
            self.app,
            self.store,
            name=name,
            options=NodeOptions(**options),
            cluster=self.cluster,
            listen=door,
        )
        self.nodes[name] = node
        return node

    async def settled(self, *names: str) -> None:
        """Wait until these share the scopes, and each pair of them has a link."""
        nodes = [self.nodes[name] for name in names]

        def share() -> bool:
            owned = [scope for node in nodes for scope in node.scopes]
            return len(owned) == len(set(owned)) == SHARDS and all(node.scopes for node in nodes)

        await until(share, "the scopes of each node")
        for node in nodes:
            if node.address is not None:
                await until(lambda n=node: linked(n) >= set(names) - {n.name}, "the links")

    def id_at(self, name: str, stem: str) -> str:
        """An id that a node owns."""
        node = self.nodes[name]
        return next(
            f"{stem}{n}" for n in range(999) if scope_of(f"{stem}{n}", SHARDS) in node.scopes
        )

    def client(self, *names: str, name: str = "client", patience_ms: int = 30_000) -> Client:
        """A client in this process that knows the addresses of these nodes."""
        addresses = tuple(str(self.nodes[one].address) for one in names)
        me = Peer(Incarnation(name, f"{name}-1"), "")
        route = Route(
            Nodes(addresses, TOKEN), self.transport(me), self.clock, Random(1), patience_ms
        )
        store = RemoteStore(route)
        return Client(RemoteGateway(store, self.clock), own_store=store)


def linked(node: Node) -> set[str]:
    """The names of the nodes with which a node has a link."""
    assert node._listening is not None
    return set(node._listening.peers._links)


@asynccontextmanager
async def fleet_of(
    app: App, *names: str, tcp: bool = False, seed: int = 0, **options: Any
) -> AsyncIterator[Fleet]:
    """Nodes of these names that have shared the scopes."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(MemoryStore(shards=SHARDS))
        fleet = Fleet(app, store, seed=seed)
        for name in names:
            await stack.enter_async_context(fleet.make(name, tcp=tcp, **options))
        await fleet.settled(*names)
        yield fleet
