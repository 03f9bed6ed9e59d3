"""The key-value store of an instance and its custom status: written by the workflow, read by anybody, at any time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from perdure import App, workflow

app = App("kv-status")


@dataclass
class Progress:
    done: int
    total: int


@app.activity
async def index(page: str) -> int:
    return len(page)


@app.workflow
async def crawl(pages: list[str]) -> int:
    for number, page in enumerate(pages, 1):
        workflow.kv.set(page, await index(page))
        workflow.set_status(Progress(number, len(pages)))
    await workflow.receive("end", bool)
    return sum(workflow.kv.get(page, int, 0) or 0 for page in pages)


async def main() -> None:
    async with app.node("memory://") as node:
        handle = node.client.workflow(crawl, id="crawl-1")
        await handle.start(["index", "about", "contact"])
        progress, version = await handle.custom_status(Progress)
        while progress != Progress(3, 3):
            progress, version = await handle.custom_status(
                Progress, after_version=version, timeout=5
            )  # waits for news
            print("status", version, progress)
        assert await handle.kv_get("about", int) == 5
        await handle.send("end", True)
        assert await handle.result(timeout=5) == 17
        assert await handle.kv() == {"index": 5, "about": 5, "contact": 7}  # also after the end


if __name__ == "__main__":
    asyncio.run(main())
