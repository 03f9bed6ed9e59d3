"""Deadlines beyond the node's horizon, of instances that are not in memory, are met."""

from __future__ import annotations

import asyncio

import pytest
from engine import World

from perdure import App, Node


@pytest.mark.parametrize("restart", [False, True])
async def test_a_deadline_beyond_the_horizon_is_met(world: World, app: App, restart: bool) -> None:
    clock = world.stop_time()

    @app.workflow
    async def nap(seconds: int) -> int:
        await asyncio.sleep(seconds)
        return seconds

    async def met(node: Node) -> None:
        for seconds in (5, 25, 95):
            waiting = asyncio.create_task(node.client.get(f"n{seconds}").result(timeout=30))
            while not waiting.done():
                clock.advance(1_000)
                await asyncio.sleep(0.001)
            assert await waiting == seconds

    async with world.node(app, residents=1, horizon_ms=10_000) as node:
        for seconds in (5, 25, 95):
            await node.client.workflow(nap, id=f"n{seconds}").start(seconds)
        if not restart:
            await met(node)
    if restart:
        async with world.node(app, residents=1, horizon_ms=10_000) as node:
            await met(node)


async def test_equal_deadlines_fire_in_the_order_of_their_creation(world: World, app: App) -> None:
    clock = world.stop_time()

    @app.workflow
    async def naps() -> list[int]:
        order = []

        async def nap(i: int) -> None:
            await asyncio.sleep(10)
            order.append(i)

        await asyncio.gather(*(nap(i) for i in range(20)))
        return order

    async with world.node(app) as node:
        handle = node.client.workflow(naps, id="n")
        await handle.start()
        await clock.until_armed(10_000)
        clock.advance(10_000)
        assert await handle.result(timeout=30) == list(range(20))
