"""A small shop: an order reserves stock, is charged, shipped and confirmed; a large one waits for a person's approval.

    python shop.py FOLDER

takes the orders of orders.json through, with its database and its ledger in FOLDER. Kill it at any moment and start it
again: it goes on. `make demo` does exactly that (demo.py). Every side effect goes to the ledger: anybody can count.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from perdure import App, RetryPolicy, activity, workflow

app = App("shop")
approved = workflow.Channel[bool]("approved")

ORDERS = Path(__file__).with_name("orders.json")
APPROVAL_FROM_CENTS = 100_000
APPROVAL_SECONDS = 4.0


@dataclass
class Item:
    sku: str
    count: int
    cents: int


@dataclass
class Order:
    id: str
    customer: str
    card: str
    items: list[Item]

    @property
    def cents(self) -> int:
        return sum(item.count * item.cents for item in self.items)


class Ledger:
    """What reached the outside world: this file stands for the warehouse, the bank, the parcels and the mail.

    Like a good payment service it knows the key of each call: one that was cut off and is repeated has its effect once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[dict[str, object]]:
        return (
            [json.loads(line) for line in self.path.read_text().splitlines()]
            if self.path.exists()
            else []
        )

    def write(self, what: str, text: str = "") -> None:
        info = activity.info()
        line = {
            "at": time.time(),
            "pid": os.getpid(),
            "order": info.instance,
            "step": info.name,
            "what": what,
        }
        line |= {"key": info.idempotency_key, "attempt": info.attempt, "text": text}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    async def effect(self, text: str, seconds: float) -> str:
        """Do it, which takes some time, unless this very call has been done already."""
        self.write("began")
        await asyncio.sleep(seconds)
        key = activity.info().idempotency_key
        if not any(line["what"] == "done" and line["key"] == key for line in self.lines()):
            self.write("done", text)
        return text


@app.resources
async def ledger() -> AsyncIterator[Ledger]:
    yield Ledger(Path(os.environ["SHOP_FOLDER"]) / "ledger.jsonl")


@app.activity
async def reserve(order: Order) -> str:
    return await activity.resources(Ledger).effect(
        f"pieces: {sum(i.count for i in order.items)}", 0.3
    )


@app.activity(retry=RetryPolicy(maximum_attempts=5, initial_interval=1.5), timeout=10)
async def charge(order: Order) -> str:
    bank = activity.resources(Ledger)
    if order.card.startswith("flaky") and activity.info().attempt == 1:
        bank.write("failed", "the bank does not answer")
        raise ConnectionError("the bank does not answer")
    return await bank.effect(f"{order.cents / 100:.2f} EUR from {order.card}", 0.6)


@app.activity
async def ship(order: Order) -> str:
    return await activity.resources(Ledger).effect(f"parcel for {order.customer}", 0.8)


@app.activity
async def release(order: Order) -> str:
    return await activity.resources(Ledger).effect(f"free again: {order.items[0].sku}", 0.2)


@app.activity
async def email(order: Order, text: str) -> str:
    return await activity.resources(Ledger).effect(f"to {order.customer}: {text}", 0.2)


@app.workflow
async def checkout(order: Order) -> str:
    await reserve(order)
    if order.cents >= APPROVAL_FROM_CENTS:
        workflow.set_status("waits for approval")
        try:
            async with asyncio.timeout(
                APPROVAL_SECONDS
            ):  # a durable timer: it runs on while no process does
                await approved.receive()
        except TimeoutError:
            await release(order)
            await email(order, "nobody approved your order")
            return "given up"
    await charge(order)
    parcel = await ship(order)
    await email(order, "on its way")
    return parcel


def read_orders() -> list[Order]:
    return [
        Order(**{**o, "items": [Item(**i) for i in o["items"]]})
        for o in json.loads(ORDERS.read_text())
    ]


async def main(folder: Path) -> None:
    os.environ["SHOP_FOLDER"] = str(folder)
    async with app.node(f"sqlite:///{folder / 'shop.db'}") as node:
        orders = read_orders()
        handles = [node.client.workflow(checkout, id=order.id) for order in orders]
        # The same line in every process: who starts an order that is there already joins it.
        await asyncio.gather(
            *(handle.start(order) for handle, order in zip(handles, orders, strict=True))
        )
        await asyncio.gather(*(handle.result(timeout=30) for handle in handles))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(
            "usage: python shop.py FOLDER    (an existing folder for the database and the ledger)"
        )
    asyncio.run(main(Path(sys.argv[1])))
