"""Groups of workflows, which only some nodes of a cluster serve."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

import pytest
from engine import until

from perdure import App, Node, NodeOptions, Workflow, workflow
from perdure.client.client import Client
from perdure.client.gateway import StoreGateway
from perdure.cluster.local import LocalCluster
from perdure.errors import DefinitionError, UsageError
from perdure.kernel.data.placement import Pin, group_of, scope_of
from perdure.ports.clock import SystemClock
from perdure.ports.store import Units
from perdure.store.memory import MemoryStore

SHARDS = 8


class World:
    """A store, and nodes of one app on it that serve some groups."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.cluster = LocalCluster(SystemClock())
        self.define: Callable[[App, str], object] = lambda app, name: None

    def app(self, name: str) -> App:
        """The app of a node of this name."""
        app = App("groups")
        self.define(app, name)
        return app

    def node(self, name: str, *groups: str, weight: int = 100) -> Node:
        options = NodeOptions(
            stop_ms=0, lease_ms=5_000, groups=groups, weight=weight, rescan_ms=200
        )
        return Node(self.app(name), self.store, name=name, options=options, cluster=self.cluster)

    def client(self) -> Client:
        return Client(StoreGateway(self.store))

    async def scope_of(self, unit: str) -> str:
        page = await self.store.query(Units(ids=(unit,)))
        return page.items[0].row.scope


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with MemoryStore(shards=SHARDS) as store:
        yield World(store)


def billing(app: App, node: str) -> Workflow[[str], str]:
    """A workflow of a group, which takes one message, and says on which node its activity ran."""

    @app.activity
    async def where() -> str:
        return node

    @app.workflow(group="billing")
    async def bill(_: str) -> str:
        before = await workflow.receive("go", str)
        return f"{before} {await where()}"

    return bill


BILL = billing(App("outside"), "nowhere")


async def serves(node: Node, group: str) -> None:
    await until(lambda: any(s.startswith(f"{group}/") for s in node.scopes), f"{group} is owned")


@pytest.mark.parametrize("by", ["a", "b", "store"])
async def test_only_nodes_that_serve_a_group_run_its_workflows(world: World, by: str) -> None:
    world.define = billing
    async with world.node("a", "default") as a, world.node("b", "default", "billing") as b:
        await serves(a, "default")
        await serves(b, "billing")
        client = {"a": a.client, "b": b.client, "store": world.client()}[by]
        handles = [client.workflow(BILL, id=f"bill-{n}") for n in range(20)]
        for handle in handles:
            await handle.start("x")
        for handle in handles:
            await client.get(handle.id).send("go", "sent")
        results = await asyncio.gather(*(handle.result(timeout=20) for handle in handles))
        assert set(results) == {"sent b"}
        for handle in handles:
            assert await world.scope_of(handle.id) == scope_of(handle.id, SHARDS, "billing")
        assert not any(scope.startswith("billing/") for scope in a.scopes)


async def test_a_start_by_name_reaches_the_group(world: World) -> None:
    world.define = billing
    async with world.node("a", "default") as a, world.node("b", "billing") as b:
        await serves(a, "default")
        await serves(b, "billing")
        for n in range(10):
            handle = world.client().workflow("bill", id=f"bill-{n}")
            await handle.start("x")
            await handle.send("go", "sent")
            assert await handle.result(timeout=20) == "sent b"


async def test_messages_that_come_before_the_start_are_received(world: World) -> None:
    def define(app: App, node: str = "") -> tuple[Workflow[[], str], Workflow[[str], None]]:
        @app.workflow(group="billing")
        async def takes() -> str:
            return await workflow.receive("go", str)

        @app.workflow
        async def gives(target: str) -> None:
            workflow.send(target, "go", "early")

        return takes, gives

    takes, gives = define(App("outside"))
    world.define = define
    async with world.node("a", "default") as a, world.node("b", "billing") as b:
        await serves(a, "default")
        await serves(b, "billing")
        for n in range(10):
            await a.client.workflow(gives, id=f"gives-{n}").run(f"takes-{n}")
            assert await b.client.workflow(takes, id=f"takes-{n}").run() == "early"


async def test_children_of_another_group_answer_their_parents(world: World) -> None:
    def define(app: App, node: str = "") -> Workflow[[], int]:
        @app.workflow(group="billing")
        async def child(n: int) -> int:
            await workflow.sleep(0.01)
            return n * 2

        @app.workflow
        async def parent() -> int:
            return sum(await asyncio.gather(*(child(n) for n in range(10))))

        return parent

    parent = define(App("outside"))
    world.define = define
    async with world.node("a", "default") as a, world.node("b", "billing") as b:
        await serves(a, "default")
        await serves(b, "billing")
        assert await a.client.workflow(parent, id="p").run() == 90


async def test_instances_wait_until_a_node_serves_their_group(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.define = billing
    with caplog.at_level(logging.WARNING):
        async with world.node("a", "default") as a:
            await serves(a, "default")
            handle = a.client.workflow(BILL, id="bill-1")
            await handle.start("x")
            await handle.send("go", "sent")
            assert (await handle.describe()).status == "pending"
            assert [one.id for one in await a.client.list()] == ["bill-1"]
            assert caplog.text.count("no living node serves group 'billing'") == 1
            async with world.node("b", "billing"):
                assert await handle.result(timeout=20) == "sent b"
            assert "group 'billing' is served again" in caplog.text


async def test_the_node_that_serves_a_group_dies_and_its_work_goes_on(world: World) -> None:
    world.define = billing
    async with world.node("a", "billing") as a:
        handles = [a.client.workflow(BILL, id=f"bill-{n}") for n in range(20)]
        for handle in handles:
            await handle.start("x")
        await a.stop(0)
        async with world.node("b", "billing") as b:
            for handle in handles:
                await b.client.get(handle.id).send("go", "sent")
            results = [await b.client.get(h.id).result(timeout=20) for h in handles]
            assert results == ["sent b"] * 20


async def test_a_node_serves_the_groups_of_its_app_that_come_later(world: World) -> None:
    async with world.node("a") as a:
        await serves(a, "default")
        billing(a.app, "a")
        await serves(a, "billing")
        handle = a.client.workflow(BILL, id="bill-1")
        await handle.start("x")
        await handle.send("go", "sent")
        assert await handle.result(timeout=20) == "sent a"


async def test_weights_share_the_scopes_out(world: World) -> None:
    async with world.node("a", weight=0) as a, world.node("b") as b:
        await until(lambda: len(b.scopes) == SHARDS, "all scopes at one node")
        assert not a.scopes


async def test_a_node_without_a_cluster_runs_all_groups(app: App) -> None:
    @app.workflow(group="billing")
    async def bill() -> int:
        return 1

    async with app.node("sqlite:///:memory:") as node:
        assert await node.client.workflow(bill, id="b").run() == 1


async def test_a_node_alone_owns_what_a_cluster_has_left(world: World) -> None:
    world.define = billing
    async with world.node("a") as a:
        await serves(a, "billing")
        handle = a.client.workflow(BILL, id="bill-1")
        await handle.start("x")
    assert await world.scope_of("bill-1") == scope_of("bill-1", SHARDS, "billing")
    async with Node(world.app("alone"), world.store, name="alone") as alone:
        handle = alone.client.get("bill-1")
        await handle.send("go", "sent")
        assert await handle.result(timeout=20) == "sent alone"


@pytest.mark.parametrize("name", ["pin", "", "a/b", "ä", "x" * 65, 7])
def test_a_group_has_a_name_that_fits_into_scopes(app: App, name: str) -> None:
    with pytest.raises((UsageError, DefinitionError), match="cannot be the name of a group"):
        app.workflow(group=name)(_nothing)
    with pytest.raises(UsageError, match="cannot be the name of a group"):
        NodeOptions(groups=(name,))


async def _nothing() -> None: ...


@pytest.mark.parametrize("scope", ["default/7", "pin/default/node:a", "pin/default/code:x@1+y()"])
def test_a_scope_names_its_group(scope: str) -> None:
    assert group_of(scope) == "default"
    pin = Pin.read(scope)
    assert pin is None or pin.scope == scope
