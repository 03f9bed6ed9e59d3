"""Finding instances: by status, type, prefix and parent, in pages; describing them; counting them."""

from __future__ import annotations

import asyncio

from perdure import App, workflow

app = App("listing")


@app.workflow
async def order(cents: int) -> int:
    if cents < 0:
        raise ValueError("who pays whom?")
    if cents > 1_000:
        await workflow.receive("approved", bool)
    return cents


async def main() -> None:
    async with app.node("memory://") as node:
        for number, cents in enumerate([100, 200, -1, 5_000]):
            await node.client.workflow(order, id=f"order-{number}").start(cents)
        await node.client.workflow(order, id="test-order").run(1)

        assert [found.id for found in await node.client.list(status="failed")] == ["order-2"]
        assert [found.id for found in await node.client.list(status="running", type="order")] == [
            "order-3"
        ]
        assert len(await node.client.list(id_prefix="order-", limit=None)) == 4
        waiting = await node.client.get("order-3").describe()
        assert waiting.reason == "message approved"
        failed = await node.client.get("order-2").describe()
        assert failed.failure is not None
        print(await node.client.counts())
        print(
            f"{waiting.id} waits for {waiting.reason}; {failed.id} failed with {failed.failure.display()}"
        )


if __name__ == "__main__":
    asyncio.run(main())
