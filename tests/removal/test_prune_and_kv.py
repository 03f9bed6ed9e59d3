"""Pruning beside a living instance, from inside and outside; KV outlives executions and goes with its instance."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from engine import PATIENCE_S, World, until, waits_for

from perdure import App, NotFound, activity, workflow


@pytest.fixture
def eternal(app: App) -> Any:
    """A workflow that continues as new for each message, and keeps a count."""

    @app.workflow
    async def eternal(execution: int) -> int:
        workflow.kv.set("count", (workflow.kv.get("count", int) or 0) + 1)
        workflow.kv.set(f"execution {execution}", execution)
        if await workflow.receive("tick", bool):
            workflow.continue_as_new(eternal, execution + 1)
        return execution

    return eternal


async def test_what_an_execution_wrote_outlives_its_history(
    world: World, app: App, eternal: Any
) -> None:
    async with world.node(app) as node:
        handle = node.client.workflow(eternal, id="e")
        await handle.start(1)
        for _ in range(4):
            await handle.send("tick", True)
        await until(lambda: _counts(handle, 5), "execution 5")
        before = await handle.kv()
        assert await handle.prune(keep_last=1) == [1, 2, 3, 4]
        assert await handle.kv() == before
    async with world.node(app) as node:
        handle = node.client.workflow(eternal, id="e")
        await handle.send("tick", False)
        assert await handle.result(timeout=PATIENCE_S) == 5
        assert await handle.kv() == {"count": 5} | {f"execution {i}": i for i in range(1, 6)}
        await handle.delete()
        with pytest.raises(NotFound):
            await handle.kv()
        with pytest.raises(NotFound):
            await handle.kv_get("count", int)


async def test_pruning_while_executions_follow_one_another(
    world: World, app: App, eternal: Any
) -> None:
    async with world.node(app) as node:
        handle = node.client.workflow(eternal, id="e")
        await handle.start(1)

        async def tick() -> None:
            for _ in range(30):
                await handle.send("tick", True)

        async def prune() -> list[int]:
            gone: list[int] = []
            for _ in range(15):
                gone += await handle.prune(keep_last=2)
                await asyncio.sleep(0)
            return gone

        _, gone = await asyncio.gather(tick(), prune())
        await handle.send("tick", False)
        assert await handle.result(timeout=PATIENCE_S) == 31
        gone += await handle.prune(keep_last=1)
        assert sorted(set(gone)) == list(range(1, 31))
        assert await handle.executions() == [31]
        assert (await handle.kv())["count"] == 31


async def test_many_living_ones_are_pruned_at_once(world: World, app: App, eternal: Any) -> None:
    async with world.node(app) as node:
        handles = [node.client.workflow(eternal, id=f"e{i}") for i in range(5)]
        for i, handle in enumerate(handles):
            await handle.start(1)
            for _ in range(i):
                await handle.send("tick", True)
            await until(lambda handle=handle, i=i: _counts(handle, i + 1), "its execution")  # type: ignore[misc]
        pruned = await node.client.prune(keep_last=1, type="eternal")
        assert pruned.executions == {f"e{i}": list(range(1, i + 1)) for i in range(1, 5)}
        assert not pruned.more
        for i, handle in enumerate(handles):
            assert await handle.status() == "running"
            assert (await handle.kv())["count"] == i + 1


async def test_an_eternal_workflow_prunes_itself(world: World, app: App) -> None:
    """An activity has a client of its node: it prunes the instance that called it."""

    @app.activity
    async def prune_caller() -> list[int]:
        return await activity.client().get(activity.info().instance).prune(keep_last=2)

    @app.workflow
    async def eternal(execution: int) -> int:
        await prune_caller()
        if execution < 8:
            workflow.continue_as_new(eternal, execution + 1)
        return execution

    async with world.node(app) as node:
        handle = node.client.workflow(eternal, id="e")
        assert await handle.run(1) == 8
        assert await handle.executions() == [7, 8]


async def test_a_tree_goes_with_the_keys_of_all(world: World, app: App) -> None:
    @app.workflow
    async def child() -> None:
        workflow.kv.set("child", 1)

    @app.workflow
    async def parent() -> None:
        workflow.kv.set("parent", 1)
        await workflow.child(child, id="child")()

    async with world.node(app) as node:
        handle = node.client.workflow(parent, id="p")
        await handle.run()
        assert await node.client.get("child").kv() == {"child": 1}
        await handle.delete()
        for name in ("p", "child"):
            with pytest.raises(NotFound):
                await node.client.get(name).kv()
        await handle.run()
        assert await handle.kv() == {"parent": 1}


async def test_one_that_was_set_aside_is_deleted_with_force(world: World, app: App) -> None:
    @app.workflow
    async def spinning() -> None:
        while True:
            pass

    async with world.node(app, turn_limit_ms=50, turn_failures=2) as node:
        handle = node.client.workflow(spinning, id="s")
        starting = asyncio.ensure_future(handle.start())
        await until(lambda: _is_suspended(node.client, "s"), "it is set aside")
        await asyncio.wait_for(starting, PATIENCE_S)
        await waits_for(handle, "poison")
        assert await handle.delete(force=True) == 1
        assert await node.client.list() == []


async def _is_suspended(client: Any, id: str) -> bool:
    return [d.status for d in await client.list(id_prefix=id)] == ["suspended"]


async def _counts(handle: Any, count: int) -> bool:
    found: int | None = await handle.kv_get("count", int)
    return found == count
