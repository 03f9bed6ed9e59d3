"""Nodes of one cluster with different code: instances run where their code is."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from engine import until

from perdure import App, Node, NodeOptions, workflow
from perdure.client.client import Client
from perdure.client.gateway import StoreGateway
from perdure.cluster.local import LocalCluster
from perdure.errors import Suspended
from perdure.kernel.data.definition import normal_version
from perdure.kernel.data.placement import scope_of
from perdure.ports.clock import SystemClock
from perdure.ports.store import Units
from perdure.store.memory import MemoryStore

SHARDS = 8


class World:
    """A store, and nodes on it that each have an app of their own."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.cluster = LocalCluster(SystemClock())

    def node(self, name: str, app: App, *, weight: int = 100) -> Node:
        options = NodeOptions(stop_ms=0, lease_ms=5_000, weight=weight, rescan_ms=200)
        return Node(app, self.store, name=name, options=options, cluster=self.cluster)

    def client(self) -> Client:
        return Client(StoreGateway(self.store))

    async def scope_of(self, unit: str) -> str:
        return (await self.store.query(Units(ids=(unit,)))).items[0].row.scope


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with MemoryStore(shards=SHARDS) as store:
        yield World(store)


def release(*versions: str, node: str = "") -> App:
    """The app of a release: a workflow in these versions. Its result names version and node."""
    app = App("shop")

    @app.activity
    async def where() -> str:
        return node

    def define(version: str) -> None:
        @app.workflow(name="order", version=version)
        async def order(steps: int) -> str:
            for _ in range(steps):
                await workflow.receive("go", int)
            return f"{normal_version(version)} {await where()}"

    for version in versions:
        define(version)
    return app


def order(client: Client, id: str, version: str | None = None):
    return client.workflow("order", id=id, version=version)


async def owned(*nodes: Node) -> None:
    """Wait until these nodes own all shards, each some of them."""

    def is_so() -> bool:
        shards = [s for node in nodes for s in node.scopes if s.startswith("default/")]
        return len(shards) == SHARDS and all(node.scopes for node in nodes)

    await until(is_so, "all shards are owned")


async def test_an_instance_runs_where_its_version_is(world: World) -> None:
    old, new = release("1.0.0", node="a"), release("1.0.0", "2.0.0", node="b")
    async with world.node("a", old) as a, world.node("b", new) as b:
        await owned(a, b)
        for client in (a.client, b.client, world.client()):
            handles = [order(client, f"o-{id(client)}-{n}", "2") for n in range(20)]
            for handle in handles:
                await handle.start(1)
            for handle in handles:
                await handle.send("go", 1)
            results = [await handle.result(timeout=20) for handle in handles]
            assert results == ["2.0.0 b"] * 20


async def test_a_start_of_an_unknown_workflow_goes_to_a_node_that_knows_it(world: World) -> None:
    async with world.node("a", App("shop")) as a, world.node("b", release("1", node="b")) as b:
        await owned(a, b)
        for n in range(20):
            handle = order(a.client, f"o-{n}")
            await handle.start(0)
            assert await handle.result(timeout=20) == "1.0.0 b"


async def test_without_a_node_that_has_it_an_instance_is_suspended_until_one_joins(
    world: World,
) -> None:
    async with world.node("a", release("1", node="a")) as a:
        await owned(a)
        handle = order(a.client, "o", "2")
        await handle.start(1)
        with pytest.raises(Suspended, match="not_registered"):
            await asyncio.wait_for(world.client().get("o").result(), 20)
        async with world.node("b", release("2", node="b")):
            await handle.send("go", 1)
            assert await handle.result(timeout=20) == "2.0.0 b"


async def test_it_waits_again_when_the_node_that_has_its_code_goes(world: World) -> None:
    async with world.node("a", release("1", node="a")) as a:
        async with world.node("b", release("2", node="b")) as b:
            await owned(a, b)
            handles = [order(a.client, f"o-{n}", "2") for n in range(10)]
            for handle in handles:
                await handle.start(1)
        client = world.client()
        for handle in handles:

            async def is_suspended(unit: str = handle.id) -> bool:
                await client.get(unit).send("go", 1)
                return (await client.get(unit).describe()).status == "suspended"

            await until(is_suspended, "suspended")
        async with world.node("c", release("2", node="c")):
            results = [
                await client.get(h.id).result(timeout=20, through_suspension=True) for h in handles
            ]
            assert results == ["2.0.0 c"] * 10


async def test_it_goes_home_when_all_nodes_have_its_code(world: World) -> None:
    new = release("1", "2", node="b")
    a = world.node("a", release("1", node="a"))
    async with world.node("b", new) as b:
        async with a:
            await owned(a, b)
            handles = [order(a.client, f"o-{n}", "2") for n in range(20)]
            for handle in handles:
                await handle.start(2)
            for handle in handles:
                await handle.send("go", 1)

            async def some_have_left() -> bool:
                found = (await world.store.query(Units())).items
                return any(view.row.scope.startswith("pin/") for view in found)

            await until(some_have_left, "some had to leave their home")
        async with world.node("a", release("1", "2", node="a")) as later:
            await owned(later, b)
            for handle in handles:
                await b.client.get(handle.id).send("go", 2)
            results = [await b.client.get(h.id).result(timeout=20) for h in handles]
            assert {result.partition(" ")[0] for result in results} == {"2.0.0"}
        assert [await world.scope_of(h.id) for h in handles] == [
            scope_of(h.id, SHARDS) for h in handles
        ]


async def test_an_activity_that_is_missing_is_run_where_it_is(world: World) -> None:
    def with_activity(app: App, *, has: bool) -> App:
        later = App("later")

        @later.activity(name="added")
        async def added() -> str:
            return "added"

        @app.workflow
        async def uses() -> str:
            return await added()

        if has:
            app.include(later)
        return app

    old, new = with_activity(App("a"), has=False), with_activity(App("b"), has=True)
    async with world.node("a", old) as a, world.node("b", new) as b:
        await owned(a, b)
        for n in range(20):
            assert await a.client.workflow("uses", id=f"u-{n}").run() == "added"


def half(has: str) -> App:
    """An app with a workflow and one of its two activities."""
    app, other = App(has), App("other")

    @other.activity(name="x")
    async def x() -> str:
        return "x"

    @other.activity(name="y")
    async def y() -> str:
        return "y"

    @app.workflow
    async def in_turn() -> str:
        return await x() + await y()

    @app.workflow
    async def at_once() -> str:
        return "".join(await asyncio.gather(x(), y()))

    app.activity(name=has)({"x": x, "y": y}[has].fn)
    return app


async def test_nodes_with_a_part_of_the_code_each_run_what_they_can(world: World) -> None:
    async with world.node("a", half("x")) as a, world.node("b", half("y")) as b:
        await owned(a, b)
        for n in range(10):
            assert await a.client.workflow("in_turn", id=f"t-{n}").run() == "xy"


async def test_they_do_not_pass_on_for_ever_what_needs_both(world: World) -> None:
    async with world.node("a", half("x")) as a, world.node("b", half("y")) as b:
        await owned(a, b)
        handles = [a.client.workflow("at_once", id=f"o-{n}") for n in range(10)]
        for handle in handles:
            await handle.start()

        async def are_suspended() -> bool:
            found = [await handle.describe() for handle in handles]
            return all(one.reason == "not_registered" for one in found)

        await until(are_suspended, "suspended")


async def test_different_code_is_reported_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        old, new = release("1"), release("1", "2")
        async with world.node("a", old) as a, world.node("b", new) as b:
            await owned(a, b)
            await until(lambda: "has other definitions" in caplog.text, "the report")
            assert caplog.text.count("node b has other definitions: only it has order@2.0.0") == 1
            assert "only this one has order@2.0.0" in caplog.text


async def test_an_upgrade_and_a_rollback_under_load_lose_nothing(world: World) -> None:
    async def roll(nodes: dict[str, Node], *versions: str) -> None:
        for name in sorted(nodes):
            await nodes[name].stop(0)
            nodes[name] = world.node(name, release(*versions, node=name))
            await nodes[name].start()
            await owned(*nodes.values())

    nodes = {name: world.node(name, release("1", node=name)) for name in "abc"}
    for node in nodes.values():
        await node.start()
    client = world.client()
    handles: list[object] = []
    stop = asyncio.Event()

    async def load() -> None:
        n = 0
        while not stop.is_set():
            handle = order(client, f"o-{n}")
            await handle.start(1)
            await handle.send("go", n)
            handles.append(handle)
            n += 1
            await asyncio.sleep(0.002)

    loading = asyncio.create_task(load())
    try:
        await owned(*nodes.values())
        await roll(nodes, "1", "2")
        waiting = [order(client, f"w-{n}", "2") for n in range(30)]
        for handle in waiting:
            await handle.start(1)
        await roll(nodes, "1")
        for handle in waiting:
            await handle.send("go", 1)
        stop.set()
        await loading
        # What began with version 2 and has not ended waits for a node that has it.
        nodes["d"] = world.node("d", release("1", "2", node="d"))
        await nodes["d"].start()
        results = [await h.result(timeout=30, through_suspension=True) for h in handles]
        seen = Counter(result.partition(" ")[0] for result in results)
        assert set(seen) == {"1.0.0", "2.0.0"}, seen
        ended = [await h.result(timeout=30, through_suspension=True) for h in waiting]
        assert {result.partition(" ")[0] for result in ended} == {"2.0.0"}
    finally:
        stop.set()
        for node in nodes.values():
            await node.stop(0)
