"""The scale signal and idleness of real nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from engine import World, until, waits_for
from probes import ask

from perdure import App, Node, NodeOptions, workflow
from perdure.cluster.local import LocalCluster
from perdure.errors import UsageError
from perdure.node.scale import read_scale
from perdure.ports.clock import SystemClock
from perdure.ports.cluster import Member
from perdure.ports.store import Incarnation
from perdure.server import HealthPort
from perdure.store.memory import MemoryStore

LEASE_MS = 400


class Gate:
    """Activities that hold until they are let go."""

    def __init__(self, app: App) -> None:
        self.go = asyncio.Event()

        @app.activity(queue="gpu")
        async def hold() -> None:
            await self.go.wait()

        @app.workflow
        async def held() -> None:
            await hold()

        @app.workflow
        async def hears() -> bool:
            return await workflow.receive("approved", bool)

        self.held = held
        self.hears = hears


@pytest.fixture
def gate(app: App) -> Gate:
    return Gate(app)


async def test_slots_and_those_who_wait_for_them_are_counted(
    world: World, app: App, gate: Gate
) -> None:
    async with world.node(app, activities=10, queues={"gpu": 2}) as node:
        assert (await node.scale()).load == 0
        handles = [node.client.workflow(gate.held, id=f"h-{n}") for n in range(5)]
        for handle in handles:
            await handle.start()
        await until(lambda: node.metrics.waiting == 3, "three that wait")
        scale = await node.scale()
        assert (scale.busy, scale.slots, scale.attempts) == (2, 10, 3)
        assert (scale.instances, scale.tasks, scale.backlog, scale.load) == (0, 0, 3, 5)
        queue = scale.queues["gpu"]
        assert (queue.busy, queue.slots, queue.backlog) == (2, 2, 3)
        assert [one.may_stop for one in scale.nodes] == [False]
        async with HealthPort(node, "127.0.0.1:0") as port:
            assert (await ask(port.address, "/scale")).json["load"] == 5
            assert (await ask(port.address, "/scale/gpu")).json["backlog"] == 3
            assert (await ask(port.address, "/scale/other")).json["backlog"] == 0
        gate.go.set()
        for handle in handles:
            await handle.result(timeout=20)
        scale = await node.scale()
        assert (scale.load, scale.nodes[0].may_stop) == (0, True)
    with pytest.raises(UsageError, match="not running"):
        await node.scale()


async def test_a_kept_message_and_a_paused_instance_are_no_work(
    world: World, app: App, gate: Gate
) -> None:
    async with world.node(app) as node:
        handle = node.client.workflow(gate.hears, id="h")
        await handle.start()
        await waits_for(handle, "message approved")
        await handle.send("other", True)
        assert (await node.scale()).backlog == 0
        await handle.pause()
        await waits_for(handle, "paused")
        await handle.send("approved", True)
        assert (await node.scale()).backlog == 0


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    async with MemoryStore(shards=8) as made:
        yield made


async def test_the_work_of_a_dead_node_is_backlog_until_another_has_it(
    app: App, gate: Gate, store: MemoryStore
) -> None:
    cluster = LocalCluster(SystemClock())
    options = NodeOptions(lease_ms=LEASE_MS, stop_ms=0)
    a, b = (Node(app, store, name=name, cluster=cluster, options=options) for name in "ab")
    async with a:
        await until(lambda: len(a.scopes) == 8, "the scopes")
        for n in range(4):
            await a.client.workflow(gate.held, id=f"h-{n}").start()
        await until(lambda: a.metrics.running == 4, "four that run")
        dead = a.incarnation
        cluster.silence(dead)
        await until(lambda: set(a.scopes.values()) == {"frozen"}, "the end of its lease")

        async def is_dead() -> bool:
            return [one.state for one in await cluster.standings()] == ["dead"]

        await until(is_dead, "the end of its lease")
        scale = await read_scale(store, await cluster.standings(), await store.now())
        assert (scale.instances, scale.backlog, scale.living) == (4, 4, 0), "nobody does it"
        async with b:
            await until(lambda: b.metrics.running == 4, "the same four")
            scale = await b.scale()
            assert (scale.busy, scale.backlog, scale.living) == (4, 0, 1)
            gate.go.set()


async def test_two_nodes_give_the_same_numbers(app: App, gate: Gate, store: MemoryStore) -> None:
    cluster = LocalCluster(SystemClock())
    options = NodeOptions(lease_ms=LEASE_MS, stop_ms=0, activities=3)
    a, b = (Node(app, store, name=name, cluster=cluster, options=options) for name in "ab")
    async with a, b:
        await until(lambda: len(a.scopes) + len(b.scopes) == 8 and bool(b.scopes), "the share")
        for n in range(4):
            await a.client.workflow(gate.held, id=f"h-{n}").start()

        async def both_know() -> bool:
            first, second = await a.scale(), await b.scale()
            return first.busy == second.busy == 4 and first.slots == second.slots == 6

        await until(both_know, "the renewal that says it")
        gate.go.set()


# ---------------------------------------------------------------- idleness


async def test_idleness_waits_for_what_runs(world: World, app: App, gate: Gate) -> None:
    async with world.node(app) as node:
        handle = node.client.workflow(gate.held, id="h")
        await handle.start()
        idle = asyncio.ensure_future(node.wait_idle(0.05))
        await until(lambda: node.metrics.running == 1, "the activity")
        await asyncio.wait([idle], timeout=0.3)
        assert not idle.done()
        gate.go.set()
        await asyncio.wait_for(idle, 20)
        assert (await handle.describe()).status == "completed"


async def test_idleness_ends_with_the_node(world: World, app: App) -> None:
    node = world.node(app)
    with pytest.raises(UsageError, match="not running"):
        await node.wait_idle(0.05)
    async with node:
        idle = asyncio.ensure_future(node.wait_idle(60))
    with pytest.raises(UsageError, match="not running"):
        await idle


async def test_idleness_waits_until_each_member_has_shown_that_it_lives(
    app: App, store: MemoryStore
) -> None:
    cluster = LocalCluster(SystemClock())
    other = Member(incarnation=Incarnation("other", "o-1"), lease_ms=60_000)
    await cluster.join(other)
    options = NodeOptions(lease_ms=LEASE_MS, stop_ms=0, handover_ms=1)
    async with Node(app, store, cluster=cluster, options=options) as node:
        idle = asyncio.ensure_future(node.wait_idle(0.05))
        await asyncio.wait([idle], timeout=1)
        assert not idle.done(), "the other one may be dead"
        while not idle.done():
            await cluster.renew(other)
            await asyncio.sleep(0.01)
        await idle
