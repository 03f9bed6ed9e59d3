"""Cancel and terminate: a cancelled workflow may clean up, even with activities; a terminated one is not asked."""

from __future__ import annotations

import asyncio

from perdure import App, WorkflowCancelled, WorkflowTerminated, workflow

app = App("cancel")
log: list[str] = []


@app.activity
async def machine(state: str) -> None:
    log.append(state)


@app.workflow
async def operate() -> None:
    await machine("on")
    workflow.set_status("on")
    try:
        await workflow.receive("never", bool)
    finally:
        await machine("off")  # cleaning up may take its time, and survives a crash, too


async def main() -> None:
    log.clear()
    async with app.node("memory://") as node:
        polite, rude = (node.client.workflow(operate, id=name) for name in ("polite", "rude"))
        for handle in (polite, rude):
            await handle.start()
            while (await handle.custom_status(str, timeout=5))[0] != "on":
                await asyncio.sleep(0)
        await polite.cancel("the shift ends")
        try:
            await polite.result(timeout=5)
        except WorkflowCancelled as error:
            print(error)
        assert log == ["on", "on", "off"]
        await rude.terminate("fire")
        try:
            await rude.result(timeout=5)
        except WorkflowTerminated as error:
            print(error)
    assert log == ["on", "on", "off"]


if __name__ == "__main__":
    asyncio.run(main())
