"""An app may grow while nodes run it: what waits for a definition wakes, without a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from engine import World, until, waits_for

from perdure import App, ChildError, Handle, Node, NodeOptions, NotFound, workflow
from perdure.kernel.data.commit import Commit, Verdict
from perdure.store.memory import MemoryStore


async def test_many_parked_instances_wake(world: World, app: App) -> None:
    async with world.node(app) as node:
        handles = [node.client.workflow("late", id=f"l{i}") for i in range(10)]
        for i, handle in enumerate(handles):
            await handle.start(i)
        for handle in handles:
            await waits_for(handle, "not_registered")
        assert len(await node.client.list(reason="not_registered")) == 10

        @app.workflow
        async def late(i: int) -> int:
            return i

        assert [await h.result(timeout=30) for h in handles] == list(range(10))


async def test_a_child_that_is_not_registered_waits_and_its_parent_with_it(
    world: World, app: App
) -> None:
    parts = App("parts")

    @parts.workflow
    async def child() -> int:
        return 1

    @app.workflow
    async def parent() -> int:
        try:
            return await workflow.child(child, id="child")()
        except ChildError:
            return -1

    async with world.node(app) as node:
        handle = node.client.workflow(parent, id="p")
        await handle.start()
        await waits_for(handle, "child child")
        await until(lambda: _is_parked(node.client.get("child")), "the child is parked")
        app.include(parts)
        assert await handle.result(timeout=30) == 1


async def test_a_definition_that_does_not_help_leaves_it_parked(world: World, app: App) -> None:
    async with world.node(app) as node:
        handle = node.client.workflow("late", id="l")
        await handle.start()
        await waits_for(handle, "not_registered")

        @app.workflow
        async def another() -> int:
            return 2

        assert await node.client.workflow(another, id="a").run() == 2
        assert (await handle.describe()).reason == "not_registered"

        @app.workflow
        async def late() -> int:
            return 3

        assert await handle.result(timeout=30) == 3


async def _is_parked(handle: Handle[Any]) -> bool:
    try:
        return (await handle.describe()).reason == "not_registered"
    except NotFound:
        return False


async def test_a_definition_that_comes_while_the_first_turn_is_on_its_way(
    world: World, app: App
) -> None:
    async with world.node(app) as node:
        for i in range(20):
            handle = node.client.workflow(f"late-{i}", id=f"l{i}")
            starting = asyncio.create_task(handle.start())
            for _ in range(i):
                await asyncio.sleep(0)

            @app.workflow(name=f"late-{i}")
            async def late() -> int:
                return 3

            await starting
            assert await handle.result(timeout=30) == 3


async def test_a_definition_that_comes_while_the_commit_that_holds_is_on_its_way(app: App) -> None:
    """The store does not list the instance as held yet, so no look for those finds it."""

    class Slow(MemoryStore):
        def __init__(self) -> None:
            super().__init__()
            self.asked, self.gate = asyncio.Event(), asyncio.Event()

        async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
            self.asked.set()
            await self.gate.wait()
            return await super().commit(batch)

    options = NodeOptions(rescan_ms=600_000)
    async with Slow() as store, Node(app, store, options=options) as node:
        handle = node.client.workflow("late", id="l")
        starting = asyncio.create_task(handle.start())
        await asyncio.wait_for(store.asked.wait(), 30)

        @app.workflow
        async def late() -> int:
            return 3

        for _ in range(20):
            await asyncio.sleep(0)
        store.gate.set()
        await starting
        assert await handle.result(timeout=30) == 3
