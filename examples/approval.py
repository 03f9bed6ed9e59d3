"""Approval by a person: the workflow waits for a message, which may come before it waits, hours later, or never."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from perdure import App, workflow

app = App("approval")


@dataclass
class Decision:
    by: str
    yes: bool


decisions = workflow.Channel[Decision](
    "decision"
)  # both ends use this object, so both ends are typed


@app.activity
async def pay(cents: int) -> str:
    return f"paid {cents / 100:.2f}"


@app.workflow
async def expense(cents: int) -> str:
    workflow.set_status("waits for a decision")
    try:
        async with asyncio.timeout(7 * 86_400):
            decision = await decisions.receive()
    except TimeoutError:
        return "nobody decided within a week"
    return await pay(cents) if decision.yes else f"refused by {decision.by}"


async def main() -> None:
    async with app.node("memory://") as node:
        lunch, yacht = (node.client.workflow(expense, id=name) for name in ("lunch", "yacht"))
        await lunch.start(1_250)
        await yacht.start(95_000_000)
        assert (await lunch.describe()).custom_status(str) == "waits for a decision"
        await lunch.send(decisions, Decision(by="Ada", yes=True))
        await yacht.send(decisions, Decision(by="Ada", yes=False))
        outcomes = await lunch.result(timeout=5), await yacht.result(timeout=5)
    assert outcomes == ("paid 12.50", "refused by Ada")
    print(*outcomes, sep="; ")


if __name__ == "__main__":
    asyncio.run(main())
