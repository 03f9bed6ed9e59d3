"""What has ended leaves memory at once: nothing is left for the cyclic collector, whose pauses grow with residents."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter

from engine import World

from perdure import App


async def test_ended_workflows_leave_no_cycles(world: World, app: App) -> None:
    @app.activity
    async def echo(text: str) -> str:
        return text

    @app.workflow
    async def two_steps(text: str) -> str:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(echo(text))
        return await echo(first.result())

    async with world.node(app) as node:

        async def run(n: int) -> None:
            await asyncio.gather(
                *(node.client.workflow(two_steps, id=f"w-{i}").run("x") for i in range(n, n + 50))
            )

        await run(0)
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            await run(100)
            gc.collect()
            left = Counter(type(thing).__name__ for thing in gc.garbage)
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
    ours = {name: count for name, count in left.items() if count >= 50}
    assert not ours, f"per 50 workflows: {ours}"
