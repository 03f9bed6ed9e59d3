"""The guard: what replay could not repeat is an error in workflow code, with the line and what to do instead."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from perdure import App, WorkflowFailed

app = App("guard")


@app.workflow
async def sleeper() -> None:
    time.sleep(1)


@app.workflow
async def reader() -> str:
    return Path(__file__).read_text()


async def main() -> None:
    async with app.node("memory://") as node:
        for definition in (sleeper, reader):
            try:
                await node.client.workflow(definition, id=definition.name).run()
            except WorkflowFailed as error:
                refused = error.failure
            else:
                raise AssertionError(definition)
            assert refused.type == "WorkflowViolation"
            print(refused.message)


if __name__ == "__main__":
    asyncio.run(main())
