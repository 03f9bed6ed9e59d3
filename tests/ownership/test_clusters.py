"""Nodes of one cluster: they come and go, and their work goes on at others."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from engine import until

from perdure import App, Node, NodeOptions, Workflow, workflow
from perdure.cluster.local import LocalCluster
from perdure.cluster.sqlite import SQLiteCluster
from perdure.errors import StoreUnavailable, UsageError
from perdure.kernel.data.placement import scopes_of
from perdure.ports.clock import SystemClock
from perdure.ports.cluster import Member, Seen, View
from perdure.ports.store import Incarnation, Scopes
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


async def test_a_member_whose_lease_is_shorter_is_judged(app: App) -> None:
    cluster = LocalCluster(SystemClock())
    dead = Member(incarnation=Incarnation("dead", "dead-1"), lease_ms=400)
    await cluster.join(dead)
    async with MemoryStore(shards=SHARDS) as store:
        await store.claim(scopes_of(SHARDS), dead.incarnation)
        options = NodeOptions(lease_ms=10_000, handover_ms=60_000)
        async with Node(app, store, cluster=cluster, options=options) as node:
            await until(lambda: len(node.scopes) == SHARDS, "the scopes of the dead one")
            assert len((await cluster.view()).members) == 1


async def test_a_node_that_cannot_renew_freezes_and_goes_on_where_it_was(
    fleet: Fleet, app: App, caplog: pytest.LogCaptureFixture
) -> None:
    adds = adding(app)
    a = fleet.nodes[0]
    async with a:
        handle = a.client.workflow(adds, id="w")
        await handle.start()
        await handle.send("n", 1)
        before = a.incarnation
        fleet.cluster.silence(before)
        await until(lambda: "frozen" in a.scopes.values(), "the end of the lease")
        with pytest.raises(StoreUnavailable, match="nothing was done"):
            await handle.send("n", 9)
        # Nobody has acted on the end of its lease.
        fleet.cluster.hear(before)
        await until(lambda: set(a.scopes.values()) == {"serving"}, "the renewal")
        assert a.incarnation == before
        assert a.residents == 1
        await handle.send("n", 2)
        await handle.send("n", 3)
        assert await handle.result(timeout=20) == 6
    told = [record.getMessage() for record in caplog.records]
    assert sum("cannot renew its lease" in text for text in told) == 1
    assert sum("is frozen: its lease is over" in text for text in told) == 1
    assert sum("has renewed its lease" in text for text in told) == 1


class TellingCluster(LocalCluster):
    """A cluster that sees the end of a session, a little late."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.looks = 0

    async def view(self) -> View:
        self.looks += 1
        found = await super().view()
        is_connected = self.looks <= 4
        return View(
            found.revision,
            tuple(Seen(seen.member, seen.beat, is_connected) for seen in found.members),
        )


async def test_a_node_whose_last_life_has_just_ended_is_not_refused(fleet: Fleet, app: App) -> None:
    cluster = TellingCluster()
    dead = Member(incarnation=Incarnation("a", "last-life"), lease_ms=LEASE_MS)
    await cluster.join(dead)
    options = NodeOptions(stop_ms=0, lease_ms=LEASE_MS)
    async with Node(app, fleet.store, name="a", options=options, cluster=cluster) as node:
        await until(lambda: fleet.is_spread(node), "it owns all")
    assert cluster.looks > 4


async def test_a_second_node_of_a_name_is_refused(fleet: Fleet, app: App) -> None:
    a = fleet.nodes[0]
    twin = Node(app, fleet.store, name="a", cluster=fleet.cluster)
    async with a:
        with pytest.raises(UsageError, match="has a living member named 'a'"):
            await twin.start()
        await until(lambda: fleet.is_spread(a), "the first goes on")
    async with twin:
        await until(lambda: fleet.is_spread(twin), "the second has the name now")


async def test_nodes_that_were_all_killed_come_back_under_their_names(
    fleet: Fleet, app: App, caplog: pytest.LogCaptureFixture
) -> None:
    # Nobody is left who could remove their last lives.
    for node in fleet.nodes:
        dead = Member(incarnation=Incarnation(node.name, f"dead-{node.name}"), lease_ms=LEASE_MS)
        await fleet.cluster.join(dead)
    async with AsyncExitStack() as stack:
        await asyncio.gather(*(stack.enter_async_context(node) for node in fleet.nodes))
        await until(lambda: fleet.is_spread(*fleet.nodes), "each owns some")
    assert "another life of node a is a member" in caplog.text


async def test_a_join_whose_answer_is_lost_leaves_no_seat(fleet: Fleet) -> None:
    a = fleet.nodes[0]
    fleet.cluster.loses_answers = True
    with pytest.raises(StoreUnavailable):
        await a.start()
    fleet.cluster.loses_answers = False
    assert (await fleet.cluster.view()).members == ()


async def test_a_cluster_that_does_not_answer_refuses_the_start(fleet: Fleet) -> None:
    a = fleet.nodes[0]
    fleet.cluster.is_away = True
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await a.start()
    fleet.cluster.is_away = False
    async with a:
        await until(lambda: fleet.is_spread(a), "it owns all")


async def test_a_stop_does_not_need_the_cluster(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    a, b, _ = fleet.nodes
    async with b:
        async with a:
            await until(lambda: fleet.is_spread(a, b), "both own some")
            fleet.cluster.silence(a.incarnation)
        # It has released its scopes, and its seat ends with its lease.
        assert "its seat in the cluster ends with its lease" in caplog.text
        await until(lambda: fleet.is_spread(b), "the other owns all")


class Threaded:
    """A node whose membership has a thread of its own, and the end of another process."""

    def __init__(self, app: App, store: MemoryStore, path: str, options: NodeOptions) -> None:
        self.node = Node(app, store, name="a", options=options, cluster=SQLiteCluster(path))
        self.watching = SQLiteCluster(path)

    async def beat(self) -> int:
        (seen,) = (await self.watching.view()).members
        return seen.beat


FORGETS_TO_STOP = """
import asyncio, sys, threading
from perdure import App, Node, NodeOptions
from perdure.cluster.sqlite import SQLiteCluster
from perdure.store.memory import MemoryStore

async def main():
    store = await MemoryStore().__aenter__()
    options = NodeOptions(stop_ms=0, lease_ms=300, turn_limit_ms=100)
    await Node(App("a"), store, options=options, cluster=SQLiteCluster(sys.argv[1])).start()

asyncio.run(main())
for thread in threading.enumerate():
    if thread.name == "perdure-membership":
        thread.join(20)
"""


async def test_an_event_loop_that_ends_with_a_node_gives_its_seat_up(tmp_path: Path) -> None:
    path = str(tmp_path / "c.db")
    command = [sys.executable, "-c", FORGETS_TO_STOP, path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    async with SQLiteCluster(path) as watching:
        assert (await watching.view()).members == ()


async def test_a_long_turn_does_not_cost_the_lease(app: App, tmp_path: Path) -> None:
    options = NodeOptions(stop_ms=0, lease_ms=300)
    async with MemoryStore() as store:
        threaded = Threaded(app, store, str(tmp_path / "c.db"), options)
        async with threaded.node as node, threaded.watching:
            await until(lambda: node.scopes, "it owns all")
            before = await threaded.beat()
            time.sleep(0.6)
            assert await threaded.beat() >= before + 3
            assert set(node.scopes.values()) == {"serving"}


async def test_an_event_loop_that_stands_still_loses_the_lease(
    app: App, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = NodeOptions(stop_ms=0, lease_ms=300, turn_limit_ms=100)
    async with MemoryStore() as store:
        threaded = Threaded(app, store, str(tmp_path / "c.db"), options)
        async with threaded.node as node, threaded.watching:
            await until(lambda: node.scopes, "it owns all")
            before = await threaded.beat()
            time.sleep(2.0)
            # It goes on for the limit of a turn and a tick, of twenty renewals in all.
            assert await threaded.beat() <= before + 10
            assert "its event loop stands still" in caplog.text

            async def goes_on() -> bool:
                return await threaded.beat() > before + 12

            await until(goes_on, "the renewals go on")
            await until(lambda: set(node.scopes.values()) == {"serving"}, "and so does the node")
