"""Child workflows: called like functions, in parallel, with a name of their own, and what their failure looks like."""

from __future__ import annotations

import asyncio

from perdure import App, ChildError, workflow

app = App("children")


@app.activity
async def pack(item: str) -> str:
    return f"[{item}]"


@app.workflow
async def parcel(item: str) -> str:
    if not item:
        raise ValueError("nothing to pack")
    return await pack(item)


@app.workflow
async def shipment(items: list[str]) -> list[str]:
    parcels = await asyncio.gather(*(parcel(item) for item in items))
    gift = await workflow.child(parcel, id="gift-1")("a gift")
    try:
        await parcel("")
    except ChildError as error:
        workflow.logger.warning("a child failed: %s", error.failure.message)
    return [*parcels, gift]


async def main() -> None:
    async with app.node("memory://") as node:
        handle = node.client.workflow(shipment, id="shipment-1")
        parcels = await handle.run(["book", "lamp"])
        children = await node.client.list(parent="shipment-1")
        assert await node.client.get("gift-1").result() == "[a gift]"
    assert parcels == ["[book]", "[lamp]", "[a gift]"]
    assert len(children) == 4
    print(parcels, "by", sorted(child.id for child in children))


if __name__ == "__main__":
    asyncio.run(main())
