"""anyio works in a workflow as it does elsewhere: task groups, cancel scopes, memory streams, on durable time."""

from __future__ import annotations

import asyncio

import anyio

from perdure import App

app = App("anyio")


@app.activity
async def fetch(page: int) -> str:
    return f"page {page}"


@app.workflow
async def crawl(pages: int) -> list[str]:
    send, receive = anyio.create_memory_object_stream[str](max_buffer_size=pages)

    async def one(page: int) -> None:
        await send.send(await fetch(page))

    async with anyio.create_task_group() as group:
        for page in range(pages):
            group.start_soon(one, page)
    send.close()
    async with receive:
        found = [text async for text in receive]
    with anyio.move_on_after(0.05) as scope:
        await anyio.sleep(3_600)
    return [*sorted(found), "slept too long" if scope.cancelled_caught else "slept"]


async def main() -> None:
    async with app.node("memory://") as node:
        pages = await node.client.workflow(crawl, id="crawl-1").run(3)
    assert pages == ["page 0", "page 1", "page 2", "slept too long"]
    print(pages)


if __name__ == "__main__":
    asyncio.run(main())
