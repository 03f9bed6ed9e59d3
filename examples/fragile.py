"""An activity fails, the workflow logs a warning (once, whatever is replayed) and recovers with another activity."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from pathlib import Path

from perdure import ActivityError, App, workflow

app = App("fragile")
warnings: list[str] = []


@app.activity
async def fragile(text: str) -> str:
    raise RuntimeError(f"cannot process {text!r}")


@app.activity
async def recover(text: str) -> str:
    return f"recovered {text}"


@app.workflow
async def careful(text: str) -> str:
    try:
        return await fragile(text)
    except ActivityError as error:
        workflow.logger.warning("%s", error.failure.message)
        await workflow.receive(
            "go-on", bool
        )  # here the node is stopped; the next one replays the lines above
        return await recover(text)


class Collect(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        warnings.append(record.getMessage())


async def main() -> None:
    warnings.clear()
    collect = Collect()
    logging.getLogger("perdure.workflow").addHandler(collect)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'fragile.db'}"
        async with app.node(url) as node:
            await node.client.workflow(careful, id="careful-1").start("input")
            while not warnings:
                await asyncio.sleep(0.01)
        async with app.node(url) as node:
            handle = node.client.workflow(careful, id="careful-1")
            await handle.send("go-on", True)
            result = await handle.result(timeout=5)
    logging.getLogger("perdure.workflow").removeHandler(collect)
    assert result == "recovered input"
    assert warnings == ["cannot process 'input'"]
    print(warnings, "->", result)


if __name__ == "__main__":
    asyncio.run(main())
