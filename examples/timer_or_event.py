"""A timer races a positional event, which comes too late and is received by a second wait; then it comes in time."""

from __future__ import annotations

import asyncio

from perdure import App, workflow

app = App("timer-or-event")


@app.workflow
async def race(limit: float) -> list[str]:
    story = []
    winner, value = await workflow.select(
        workflow.sleep(limit, name="limit"), workflow.wait_event("go", str)
    )
    story.append("the timer won" if winner == 0 else f"the event won with {value!r}")
    if winner == 0:
        workflow.set_status("listening")
        story.append(f"then came {await workflow.wait_event('go', str)!r}")
    return story


async def main() -> None:
    async with app.node("memory://") as node:
        late = node.client.workflow(race, id="late")
        await late.start(0.05)
        while await late.custom_status(str, timeout=5) != ("listening", 1):
            await asyncio.sleep(0)
        await late.raise_event("go", "better late")
        assert await late.result(timeout=5) == ["the timer won", "then came 'better late'"]

        early = node.client.workflow(race, id="early")
        await early.start(3_600.0)
        await early.raise_event(
            "go", "in time"
        )  # the run waits for it since its first turn, which `start` includes
        assert await early.result(timeout=5) == ["the event won with 'in time'"]
        print(await late.result(), await early.result())


if __name__ == "__main__":
    asyncio.run(main())
