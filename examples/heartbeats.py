"""Heartbeats: a long activity reports where it is. When it falls silent it is tried again, and goes on from there."""

from __future__ import annotations

import asyncio

from perdure import App, RetryPolicy, activity

app = App("heartbeats")
copied: list[int] = []


@app.activity(heartbeat_timeout=0.1, retry=RetryPolicy(maximum_attempts=2, initial_interval=0.01))
async def copy(rows: int) -> int:
    start = activity.info().last_heartbeat(int) or 0
    for row in range(start, rows):
        copied.append(row)
        activity.heartbeat(row + 1)  # the next attempt begins here
        if row == 4 and activity.info().attempt == 1:
            await asyncio.sleep(60)  # it hangs, without a sign of life
    return activity.info().attempt


@app.workflow
async def backup(rows: int) -> int:
    return await copy(rows)


async def main() -> None:
    copied.clear()
    async with app.node("memory://") as node:
        attempts = await node.client.workflow(backup, id="backup-1").run(10)
    assert attempts == 2
    assert copied == list(range(10))  # no row twice
    print("copied", copied, "in", attempts, "attempts")


if __name__ == "__main__":
    asyncio.run(main())
