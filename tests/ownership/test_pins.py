"""Instances that are pinned to a node, or to nodes with a label."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from engine import until

from perdure import App, Node, NodeOptions, workflow
from perdure.client.client import Client
from perdure.client.gateway import StoreGateway
from perdure.cluster.local import LocalCluster
from perdure.errors import NotFound, NotRunning, StoreUnavailable, UsageError
from perdure.kernel.data.placement import Pin, scope_of
from perdure.kernel.placement.pins import everyone_fits, place_pins
from perdure.ports.clock import SystemClock
from perdure.ports.cluster import Member
from perdure.ports.store import Incarnation, Units
from perdure.store.memory import MemoryStore

SHARDS = 8


class World:
    """A store, and nodes on it whose activities say where they run."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.cluster = LocalCluster(SystemClock())

    def node(self, name: str, *, weight: int = 100, **labels: str) -> Node:
        app = App("pins")

        @app.activity
        async def where() -> str:
            return name

        @app.workflow
        async def moves(steps: int) -> list[str]:
            seen: list[str] = []
            for _ in range(steps):
                await workflow.receive("go", int)
                seen.append(await where())
            return seen

        options = NodeOptions(
            stop_ms=0, lease_ms=5_000, weight=weight, labels=labels, rescan_ms=200
        )
        return Node(app, self.store, name=name, options=options, cluster=self.cluster)

    def client(self) -> Client:
        return Client(StoreGateway(self.store))

    async def scope_of(self, unit: str) -> str:
        return (await self.store.query(Units(ids=(unit,)))).items[0].row.scope

    async def has_events(self, unit: str, count: int) -> bool:
        page = await self.store.query(Units(ids=(unit,)))
        return bool(page.items) and page.items[0].row.journal_events >= count


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with MemoryStore(shards=SHARDS) as store:
        yield World(store)


async def owned(*nodes: Node) -> None:
    def is_so() -> bool:
        shards = [s for node in nodes for s in node.scopes if s.startswith("default/")]
        return len(shards) == SHARDS and all(node.scopes for node in nodes)

    await until(is_so, "all shards are owned")


async def started(world: World, client: Client, id: str, steps: int) -> None:
    await client.workflow("moves", id=id).start(steps)
    await until(lambda: world.has_events(id, 1), "it has begun")


@pytest.mark.parametrize("by", ["a", "b", "store"])
async def test_an_instance_runs_where_it_is_pinned(world: World, by: str) -> None:
    async with world.node("a") as a, world.node("b") as b:
        await owned(a, b)
        client = {"a": a.client, "b": b.client, "store": world.client()}[by]
        for n in range(5):
            await started(world, client, f"m-{n}", 3)
            handle = client.get(f"m-{n}")
            await client.pin(handle.id, node="b")
            assert await world.scope_of(handle.id) == "pin/default/node:b"
            await handle.send("go", 1)
            await until(lambda unit=handle.id: world.has_events(unit, 5), "a step")
            await client.pin(handle.id, node="a")
            await handle.send("go", 2)
            await until(lambda unit=handle.id: world.has_events(unit, 9), "another step")
            await client.unpin(handle.id)
            assert await world.scope_of(handle.id) == scope_of(handle.id, SHARDS)
            await handle.send("go", 3)
            assert (await handle.result(timeout=20))[:2] == ["b", "a"]


async def test_a_label_is_that_of_any_node_that_has_it(world: World) -> None:
    async with world.node("a", zone="us") as a, world.node("b", zone="eu") as b:
        await owned(a, b)
        await started(world, a.client, "m", 2)
        await a.client.pin("m", label="zone=eu")
        await a.client.get("m").send("go", 1)
        await until(lambda: world.has_events("m", 5), "a step")
        async with world.node("c", zone="eu") as c:
            await b.stop(0)
            await until(lambda: "pin/default/label:zone=eu" in c.scopes, "the pin")
            await a.client.get("m").send("go", 2)
            assert await a.client.get("m").result(timeout=20) == ["b", "c"]


async def test_a_pinned_instance_survives_its_node_and_returns_to_it(world: World) -> None:
    async with world.node("a") as a:
        async with world.node("b") as b:
            await owned(a, b)
            await started(world, a.client, "m", 2)
            await a.client.pin("m", node="b")
        await a.client.get("m").send("go", 1)
        await until(lambda: world.has_events("m", 5), "a step without the node")
        async with world.node("b") as b:
            await until(lambda: "pin/default/node:b" in b.scopes, "the pin")
            await a.client.get("m").send("go", 2)
            assert await a.client.get("m").result(timeout=20) == ["a", "b"]


async def test_a_node_that_never_lived_holds_nothing_up(world: World) -> None:
    async with world.node("a") as a:
        await started(world, a.client, "m", 1)
        await a.client.pin("m", node="nobody")
        await a.client.get("m").send("go", 1)
        assert await a.client.get("m").result(timeout=20) == ["a"]


async def test_a_caller_that_waits_is_told_the_end_behind_a_move(world: World) -> None:
    async with world.node("a") as a, world.node("b") as b:
        await owned(a, b)
        for n in range(10):
            await started(world, a.client, f"m-{n}", 1)
        waiting = [asyncio.create_task(a.client.get(f"m-{n}").result()) for n in range(10)]
        await asyncio.sleep(0)
        for n in range(10):
            await a.client.pin(f"m-{n}", node="b")
            await b.client.get(f"m-{n}").send("go", 1)
        results = await asyncio.wait_for(asyncio.gather(*waiting), 20)
        assert results == [["b"]] * 10


async def test_messages_on_the_way_of_a_move_are_each_received_once(world: World) -> None:
    async with world.node("a") as a, world.node("b") as b:
        await owned(a, b)
        await started(world, a.client, "m", 200)

        async def send() -> None:
            for n in range(100):
                await asyncio.gather(
                    a.client.get("m").send("go", n), b.client.get("m").send("go", n)
                )

        sending = asyncio.create_task(send())
        for turn in range(10):
            await a.client.pin("m", node="ab"[turn % 2])
        await sending
        assert len(await a.client.get("m").result(timeout=20)) == 200


async def test_a_sleeping_instance_wakes_where_it_is_pinned(world: World) -> None:
    async with world.node("a") as a, world.node("b") as b:
        await owned(a, b)
        for node in (a, b):

            @node.app.workflow
            async def sleeps() -> str:
                await workflow.sleep(0.3)
                return "awake"

        handles = [a.client.workflow("sleeps", id=f"s-{n}") for n in range(10)]
        for handle in handles:
            await handle.start()
            await until(lambda unit=handle.id: world.has_events(unit, 2), "asleep")
            await a.client.pin(handle.id, node="b")
        results = [await handle.result(timeout=5) for handle in handles]
        assert results == ["awake"] * 10


async def test_a_paused_instance_stays_paused(world: World) -> None:
    async with world.node("a") as a, world.node("b") as b:
        await owned(a, b)
        await started(world, a.client, "m", 1)
        handle = a.client.get("m")
        await handle.pause()
        await handle.send("go", 1)
        await a.client.pin("m", node="b")
        await a.client.pin("m", node="a")
        assert (await handle.describe()).paused
        await handle.resume()
        assert await handle.result(timeout=20) == ["a"]


async def test_what_cannot_be_pinned_is_refused(world: World, app: App) -> None:
    async with world.node("a") as a:
        with pytest.raises(NotFound, match="no instance has the id 'x'"):
            await a.client.pin("x", node="a")
        await started(world, a.client, "m", 0)
        await a.client.get("m").result(timeout=20)
        with pytest.raises(NotRunning, match="'m' has ended"):
            await a.client.pin("m", node="a")
        for wrong in ({}, {"node": "a", "label": "b=c"}):
            with pytest.raises(UsageError, match="give one of them"):
                await a.client.pin("m", **wrong)
        await started(world, a.client, "n", 1)
        with pytest.raises(UsageError, match="'zone' is no label"):
            await a.client.pin("n", label="zone")
    async with app.node("sqlite:///:memory:") as node:
        with pytest.raises((UsageError, StoreUnavailable), match="owns all of it"):
            await node.client.pin("m", node="a")


def member(name: str, *, weight: int = 100, code: tuple[str, ...] = (), **labels: str) -> Member:
    return Member(
        incarnation=Incarnation(name, name), lease_ms=1, weight=weight, code=code, labels=labels
    )


def test_a_pin_falls_to_a_member_that_fits_and_else_to_one_that_serves_its_group() -> None:
    members = [member("a", code=("x@1.0.0",)), member("b", zone="eu"), member("c", weight=0)]
    pins = {
        "pin/default/node:b": "b",
        "pin/default/label:zone=eu": "b",
        "pin/default/code:x@1.0.0": "a",
    }
    assert place_pins(pins, members) == pins
    assert place_pins(["pin/default/node:c"], members)["pin/default/node:c"] in "ab"
    assert place_pins(["pin/default/code:y@1.0.0"], reversed(members)) == place_pins(
        ["pin/default/code:y@1.0.0"], members
    )
    assert place_pins(["pin/billing/code:x@1.0.0", "pin/default/later:z"], members) == {}


def test_only_code_that_all_members_have_leads_home() -> None:
    pin = Pin("default", "code", "x@1.0.0+y()")
    has = member("a", code=("x@1.0.0", "y()"))
    assert everyone_fits(pin, [has, member("c", weight=0)])
    assert not everyone_fits(pin, [has, member("b", code=("x@1.0.0",))])
    assert not everyone_fits(pin, [])
    assert not everyone_fits(Pin("default", "node", "a"), [has])
