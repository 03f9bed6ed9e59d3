"""Interceptors: around what clients ask, around turns, and around attempts of activities, without changing them."""

from __future__ import annotations

import asyncio
from collections import Counter

from perdure import App, Interceptor, RetryPolicy, activity
from perdure.interceptor import ActivityInfo, NextActivity, NextSend, NextTurn, Outgoing, TurnInfo

app = App("interceptors")


@app.activity(retry=RetryPolicy(maximum_attempts=3, initial_interval=0.01))
async def charge(cents: int) -> str:
    if activity.info().attempt == 1:
        raise ConnectionError("the bank does not answer")
    return f"charged {cents}"


@app.workflow
async def checkout(cents: int) -> str:
    return await charge(cents)


class Statistics(Interceptor):
    def __init__(self) -> None:
        self.count = Counter[str]()

    async def send(self, call: Outgoing, next: NextSend) -> object:
        self.count[f"{call.verb} {call.name}"] += 1
        return await next(call)

    def turn(self, turn: TurnInfo, next: NextTurn) -> None:
        next()
        self.count[f"turns of {turn.instance}"] += 1

    async def activity(self, call: ActivityInfo, next: NextActivity) -> object:
        try:
            result = await next()
        except Exception as error:
            self.count[f"{call.name}: {type(error).__name__}"] += 1
            raise
        self.count[f"{call.name}: well"] += 1
        return result


class Quota(Interceptor):
    async def send(self, call: Outgoing, next: NextSend) -> object:
        if call.name == "checkout" and isinstance(call.args[0], int) and call.args[0] > 10_000:
            raise PermissionError(f"{call.id} is too expensive")
        return await next(call)


async def main() -> None:
    statistics = Statistics()
    async with app.node("memory://", interceptors=[statistics, Quota()]) as node:
        assert await node.client.workflow(checkout, id="order-1").run(500) == "charged 500"
        try:
            await node.client.workflow(checkout, id="order-2").run(50_000)
        except PermissionError as error:
            print("refused:", error)
        assert [found.id for found in await node.client.list()] == ["order-1"]
    for what, count in statistics.count.items():
        print(f"{count} × {what}")
    assert statistics.count == {
        "run checkout": 2,
        "turns of order-1": 3,
        "charge: ConnectionError": 1,
        "charge: well": 1,
    }


if __name__ == "__main__":
    asyncio.run(main())
