"""Deadlines: for an activity, for a part of a workflow, and for one wait. All of them hold over a restart."""

from __future__ import annotations

import asyncio

from perdure import ActivityTimeout, App, workflow

app = App("deadline")
cancelled = asyncio.Event()


@app.activity
async def slow() -> str:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        cancelled.set()  # the deadline reaches the running function
        raise
    return "done"


@app.workflow
async def hurried() -> list[str]:
    story = []
    try:
        await slow.with_options(timeout=0.05)()  # one attempt of the activity
    except ActivityTimeout:
        story.append("the activity was too slow")
    try:
        async with asyncio.timeout(0.05):  # everything inside
            await slow()
            await slow()
    except TimeoutError:
        story.append("the block was too slow")
    try:
        await asyncio.wait_for(workflow.receive("never", str), 0.05)
    except TimeoutError:
        story.append("no message came")
    return story


async def main() -> None:
    cancelled.clear()
    async with app.node("memory://") as node:
        story = await node.client.workflow(hurried, id="hurried-1").run()
        await asyncio.wait_for(cancelled.wait(), 5)
    assert story == ["the activity was too slow", "the block was too slow", "no message came"]
    print(*story, sep="; ")


if __name__ == "__main__":
    asyncio.run(main())
