"""Search attributes: named values of an instance, set at its start or by its code, by which lists are filtered."""

from __future__ import annotations

import asyncio

from perdure import App, Where, workflow

app = App("attributes")


@app.workflow
async def order(country: str, lines: list[int]) -> int:
    total = sum(lines)
    workflow.set_attributes(
        {"country": country, "total": total, "open": True}
    )  # durable with this turn
    if total > 1_000:
        workflow.set_attributes({"checks": ["fraud", "stock"]})  # the others stay
        await workflow.receive("approved", bool)
    workflow.set_attributes({"open": False, "checks": None})  # None removes one
    return total


async def main() -> None:
    async with app.node("memory://") as node:
        client = node.client
        for number, (country, lines) in enumerate(
            [("DE", [400]), ("FR", [900, 800]), ("DE", [7_000]), ("IT", [5])]
        ):
            await client.workflow(order, id=f"order-{number}", attributes={"year": 2026}).start(
                country, lines
            )
        await client.get("order-0").result(timeout=5)

        async def found(*where: Where) -> list[str]:
            return [one.id for one in await client.list(where=where)]

        assert await found(Where("year", "=", 2026), Where("country", "=", "DE")) == [
            "order-2",
            "order-0",
        ]
        assert await found(Where("total", ">", 500)) == ["order-2", "order-1"]
        assert await found(Where("country", "in", ["FR", "IT"])) == ["order-3", "order-1"]
        assert await found(Where("checks", "=", "fraud"), Where("country", "!=", "DE")) == [
            "order-1"
        ]
        await client.get("order-1").send("approved", True)
        await client.get("order-1").result(timeout=5)
        waiting = await client.list(where=Where("open", "=", True))
        print(*(f"{one.id} waits: {one.attributes}" for one in waiting), sep="\n")


if __name__ == "__main__":
    asyncio.run(main())
