"""A chain: each activity takes the result of the one before."""

from __future__ import annotations

import asyncio

from perdure import App

app = App("chain")


@app.activity
async def fetch(url: str) -> str:
    return f"<p>{url} says hello</p>"


@app.activity
async def strip(page: str) -> str:
    return page.removeprefix("<p>").removesuffix("</p>")


@app.activity
async def count(text: str) -> int:
    return len(text.split())


@app.workflow
async def words(url: str) -> int:
    return await count(await strip(await fetch(url)))


async def main() -> None:
    async with app.node("memory://") as node:
        number = await node.client.workflow(words, id="words-1").run("example.com")
    assert number == 3
    print(number, "words")


if __name__ == "__main__":
    asyncio.run(main())
