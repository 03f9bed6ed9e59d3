"""A client whose clock is ahead moves no time of the instance that it sends to."""

from __future__ import annotations

import asyncio
import os

from engine import World, waits_for

from perdure import App, workflow
from perdure.codec import encode
from perdure.kernel.data.message import Message, Send


async def test_a_message_of_a_client_whose_clock_is_ahead_fires_no_timer(
    world: World, app: App
) -> None:
    @app.workflow
    async def waits() -> list[int]:
        began = workflow.now()
        async with asyncio.timeout(1_800):
            word = await workflow.receive("word", int)
        return [word, round((workflow.now() - began).total_seconds())]

    world.stop_time()
    async with world.node(app) as node:
        handle = node.client.workflow(waits, id="w")
        await handle.start()
        await waits_for(handle, "message word")
        ahead = node.clock.now_ms() + 3_600_000
        await node.gateway.send(Message(os.urandom(16), "w", Send("word", encode(7)), ahead))
        assert await handle.result(timeout=30) == [7, 0]
