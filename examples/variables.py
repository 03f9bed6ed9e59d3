"""Value checkpoints and durable variables: recorded once, read back in replay, one derived from another."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from perdure import App, workflow

app = App("variables")
reads: list[str] = []


def read_price() -> int:
    reads.append("price")  # any side effect: this is a function of this process
    return 1_000


@app.workflow
async def invoice(pieces: int) -> dict[str, int]:
    price = await workflow.checkpoint(
        "price", read_price, type=int
    )  # run once, its result recorded
    total = workflow.variable("total", price * pieces)
    total.update(lambda cents: cents - 500)  # read, change, write: each value is recorded
    tax = workflow.value("tax", total.get() // 5)  # derived from another one
    await workflow.receive("print", bool)
    return {"price": price, "total": total.get(), "tax": tax}


async def main() -> None:
    reads.clear()
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'variables.db'}"
        async with app.node(url) as node:
            handle = node.client.workflow(invoice, id="invoice-1")
            await handle.start(3)
            while not any(
                type(e.event).__name__ == "ValueRecorded" for e in await handle.history()
            ):
                await asyncio.sleep(0.01)
        async with app.node(url) as node:  # replays; the price is not read again
            handle = node.client.workflow(invoice, id="invoice-1")
            await handle.send("print", True)
            result = await handle.result(timeout=5)
    assert result == {"price": 1_000, "total": 2_500, "tax": 500}
    assert reads == ["price"]
    print(result)


if __name__ == "__main__":
    asyncio.run(main())
