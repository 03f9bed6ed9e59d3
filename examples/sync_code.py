"""Synchronous code: the same node, client and handles with methods that block; many threads may share them."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from perdure import App, Timeout, workflow

app = App("sync-code")
approved = workflow.Channel[bool]("approved")


@app.activity
def price(item: str) -> int:
    return len(item) * 100


@app.workflow
async def order(
    item: str,
) -> str:  # a workflow is asynchronous in any case; what is around it need not be
    cents = await price(item)
    if cents > 500 and not await approved.receive():
        return f"{item}: refused"
    return f"{item}: {cents} cents"


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        app.node(f"sqlite:///{Path(folder) / 'shop.db'}").sync() as node,
    ):

        def handle_request(item: str) -> str:  # as a server that uses threads would
            return node.client.workflow(order, id=f"order-{item}").run(item)

        with ThreadPoolExecutor(4) as server:
            bills = list(server.map(handle_request, ["hat", "lamp", "book"]))
        assert bills == ["hat: 300 cents", "lamp: 400 cents", "book: 400 cents"]

        yacht = node.client.workflow(order, id="order-yacht-50")
        yacht.start("yacht-50")
        try:
            yacht.result(timeout=0.01)
        except Timeout as error:
            print(error)
        yacht.send(approved, True)
        bills.append(yacht.result(timeout=10))
        steps = [type(step.event).__name__ for step in yacht.iterate_history()]
    print("; ".join(bills))
    print(len(steps), "events, the last is", steps[-1])


if __name__ == "__main__":
    main()
