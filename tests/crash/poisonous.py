"""A program whose process dies of some of its work: `python poisonous.py URL`.

With MENDED in the environment it does not.
"""

from __future__ import annotations

import asyncio
import os
import sys

from perdure import App, NodeOptions, workflow

app = App("poisonous")
GOOD = 5


MENDED = "MENDED" in os.environ


def die() -> None:
    if not MENDED:
        os._exit(9)


@app.activity
async def deadly() -> str:
    die()
    return "alive"


@app.activity
async def harmless(n: int) -> int:
    return n + 1


@app.workflow
async def calls_death() -> str:
    return await deadly()


@app.workflow
async def dies_later() -> str:
    await harmless(1)
    die()
    return "alive"


@app.workflow
async def dies_at_once() -> str:
    die()
    return "alive"


@app.workflow
async def dies_of_mail() -> str:
    await workflow.receive("mail", str)
    die()
    return "alive"


@app.workflow
async def good(n: int) -> int:
    for _ in range(3):
        n = await harmless(n)
    return n


async def main(url: str) -> None:
    async with app.node(url, options=NodeOptions(crash_failures=3)) as node:
        for n in range(GOOD):
            assert await node.client.workflow(good, id=f"good-{n}").run(n) == n + 3
        bad = node.client.get("bad")
        if "MENDED" in os.environ:
            await bad.wait(timeout=20)
        while (description := await bad.describe()).status in ("pending", "running"):
            await node.store.wait_change("bad", 0, 20)
        sys.stdout.write(f"{description.status} {description.reason}\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
