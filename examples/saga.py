"""A saga: flight and hotel are booked, the car fails, and the two bookings are undone, the last one first."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from perdure import ActivityError, App

app = App("saga")
bookings: list[str] = []


@app.activity
async def book(what: str) -> str:
    if what == "car":
        raise RuntimeError("no car left")
    bookings.append(f"booked {what}")
    return what


@app.activity
async def undo(what: str) -> None:
    bookings.append(f"undid {what}")


@app.workflow
async def trip() -> str:
    async with AsyncExitStack() as compensations:  # it runs what it holds backwards
        try:
            for what in ("flight", "hotel", "car"):
                compensations.push_async_callback(undo, what)  # first: the booking may half-succeed
                await book(what)
        except ActivityError as error:
            return f"no trip: {error.failure.message}"
        compensations.pop_all()  # all went well: keep the bookings
        return "have a nice trip"


async def main() -> None:
    bookings.clear()
    async with app.node("memory://") as node:
        outcome = await node.client.workflow(trip, id="trip-1").run()
    assert outcome == "no trip: no car left"
    assert bookings == ["booked flight", "booked hotel", "undid car", "undid hotel", "undid flight"]
    print(outcome, bookings)


if __name__ == "__main__":
    asyncio.run(main())
