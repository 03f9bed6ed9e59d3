"""An eternal counter: continue-as-new begins a new history each time, while id, messages, KV and handle stay."""

from __future__ import annotations

import asyncio

from perdure import App, workflow

app = App("eternal")


@app.workflow
async def counter(count: int, end: int) -> int:
    count += await workflow.receive("add", int)  # those that wait are carried over
    if count < end:
        workflow.continue_as_new(counter, count, end)
    return count


async def main() -> None:
    async with app.node("memory://") as node:
        handle = node.client.workflow(counter, id="counter-1")
        await handle.start(0, 10)
        for number in (1, 2, 3, 4):
            await handle.send("add", number)
        assert (
            await handle.result(timeout=5) == 10
        )  # the first handle gets the last execution's result
        executions = await handle.executions()
        first = await handle.history(execution=1)
    assert executions == [1, 2, 3, 4]
    kinds = [type(entry.event).__name__ for entry in first]
    assert kinds[0] == "Started"
    assert kinds[-1] == "ContinuedAsNew"
    print("executions", executions, "- the first one's history:", kinds)


if __name__ == "__main__":
    asyncio.run(main())
