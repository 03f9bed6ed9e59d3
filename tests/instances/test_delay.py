"""A delayed start is durable at once and begins at its time, also after a restart."""

from __future__ import annotations

import asyncio

from engine import World

from perdure import App, workflow


async def test_it_begins_at_its_time(world: World, app: App) -> None:
    clock = world.stop_time()

    @app.workflow
    async def work() -> float:
        return workflow.now().timestamp()

    async with world.node(app) as node:
        handle = node.client.workflow(work, id="w", delay=60)
        began = clock.now_ms()
        await handle.start()
        description = await handle.describe()
        assert (description.status, description.reason, description.started_at) == (
            "pending",
            "delayed",
            None,
        )
        await clock.until_armed(60_000)
        clock.advance(59_999)
        assert await handle.status() == "pending"
        clock.advance(1)
        assert await handle.result(timeout=30) == (began + 60_000) / 1000


async def test_it_begins_after_a_restart(world: World, app: App) -> None:
    clock = world.stop_time()

    @app.workflow
    async def work(i: int) -> int:
        return i

    async with world.node(app) as node:
        for i in (1, 2):
            await node.client.workflow(work, id=f"w{i}", delay=60 * i).start(i)
    clock.advance(60_000)
    async with world.node(app) as node:
        assert await node.client.get("w1").result(timeout=30) == 1
        assert await node.client.get("w2").status() == "pending"
        await clock.until_armed(60_000)
        clock.advance(60_000)
        assert await node.client.get("w2").result(timeout=30) == 2


async def test_messages_before_the_beginning_are_kept(world: World, app: App) -> None:
    clock = world.stop_time()

    @app.workflow
    async def work() -> list[int]:
        return [await workflow.receive("n", int) for _ in range(3)]

    async with world.node(app) as node:
        handle = node.client.workflow(work, id="w", delay=60)
        await handle.start()
        for i in range(2):
            await handle.send("n", i)
    async with world.node(app) as node:
        handle = node.client.workflow(work, id="w", delay=60)
        await handle.send("n", 2)
        await handle.start()
        clock.advance(60_000)
        assert await handle.result(timeout=30) == [0, 1, 2]


async def test_a_second_start_joins_it_and_does_not_begin_it(world: World, app: App) -> None:
    clock = world.stop_time()

    @app.workflow
    async def work() -> int:
        return 1

    async with world.node(app) as node:
        handle = node.client.workflow(work, id="w", delay=60)
        await handle.start()
        second = asyncio.create_task(node.client.workflow(work, id="w").run())
        await asyncio.sleep(0)
        assert await handle.status() == "pending"
        clock.advance(60_000)
        assert await asyncio.wait_for(second, 5) == 1
