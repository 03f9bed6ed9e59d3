"""Two versions at once: an old run finishes on 1.0.0, a new one takes 2.0.0 with its fraud check; none is left on 1."""

from __future__ import annotations

import asyncio

from perdure import App, workflow

app = App("two-versions")


@app.activity
async def check_fraud(amount: int) -> bool:
    return amount > 10_000


@app.activity
async def pay(amount: int) -> str:
    return f"paid {amount}"


@app.workflow(name="payment", version="1.0.0")
async def payment_1(amount: int) -> str:
    await workflow.receive("go", bool)
    return await pay(amount)


async def main() -> None:
    app = App("two-versions")  # an app of its own, because it grows below
    app.include(globals()["app"])
    async with app.node("memory://") as node:
        old = node.client.workflow(payment_1, id="old")
        await old.start(50_000)

        @app.workflow(name="payment", version="2.0.0")  # deployed while the old one runs
        async def payment_2(amount: int) -> str:
            await workflow.receive("go", bool)
            if await check_fraud(amount):
                return "refused"
            return await pay(amount)

        new = node.client.workflow(payment_2, id="new")
        await new.start(50_000)  # new runs get the latest version
        assert (await old.describe()).version == "1.0.0"
        assert (await new.describe()).version == "2.0.0"
        for handle in (old, new):
            await handle.send("go", True)
        assert await old.result(timeout=5) == "paid 50000"
        assert await new.result(timeout=5) == "refused"
        left = await node.client.list(
            type="payment", version="1.0.0", status=("pending", "running", "suspended")
        )
    assert left == []
    print("old run: paid 50000; new run: refused; left on version 1:", len(left))


if __name__ == "__main__":
    asyncio.run(main())
