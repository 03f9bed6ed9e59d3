"""The workflows behind the recorded histories. Never changed: what they did once, every release must replay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from perdure import ActivityError, App, ChildError, RetryPolicy, workflow

app = App("histories")

approved = workflow.Channel[bool]("approved")


@app.activity
async def charge(card: str, cents: int) -> str:
    return f"{card}:{cents}"


@app.activity(retry=RetryPolicy(maximum_attempts=3, initial_interval=1.0))
def ship(order: str, *, express: bool = False) -> str:
    return order


@app.activity
async def refund(charge_id: str) -> None:
    return None


@app.workflow
async def parcel(order: str) -> str:
    return await ship(order)


@app.workflow
async def purchase(order: str, cents: int) -> list[str]:
    """Steps one after the other, a group, a retry, an option."""
    receipt = await charge("card-1", cents)
    async with asyncio.TaskGroup() as tasks:
        one = tasks.create_task(ship(order, express=True))
        two = tasks.create_task(ship.with_options(queue="slow")(f"{order}-b"))
    workflow.set_status("shipped")
    return [receipt, one.result(), two.result()]


@app.workflow
async def approval(order: str) -> str:
    """A message, a timeout, a race, variables."""
    workflow.kv.set("order", order)
    try:
        async with asyncio.timeout(3600):
            good = await approved.receive()
    except TimeoutError:
        good = False
    index, _ = await workflow.select(workflow.sleep(60, name="grace"), approved.receive())
    workflow.kv.set("decision", [good, index])
    workflow.kv.delete("order")
    return f"{good} {index}"


@app.workflow
async def saga(order: str) -> str:
    """A failure, its compensation, and cleanup in a generator that is left early."""
    done: list[str] = []

    async def steps() -> AsyncIterator[str]:
        try:
            yield await charge("card-1", 1)
            yield await charge("card-2", 2)
            yield await charge("card-3", 3)
        finally:
            await refund("generator")

    try:
        async for step in steps():
            done.append(step)
            if len(done) == 2:
                await ship(order)
    except ActivityError:
        for charge_id in reversed(done):
            await refund(charge_id)
        return "compensated"
    return "shipped"


@app.workflow
async def fan_out(count: int) -> list[str]:
    """Many at once: calls, children, named and detached ones, what nobody awaits."""
    calls = [charge("card", i) for i in range(count)]
    results = [await done for done in asyncio.as_completed(calls)]
    children = [
        workflow.child(parcel, id=f"parcel-{i}", parent_close="abandon")(f"p{i}") for i in range(2)
    ]
    results += await asyncio.gather(*children)
    try:
        results.append(await parcel("late"))
    except ChildError:
        results.append("no late parcel")
    results += [parcel.detach("alone"), refund.detach("alone")]
    asyncio.ensure_future(charge("dropped", 0))
    return results


@app.workflow
async def counter(left: int, seen: list[str]) -> list[str]:
    """Continue-as-new with everything that it carries over, chance and time."""
    seen = [
        *seen,
        str(workflow.uuid4()),
        workflow.now().isoformat(),
        str(workflow.random().randrange(1000)),
    ]
    total = workflow.kv.get("total", int, 0) or 0
    workflow.kv.set("total", total + left)
    workflow.set_status({"left": left})
    step = workflow.variable("step", 0)
    while step.get() < 2:
        await charge("card", step.get())
        step.update(lambda n: n + 1)
    if workflow.patched("count-twice"):
        workflow.value("twice", total * 2)
    if left:
        workflow.continue_as_new(counter, left - 1, seen)
    return [*seen, str(total)]


@app.workflow
async def cleanup(order: str) -> str:
    """Cancelled from outside; cleans up with an activity while other tasks unwind."""
    background = asyncio.create_task(asyncio.sleep(10_000))
    try:
        await asyncio.gather(charge("card", 1), asyncio.Event().wait())
    except asyncio.CancelledError:
        await asyncio.shield(refund(order))
        raise
    finally:
        background.cancel()
    return "never"


@app.workflow
async def talk(other: str) -> list[str]:
    """Positional events, messages to others, checkpoints; paused and resumed."""
    bell = asyncio.create_task(workflow.wait_event("bell", str))
    text = await workflow.checkpoint("read", lambda: "text")
    workflow.send(other, approved, True)
    workflow.cancel(other, "enough")
    return [text, await bell, str(await workflow.checkpoint("read", lambda: "again"))]


@app.workflow
async def doomed(order: str) -> None:
    """Fails for good."""
    await charge(order, 1)
    raise ValueError(f"no such order: {order}")
