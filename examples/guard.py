"""The guard: what replay could not repeat is refused, when a node starts or where it happens, with line and remedy."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from perdure import App, WorkflowFailed
from perdure.errors import WorkflowViolation

plain, hidden, tolerated = App("plain"), App("hidden"), App("tolerated")


@plain.workflow
async def sleeper() -> None:
    time.sleep(1)  # seen in the code of the workflow: the node does not start


@hidden.workflow
async def reader() -> str:
    return Path(__file__).read_text()  # seen when it happens: the run fails


@tolerated.workflow(guard="off")
async def clock() -> float:
    return time.time()  # the author knows that it makes no difference here


async def main() -> None:
    try:
        async with plain.node("memory://"):
            raise AssertionError
    except WorkflowViolation as refused:
        print(refused)
    async with hidden.node("memory://") as node:
        try:
            await node.client.workflow(reader, id="reader-1").run()
        except WorkflowFailed as failed:
            print(failed)
        else:
            raise AssertionError
    async with tolerated.node("memory://") as node:
        print("tolerated:", await node.client.workflow(clock, id="clock-1").run())


if __name__ == "__main__":
    asyncio.run(main())
