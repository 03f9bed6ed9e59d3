"""Pause and resume: a paused instance keeps what is sent to it, and goes on with it when it is resumed."""

from __future__ import annotations

import asyncio

from perdure import App, Timeout, workflow

app = App("pause")


@app.workflow
async def adder() -> int:
    return await workflow.receive("number", int) + await workflow.receive("number", int)


async def main() -> None:
    async with app.node("memory://") as node:
        handle = node.client.workflow(adder, id="adder-1")
        await handle.start()
        await handle.send("number", 1)
        await handle.pause("maintenance")
        await handle.send("number", 2)
        try:
            await handle.result(timeout=0.05)
        except Timeout as waiting:
            print(waiting)
        assert (await handle.describe()).paused
        await handle.resume()
        assert await handle.result(timeout=5) == 3


if __name__ == "__main__":
    asyncio.run(main())
