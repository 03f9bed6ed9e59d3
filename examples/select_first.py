"""`workflow.select`: the first of several wins, and the losers are cancelled, down to the running activity."""

from __future__ import annotations

import asyncio

from perdure import App, workflow

app = App("select")
stopped = asyncio.Event()


@app.activity
async def ask(mirror: str, seconds: float) -> str:
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        stopped.set()
        raise
    return f"answer from {mirror}"


@app.workflow
async def fastest() -> tuple[int, str]:
    return await workflow.select(
        ask("near", 0.02), ask("far", 60.0), workflow.receive("answer", str)
    )


async def main() -> None:
    stopped.clear()
    async with app.node("memory://") as node:
        index, answer = await node.client.workflow(fastest, id="fastest-1").run()
        await asyncio.wait_for(stopped.wait(), 5)
    assert (index, answer) == (0, "answer from near")
    print("number", index, "won:", answer)


if __name__ == "__main__":
    asyncio.run(main())
