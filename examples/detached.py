"""Detached: an activity and a workflow that live on when the workflow that started them has ended."""

from __future__ import annotations

import asyncio

from perdure import App

app = App("detached")
mails: list[str] = []


@app.activity
async def email(to: str) -> None:
    await asyncio.sleep(0.1)
    mails.append(to)


@app.workflow
async def survey(customer: str) -> str:
    return f"asked {customer}"


@app.workflow
async def checkout(customer: str) -> list[str]:
    return [
        email.detach(customer),
        survey.detach(customer),
    ]  # durable with this turn; nothing is awaited


async def main() -> None:
    mails.clear()
    async with app.node("memory://") as node:
        started = await node.client.workflow(checkout, id="checkout-1").run("Ada")
        assert mails == []  # the checkout is over, the mail is under way
        results = [await node.client.get(name).result(timeout=5) for name in started]
    assert mails == ["Ada"]
    assert results == [None, "asked Ada"]
    print("ended first; then:", mails, results)


if __name__ == "__main__":
    asyncio.run(main())
