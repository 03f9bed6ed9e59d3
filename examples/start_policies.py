"""The id makes a start idempotent. What a second start does: join, reject or replace; and a start that is delayed."""

from __future__ import annotations

import asyncio

from perdure import AlreadyStarted, App, workflow

app = App("start-policies")


@app.workflow
async def report(month: str) -> str:
    await workflow.receive("go", bool)
    return f"report of {month}"


@app.workflow
async def later() -> float:
    return workflow.now().timestamp()


async def main() -> None:
    async with app.node("memory://") as node:
        client = node.client
        await client.workflow(report, id="report").start("May")
        await client.workflow(report, id="report").start(
            "May"
        )  # joins: the same workflow, the same input
        other_input = client.workflow(report, id="report").start("June")
        rejected = client.workflow(report, id="report", if_exists="reject").start("May")
        for start in (other_input, rejected):
            try:
                await start
            except AlreadyStarted as error:
                print(error)
            else:
                raise AssertionError(start)
        june = client.workflow(report, id="report", if_exists="replace")
        await june.start("June")  # ends the first one
        await june.send("go", True)
        assert await june.result(timeout=5) == "report of June"

        delayed = client.workflow(later, id="later", delay=0.1)
        await delayed.start()  # durable now, begins in 0.1 s
        begun = (await delayed.describe()).created_at.timestamp()
        assert round(await delayed.result(timeout=5) - begun, 3) >= 0.1
        print("replaced by:", await june.result())


if __name__ == "__main__":
    asyncio.run(main())
