"""Wrong workflow, activity and client code: both checkers find an error in each marked line, and in no other line."""

from __future__ import annotations

import asyncio

from good_workflows import (
    Cart,
    app,
    approved,
    awaits,
    charge,
    maybe,
    pool,
    resize,
    ship,
    small,
    small_two,
)

from perdure import App, Client, activity, workflow
from perdure.sync import SyncClient


@app.workflow
async def calls(n: int) -> int:
    await charge("c")  # E missing argument
    await charge("c", "1")  # E wrong type
    await charge("c", 1, 2)  # E too many
    await charge("c", cent=1)  # E wrong keyword
    await ship("o", True)  # E keyword only
    x: int = await charge("c", 1)  # E str is not int
    charge("c", 1)  # E forgotten await
    resize("p")  # E forgotten await
    y: bytes = resize("p")  # E a def activity is awaited too
    await charge.with_options(timeouts=1)("c", 1)  # E unknown option
    await charge.with_options(timeout="1 s")("c", 1)  # E wrong type of an option
    await charge.with_options(timeout=1)("c")  # E missing argument
    charge.detach("c")  # E missing argument
    z: bytes = await resize.with_options(timeout=1)(3)  # E wrong type
    return n


@app.workflow
async def children(n: int) -> int:
    await small("3")  # E wrong type
    await small()  # E missing argument
    small(3)  # E forgotten await
    await workflow.child(small, id="x")("3")  # E wrong type
    await workflow.child(small, id=3)(3)  # E id is a string
    await workflow.child(small, parent_close="kill")(3)  # E unknown rule
    await workflow.child(charge)("c", 1)  # E an activity is no workflow
    small.detach("3")  # E wrong type
    workflow.child(small).detach()  # E missing argument
    workflow.continue_as_new(small, "3")  # E wrong type


@app.workflow
async def continues(n: int) -> int:
    workflow.continue_as_version("2", small_two, n, lable="x")  # E wrong keyword


@app.workflow
async def waits(n: int) -> int:
    a: str = await workflow.receive("a", bool)  # E bool is not str
    b: str = await approved.receive()  # E bool is not str
    c: int = await maybe.receive()  # E it may be None
    approved.receive()  # E forgotten await
    workflow.sleep(3)  # E forgotten await
    await workflow.sleep("3")  # E wrong type
    workflow.send("other", approved, "yes")  # E wrong type
    workflow.kv.set(3, "x")  # E key is a string
    d: int = workflow.kv.get("k", int)  # E it may be None
    e: str = workflow.value("v", 3)  # E int is not str
    f: str = await workflow.checkpoint("c", lambda: 3)  # E int is not str
    workflow.checkpoint("c", lambda: 3)  # E forgotten await
    workflow.variable("n", 0).set("one")  # E wrong type
    workflow.variable("m", [0], type=list[int]).set(["one"])  # E wrong type
    return n


@app.workflow
async def groups(n: int) -> int:
    async with asyncio.TaskGroup() as tasks:
        t = tasks.create_task(charge("c"))  # E missing argument
        u = tasks.create_task(charge("c", 1))
    v: int = u.result()  # E str is not int
    _, s = await workflow.select(charge("a", 1), ship("o"))
    w: bytes = s  # E neither str nor int
    o = await workflow.join(charge("a", 1), charge("b", 1))
    x: list[str] = o  # E some may be errors
    _, q = await asyncio.gather(charge("a", 1), ship("o"))
    y: str = q  # E int is not str
    await workflow.join(charge("a", 1), order="random")  # E unknown order
    return n


@app.workflow  # E a workflow is async
def not_async(n: int) -> int:
    return n


@app.workflow(version=None, name=3)  # E name is a string
async def bad_name(n: int) -> int:
    return n


@app.activity(timeout="long")  # E seconds or a timedelta
async def bad_timeout(n: int) -> int:
    return n


@app.activity(executor="fiber")  # E unknown executor
def bad_executor(n: int) -> int:
    return n


@app.resources  # E it must yield
async def not_a_generator() -> int:
    return 1


async def clients(client: Client) -> None:
    order = client.workflow(awaits, id="x")
    await order.start()  # E missing argument
    await order.start(1)  # E wrong type
    await order.run(Cart("c", 1), 2)  # E too many
    order.start(Cart("c", 1))  # E forgotten await
    n: int = await order.result()  # E Receipt is not int
    m: str = await order.run(Cart("c", 1))  # E Receipt is not str
    await order.send(approved, "yes")  # E wrong type
    await order.result(timeout="1 s")  # E seconds or a timedelta
    client.workflow(charge, id="x")  # E an activity is not a workflow
    client.workflow(awaits)  # E no id
    client.workflow(awaits, id=3)  # E id is a string
    client.workflow(awaits, id="x", if_exists="maybe")  # E unknown rule
    await client.list(status="done")  # E unknown status
    client.get("x").start(1)  # E cannot be started without its definition


def sync_clients(client: SyncClient) -> None:
    order = client.workflow(awaits, id="x")
    order.start()  # E missing argument
    order.start(1)  # E wrong type
    order.run(Cart("c", 1), 2)  # E too many
    n: int = order.result()  # E Receipt is not int
    m: str = order.run(Cart("c", 1))  # E Receipt is not str
    order.send(approved, "yes")  # E wrong type
    order.result(timeout="1 s")  # E seconds or a timedelta
    client.workflow(charge, id="x")  # E an activity is not a workflow
    client.workflow(awaits)  # E no id
    client.list(status="done")  # E unknown status
    client.get("x").start(1)  # E cannot be started without its definition
    app.node("memory://").sync(loop_factory=3)  # E a function that makes a loop
    with app.node("memory://"):  # E a node is opened with `async with`, or with `.sync()`
        order.resume()


async def inside() -> None:
    activity.resources(pool)  # E a type is wanted
    k: str = activity.info().attempt  # E int is not str
    App(3)  # E name is a string
