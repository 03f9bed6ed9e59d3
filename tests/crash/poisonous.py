"""A program whose process dies of some of its work: `python poisonous.py URL`.

With MENDED in the environment it does not. With STAY it waits to be killed, and says what has begun.
"""

from __future__ import annotations

import asyncio
import os
import sys

from perdure import App, NodeOptions, activity, workflow

app = App("poisonous")
GOOD = 5


OPTIONS = NodeOptions(crash_failures=3, trial_ms=150, control_ms=200)
SLOW_S = 0.3
"""Longer than a trial lasts at first."""
MENDED = "MENDED" in os.environ


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


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
async def dies_of_time() -> str:
    await workflow.sleep(0.2)
    die()
    return "alive"


@app.workflow
async def dies_at_a_checkpoint() -> str:
    return await workflow.checkpoint("deadly", deadly_step)


async def deadly_step() -> str:
    die()
    return "alive"


@app.activity
async def slowly_deadly() -> str:
    await asyncio.sleep(SLOW_S)
    die()
    return "alive"


@app.workflow
async def dies_slowly() -> str:
    return await slowly_deadly()


@app.activity
async def patient() -> str:
    if "STAY" in os.environ:
        say(f"began {activity.info().instance}")
    await asyncio.sleep(3600)
    return "never"


@app.workflow
async def innocent() -> str:
    return await patient()


@app.workflow
async def good(n: int) -> int:
    for _ in range(3):
        n = await harmless(n)
    return n


async def main(url: str) -> None:
    async with app.node(url, options=OPTIONS) as node:
        if "STAY" in os.environ:
            say("ready")
            await asyncio.sleep(60)
        for n in range(GOOD):
            assert await node.client.workflow(good, id=f"good-{n}").run(n) == n + 3
        bad = node.client.get("bad")
        if "MENDED" in os.environ:
            await bad.wait(timeout=20)
        while (description := await bad.describe()).status in ("pending", "running"):
            await node.store.wait_change("bad", 0, 20)
        say(f"{description.status} {description.reason}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
