"""Structured logs: one JSON object per record, and each says which instance, activity and attempt it belongs to."""

from __future__ import annotations

import asyncio
import io
import json
import logging

import perdure.logs
from perdure import App, RetryPolicy, activity, workflow

app = App("structured-logs")
bank = logging.getLogger("shop.bank")  # a logger of your own: the ids come from where it is used


@app.activity(retry=RetryPolicy(maximum_attempts=2, initial_interval=0.01))
async def charge(cents: int) -> str:
    activity.logger.info("charging %d", cents)
    if activity.info().attempt == 1:
        bank.warning("the bank is away", extra={"bank": "first national"})
        raise ConnectionError("away")
    return "paid"


@app.workflow
async def checkout(cents: int) -> str:
    workflow.logger.info("taking %d", cents)
    return await charge(cents)


async def main() -> None:
    lines = io.StringIO()  # leave `stream` out, and they go to stderr
    perdure.logs.configure(
        format="json", level="info", areas={"perdure.store": "error"}, stream=lines
    )
    async with app.node("memory://") as node:
        await node.client.workflow(checkout, id="order-1").run(1990)
    print(lines.getvalue(), end="")
    records = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert {record["instance"] for record in records} == {"order-1"}
    assert [
        (r["logger"], r["message"].partition(" (at")[0], r.get("attempt")) for r in records
    ] == [
        ("perdure.workflow", "taking 1990", None),
        ("perdure.activity", "charging 1990", 1),
        ("shop.bank", "the bank is away", 1),
        (
            "perdure.failures",  # what went wrong is said by Perdure, too
            "attempt 1 of activity 'charge' of 'order-1' failed: ConnectionError: away",
            1,
        ),
        ("perdure.activity", "charging 1990", 2),
    ]


if __name__ == "__main__":
    asyncio.run(main())
