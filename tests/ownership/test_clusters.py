"""Nodes of one cluster: they come and go, and their work goes on at others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from engine import until

from perdure import App, Node, NodeOptions, Workflow, workflow
from perdure.cluster.local import LocalCluster
from perdure.kernel.data.placement import scopes_of
from perdure.ports.clock import SystemClock
from perdure.ports.store import Scopes
from perdure.store.memory import MemoryStore

SHARDS = 32
LEASE_MS = 400


class Fleet:
    """Three nodes."""

    def __init__(self, app: App, store: MemoryStore) -> None:
        self.store = store
        self.cluster = LocalCluster(SystemClock())
        options = NodeOptions(stop_ms=0, lease_ms=LEASE_MS)
        self.nodes = [
            Node(app, store, name=name, options=options, cluster=self.cluster) for name in "abc"
        ]

    async def is_spread(self, *nodes: Node) -> bool:
        """Whether these nodes own all scopes, each some of them, and know of it."""
        if not all(node.scopes for node in nodes):
            return False
        owned = [scope for node in nodes for scope in node.scopes]
        page = await self.store.query(Scopes(limit=100))
        known = {view.scope: view.owner.id for view in page.items if view.owner is not None}
        return sorted(owned) == sorted(scopes_of(SHARDS)) and all(
            known[scope] == node.incarnation.id for node in nodes for scope in node.scopes
        )


@pytest.fixture
async def fleet(app: App) -> AsyncIterator[Fleet]:
    async with MemoryStore(shards=SHARDS) as store:
        yield Fleet(app, store)


def adding(app: App) -> Workflow[[], int]:
    @app.workflow
    async def adds() -> int:
        total = 0
        for _ in range(3):
            total += await workflow.receive("n", int)
        return total

    return adds


async def test_nodes_share_the_scopes_as_they_come_and_go(fleet: Fleet, app: App) -> None:
    adds = adding(app)
    a, b, c = fleet.nodes
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(a)
        await until(lambda: fleet.is_spread(a), "one owns all")
        handles = [a.client.workflow(adds, id=f"w{n}") for n in range(50)]
        for handle in handles:
            await handle.start()
            await handle.send("n", 1)
        await stack.enter_async_context(b)
        await stack.enter_async_context(c)
        await until(lambda: fleet.is_spread(a, b, c), "each owns some")
        for handle in handles:
            await b.client.get(handle.id).send("n", 2)
        await b.stop()
        await until(lambda: fleet.is_spread(a, c), "two own all")
        for handle in handles:
            await c.client.get(handle.id).send("n", 3)
        assert await asyncio.gather(*(h.result(timeout=20) for h in handles)) == [6] * 50


async def test_a_member_that_is_silent_is_replaced_within_two_leases(
    fleet: Fleet, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    adds = adding(app)
    a, b, _ = fleet.nodes
    async with a, b:
        await until(lambda: fleet.is_spread(a, b), "both own some")
        handles = [a.client.workflow(adds, id=f"w{n}") for n in range(50)]
        for handle in handles:
            await handle.start()
            await handle.send("n", 1)
        before = b.incarnation
        fleet.cluster.silence(before)
        await until(lambda: fleet.is_spread(a), "the other owns all")
        # It learns that it was taken for dead, and comes back as another incarnation.
        fleet.cluster.hear(before)
        await until(lambda: fleet.is_spread(a, b), "both own some again")
        assert b.incarnation != before
        for handle in handles:
            await a.client.get(handle.id).send("n", 2)
            await b.client.get(handle.id).send("n", 3)
        assert await asyncio.gather(*(h.result(timeout=20) for h in handles)) == [6] * 50
