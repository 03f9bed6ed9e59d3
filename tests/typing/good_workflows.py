"""Correct workflow, activity and client code: neither checker finds an error, and each type is as asserted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Any, Literal, assert_type
from uuid import UUID

from perdure import (
    App,
    AsyncActivity,
    Client,
    Handle,
    HistoryEvent,
    RetryPolicy,
    SyncActivity,
    Workflow,
    activity,
    workflow,
)
from perdure.sync import SyncClient, SyncHandle, SyncNode, SyncWorkflowHandle

app = App("shop")


@dataclass
class Cart:
    card: str
    cents: int


@dataclass
class Receipt:
    charge_id: str


@dataclass
class Pool:
    size: int


@app.resources
async def pool() -> AsyncIterator[Pool]:
    yield Pool(4)


# ---------------------------------------------------------------- activities


@app.activity(retry=RetryPolicy(maximum_attempts=5), timeout=30)
async def charge(card: str, cents: int) -> str:
    activity.heartbeat({"cents": cents})
    assert_type(activity.info().attempt, int)
    assert_type(activity.info().last_heartbeat(int), int | None)
    assert_type(activity.resources(Pool), Pool)
    assert_type(activity.is_cancelled(), bool)
    if not cents:
        raise activity.RetryAfter(timedelta(minutes=1), "the bank is busy")
    return card


@app.activity
async def ship(order: str, *, express: bool = False) -> int:
    await activity.cancelled()
    return 1


@app.activity
def resize(path: str, width: int = 100) -> bytes:
    return b""


@app.activity(timeout=timedelta(seconds=5), executor="process")
def hash_it(data: bytes) -> str:
    return ""


@app.activity(name="audit-log")
async def audit(text: str) -> None:
    return None


assert_type(resize.fn("p", 3), bytes)
assert_type(charge.name, str)
as_async: AsyncActivity[[str, int], str] = charge
as_sync: SyncActivity[[bytes], str] = hash_it
plain: Callable[[str, int], bytes] = resize.fn
called: Callable[..., Coroutine[Any, Any, str]] = charge


def takes_any(of: SyncActivity[..., object]) -> None:
    takes_any(resize)
    takes_any(hash_it)


async def test_of_activities() -> None:
    assert_type(await charge("c", 1), str)
    assert_type(await charge.fn("c", 1), str)
    assert_type(await resize("p"), bytes)
    assert_type(resize.fn("p"), bytes)


# ---------------------------------------------------------------- workflows

approved = workflow.Channel[bool]("approved")
maybe = workflow.Channel[int | None]("maybe")
named = workflow.Channel("named", Cart)
assert_type(named, workflow.Channel[Cart])


@app.workflow
async def small(n: int) -> int:
    if n > 100:
        workflow.continue_as_new(small, n - 1)
    return n


@app.workflow(name="small-two", version="1.1.0", on_mismatch="fail", guard="warn")
async def small_two(n: int, label: str = "") -> int:
    if n > 100:
        workflow.continue_as_version("1.2.0", small_two, n - 1, label=label)
    return n


as_workflow: Workflow[[int], int] = small


@app.workflow
async def awaits(cart: Cart) -> Receipt:
    charge_id = await charge(cart.card, cart.cents)
    assert_type(charge_id, str)
    assert_type(await charge(card="c", cents=2), str)
    assert_type(await resize("a.png", width=3), bytes)
    assert_type(await ship("o", express=True), int)
    assert_type(await charge.with_options(timeout=1, queue="gpu", session="s")("c", cents=1), str)
    assert_type(await resize.with_options(retry=RetryPolicy())("c"), bytes)
    assert_type(await small(3), int)
    assert_type(await workflow.child(small, id="s-1", parent_close="abandon")(3), int)
    assert_type(await workflow.child(small_two, version=2)(3, label="x"), int)
    await audit("done")
    return Receipt(charge_id)


@app.workflow
async def groups() -> None:
    first, second = await asyncio.gather(charge("c", 1), hash_it(b""))
    assert_type((first, second), tuple[str, str])
    mixed = await asyncio.gather(ship("o"), small(1), asyncio.sleep(1, "x"))
    assert_type(mixed, tuple[int, int, str])
    assert_type(await asyncio.gather(*[ship("o") for _ in range(3)]), list[int])
    async with asyncio.TaskGroup() as tasks:
        shipped = tasks.create_task(ship("o", express=True))
        resized = tasks.create_task(resize("x"))
        child = tasks.create_task(small(2))
    assert_type(shipped.result(), int)
    assert_type(resized.result(), bytes)
    assert_type(child.result(), int)
    calls = [asyncio.create_task(charge("a", 1)), asyncio.create_task(charge("b", 2))]
    done, pending = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    assert_type({d.result() for d in done}, set[str])
    for next_done in asyncio.as_completed([charge("a", 1), charge("b", 2)]):
        assert_type(await next_done, str)
    assert_type(await asyncio.wait_for(charge("a", 1), 5), str)
    assert_type(await asyncio.shield(charge("a", 1)), str)
    async with asyncio.timeout(86_400):
        await asyncio.sleep(3)
    future = asyncio.ensure_future(charge("a", 1))
    future.cancel()


@app.workflow
async def races() -> None:
    index, value = await workflow.select(charge("a", 1), ship("o"))
    assert_type(index, int)
    assert_type(value, str | int)
    three = await workflow.select(charge("a", 1), ship("o"), workflow.sleep(3))
    assert_type(three, tuple[int, str | int | None])
    four = await workflow.select(charge("a", 1), ship("o"), resize("p"), approved.receive())
    assert_type(four, tuple[int, str | int | bytes | bool])
    many = await workflow.select(*[charge("a", i) for i in range(9)])
    assert_type(many, tuple[int, str])
    outcomes = await workflow.join(charge("a", 1), charge("b", 2), order="history")
    assert_type(outcomes, list[str | BaseException])
    for outcome in outcomes:
        if not isinstance(outcome, BaseException):
            assert_type(outcome, str)


@app.workflow
async def messages() -> None:
    assert_type(await approved.receive(), bool)
    assert_type(await maybe.receive(), int | None)
    assert_type(await named.receive(), Cart)
    assert_type(await workflow.receive("at-run-time", list[int]), list[int])
    assert_type(await workflow.wait_event("bell", str), str)
    workflow.send("other", approved, True)
    workflow.send("other", maybe, None)
    workflow.send("other", "at-run-time", {"anything": 1})
    workflow.cancel("other", "no need")


@app.workflow
async def remembers() -> None:
    assert_type(workflow.now(), datetime)
    assert_type(workflow.random(), Random)
    assert_type(workflow.uuid4(), UUID)
    assert_type(workflow.info().execution, int)
    assert_type(workflow.kv.get("k", int), int | None)
    assert_type(workflow.kv.keys(), list[str])
    workflow.kv.set("k", Cart("c", 1))
    workflow.set_status({"step": 1})
    assert_type(workflow.status(dict[str, int]), dict[str, int] | None)
    assert_type(workflow.value("limit", 3), int)
    assert_type(workflow.value("carts", [Cart("c", 1)]), list[Cart])
    assert_type(workflow.value("limits", [1], type=list[int]), list[int])
    assert_type(workflow.variable("some", [Cart("c", 1)], type=list[Cart]).get(), list[Cart])
    counter = workflow.variable("counter", 0)
    assert_type(counter.update(lambda n: n + 1), int)
    if workflow.patched("new-way"):
        assert_type(await workflow.checkpoint("sync", lambda: 3), int)
    assert_type(await workflow.checkpoint("async", read), str)
    assert_type(await workflow.checkpoint("typed", read_cart, type=Cart), Cart)
    workflow.logger.info("step %d", 1)


async def read() -> str:
    return ""


def read_cart() -> Cart:
    return Cart("c", 1)


@app.workflow
async def detaches() -> None:
    assert_type(small.detach(3), str)
    assert_type(workflow.child(small_two, id="d-1").detach(3, label="x"), str)
    assert_type(charge.detach("c", cents=3), str)
    await workflow.sleep(timedelta(hours=1), name="cooling off")


# ---------------------------------------------------------------- clients


async def use(client: Client) -> None:
    order = client.workflow(awaits, id="order-1", if_exists="reject", delay=3)
    await order.start(Cart("c", 1))
    await order.start(cart=Cart("c", 1))
    assert_type(await order.run(Cart("c", 1)), Receipt)
    assert_type(await order.result(timeout=5), Receipt)
    await order.send(approved, True)
    await order.send("approved", True)
    await order.cancel("no longer wanted")
    described = await order.describe()
    assert_type(
        described.status,
        Literal["pending", "running", "suspended", "completed", "failed", "cancelled"],
    )
    assert_type([e.number for e in await order.history()], list[int])
    unknown = client.workflow("by-name", id="x", version="1.0.0")
    await unknown.start(1, "two")
    later: Handle[Receipt] = order
    assert_type(await later.result(), Receipt)
    for found in await client.list(status=("running", "suspended"), type="awaits"):
        assert_type(found.id, str)


def use_sync(client: SyncClient) -> None:
    order = client.workflow(awaits, id="order-1", if_exists="reject", delay=3)
    as_sync_handle: SyncWorkflowHandle[[Cart], Receipt] = order
    as_sync_handle.start(Cart("c", 1))
    order.start(Cart("c", 1))
    order.start(cart=Cart("c", 1))
    assert_type(order.run(Cart("c", 1)), Receipt)
    assert_type(order.result(timeout=5), Receipt)
    order.send(approved, True)
    order.send("approved", True)
    assert_type(
        order.status(),
        Literal["pending", "running", "suspended", "completed", "failed", "cancelled"],
    )
    assert_type(order.kv_get("k", int), int | None)
    assert_type(order.custom_status(dict[str, int]), tuple[dict[str, int] | None, int])
    assert_type([e.number for e in order.iterate_history()], list[int])
    assert_type(order.history(), list[HistoryEvent])
    client.workflow("by-name", id="x", version="1.0.0").start(1, "two")
    later: SyncHandle[Receipt] = order
    assert_type(later.result(), Receipt)
    for found in client.list(status=("running", "suspended"), type="awaits"):
        assert_type(found.id, str)


def main_sync() -> None:
    with app.node("sqlite:///shop.db").sync() as node:
        assert_type(node, SyncNode)
        use_sync(node.client)
    with Client.open("sqlite:///shop.db").sync(loop_factory=asyncio.new_event_loop) as client:
        assert_type(client, SyncClient)
        use_sync(client)


async def main() -> None:
    async with app.node("sqlite:///shop.db") as node:
        await use(node.client)
    async with Client.open("sqlite:///shop.db") as client:
        await use(client)
