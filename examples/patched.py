"""`workflow.patched`: code is changed under a running instance. It finishes as it began, new ones take the new way."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from perdure import App, workflow

activities = App("activities")


@activities.activity
async def translate(text: str) -> str:
    return text.upper()


@activities.activity
async def post(text: str) -> str:
    return f"posted {text}"


before, after = App("news"), App("news")  # the same app, before and after a deploy
before.include(activities)
after.include(activities)


@before.workflow(name="announce")
async def announce_before(text: str) -> str:
    await workflow.receive("ready", bool)
    result = await post(text)
    await workflow.receive("go", bool)
    return result


@after.workflow(name="announce")
async def announce(text: str) -> str:
    await workflow.receive("ready", bool)
    if workflow.patched("translate-first"):
        text = await translate(text)
    result = await post(text)
    await workflow.receive("go", bool)
    return result


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'news.db'}"
        async with before.node(url) as node:
            old = node.client.workflow(announce_before, id="old")
            await old.start("hello")
            await old.send("ready", True)
            while not any(
                type(e.event).__name__ == "ActivityCompleted" for e in await old.history()
            ):
                await asyncio.sleep(0.01)
        async with after.node(url) as node:
            new = node.client.workflow(announce, id="new")
            await new.start("hello")
            await new.send("ready", True)
            for name in ("old", "new"):
                await node.client.get(name).send("go", True)
            results = [await node.client.get(name).result(timeout=5) for name in ("old", "new")]
    assert results == ["posted hello", "posted HELLO"]
    print("old run:", results[0], "| new run:", results[1])


if __name__ == "__main__":
    asyncio.run(main())
