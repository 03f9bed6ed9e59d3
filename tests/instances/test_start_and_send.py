"""A message that starts its receiver: one start however many send, and each message received."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from engine import PATIENCE_S, World, until, waits_for

from perdure import AlreadyStarted, App, Client, Interceptor, Node, NotRunning, workflow
from perdure.errors import EncodeError, InboxFull, UsageError
from perdure.interceptor import NextSend, Outgoing
from perdure.kernel.data.message import Message
from perdure.ports.store import Posted, Starts
from perdure.store.limits import StoreLimits
from perdure.store.memory import MemoryStore

items = workflow.Channel[str]("items")


def carts(app: App) -> Any:
    """A cart that takes some items and ends."""

    @app.workflow
    async def cart(customer: str, size: int = 2) -> list[str]:
        return [await items.receive() for _ in range(size)]

    @app.workflow
    async def other(customer: str) -> str:
        return await items.receive()

    return cart


@asynccontextmanager
async def client_of(world: World, app: App, *, alone: bool) -> AsyncIterator[Client]:
    """The client of a node, or one that stands alone beside a node."""
    async with world.node(app) as node:
        if not alone:
            yield node.client
            return
        async with Client.open(world.store) as client:
            yield client


@pytest.fixture(params=[False, True], ids=["node", "alone"])
async def client(request: pytest.FixtureRequest, world: World, app: App) -> AsyncIterator[Client]:
    carts(app)
    async with client_of(world, app, alone=request.param) as made:
        yield made


async def test_the_first_message_starts_and_the_others_are_received(client: Client) -> None:
    handle = client.workflow("cart", id="c")
    await handle.start_and_send(items.message("a"), "anna")
    # The input is that of the first one.
    await client.workflow("cart", id="c").start_and_send(items.message("b"), "berta")
    assert await handle.result(timeout=PATIENCE_S) == ["a", "b"]


async def test_many_that_send_at_the_same_time_start_it_once(client: Client) -> None:
    handles = [client.workflow("cart", id="c") for _ in range(20)]
    sends = (
        # Each key twice, as a webhook that is delivered twice.
        handle.start_and_send(items.message(f"{n % 10}", key=f"evt_{n % 10}"), f"input {n}", 10)
        for n, handle in enumerate(handles)
    )
    await asyncio.gather(*sends)
    ends = await asyncio.gather(*(handle.result(timeout=PATIENCE_S) for handle in handles))
    assert all(sorted(end) == [str(n) for n in range(10)] for end in ends)


async def test_an_instance_that_has_ended_is_an_error_or_is_renewed(client: Client) -> None:
    first = client.workflow("cart", id="c")
    await first.start_and_send(items.message("a"), "anna", 1)
    assert await first.result(timeout=PATIENCE_S) == ["a"]
    with pytest.raises(NotRunning, match=r"'c' has ended.*if_exists='renew'"):
        await first.start_and_send(items.message("b"), "anna", 1)
    # The handle means the run that it started, as before the call that was refused.
    assert await first.result(timeout=PATIENCE_S) == ["a"]
    renewed = client.workflow("cart", id="c", if_exists="renew")
    await renewed.start_and_send(items.message("b"), "anna")
    await renewed.start_and_send(items.message("c"), "anna")
    assert await renewed.result(timeout=PATIENCE_S) == ["b", "c"]


async def test_a_repeated_event_starts_nothing_after_the_end(client: Client) -> None:
    handle = client.workflow("cart", id="c", if_exists="renew")
    await handle.start_and_send(items.message("a", key="evt_1"), "anna", 1)
    assert await handle.result(timeout=PATIENCE_S) == ["a"]
    run = (await client.get("c").describe()).started_at
    for _ in range(2):
        await client.workflow("cart", id="c", if_exists="renew").start_and_send(
            items.message("a", key="evt_1"), "anna", 1
        )
    # What came of it would stand before this instance, which is started later.
    after = client.workflow("cart", id="after", if_exists="renew")
    await after.start_and_send(items.message("x"), "anna", 1)
    await after.result(timeout=PATIENCE_S)
    described = await client.get("c").describe()
    assert (described.status, described.started_at) == ("completed", run)
    assert (await client.counts())["inbox"] == 0


async def test_another_workflow_under_the_id_gets_nothing(client: Client) -> None:
    await client.workflow("other", id="c").start("anna")
    for rule in ("join", "renew"):
        with pytest.raises(AlreadyStarted, match="'c'"):
            await client.workflow("cart", id="c", if_exists=rule).start_and_send(
                items.message("a"), "anna"
            )
    await client.get("c").send(items, "b")
    assert await client.get("c").result(timeout=PATIENCE_S) == "b"


async def test_replace_ends_the_run_that_is_there(client: Client) -> None:
    await client.workflow("cart", id="c").start("anna", 5)
    handle = client.workflow("cart", id="c", if_exists="replace")
    await handle.start_and_send(items.message("a"), "berta", 1)
    assert await handle.result(timeout=PATIENCE_S) == ["a"]


async def test_nothing_is_sent_of_a_call_that_is_wrong(client: Client) -> None:
    handle = client.workflow("cart", id="c")
    with pytest.raises(EncodeError, match="'items'"):
        await handle.start_and_send(items.message(7), "anna")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="key"):
        await handle.start_and_send(items.message("a", key=""), "anna")
    with pytest.raises(UsageError, match="if_exists='reject'"):
        await client.workflow("cart", id="c", if_exists="reject").start_and_send(
            items.message("a"), "anna"
        )
    assert await client.list() == []


async def test_a_start_with_a_delay_keeps_its_message(world: World, app: App) -> None:
    clock = world.stop_time()
    cart = carts(app)
    async with world.node(app) as node:
        handle = node.client.workflow(cart, id="c", delay=60)
        await handle.start_and_send(items.message("a"), "anna", 1)
        await waits_for(handle, "posted")
        assert await handle.status() == "pending"
    async with world.node(app) as node:
        clock.advance(61_000)
        assert await node.client.get("c").result(timeout=PATIENCE_S) == ["a"]


async def test_a_run_that_ends_in_between_is_seen(app: App) -> None:
    cart = carts(app)

    class Late(MemoryStore):
        """The run that was seen open has ended when the message is posted."""

        async def post(self, batch: Sequence[Message]) -> list[Posted]:
            if len(batch) == 1:
                await last.send("items", "end")
                await last.result(timeout=PATIENCE_S)
            return await super().post(batch)

    async with Late() as store:
        world = World(store)
        async with world.node(app) as node:
            last = node.client.workflow(cart, id="c")
            await last.start("anna", 1)
            renewed = node.client.workflow(cart, id="c", if_exists="renew")
            await renewed.start_and_send(items.message("a"), "anna", 1)
            assert await renewed.result(timeout=PATIENCE_S) == ["a"]
            with pytest.raises(NotRunning):
                await last.start_and_send(items.message("b"), "anna", 1)


async def test_interceptors_see_a_send_and_a_start_inside_it(world: World, app: App) -> None:
    cart = carts(app)
    seen: list[tuple[object, ...]] = []

    class Notes(Interceptor):
        async def send(self, call: Outgoing, next: NextSend) -> object:
            seen.append((call.verb, call.name, call.args, dict(call.kwargs)))
            return await next(call)

    async with Node(app, world.store, interceptors=[Notes()]) as node:
        handle = node.client.workflow(cart, id="c")
        await handle.start_and_send(items.message("a", key="evt_1"), "anna", size=1)
        assert await handle.result(timeout=PATIENCE_S) == ["a"]
    assert seen == [
        ("send", "items", (items, "a"), {"key": "evt_1"}),
        ("start", "cart", ("anna",), {"size": 1}),
    ]


async def test_both_wait_for_a_node_that_is_still_to_come(world: World, app: App) -> None:
    cart = carts(app)
    async with world.node(app):
        pass  # makes the store
    async with Client.open(world.store) as client:
        handle = client.workflow(cart, id="c")
        await handle.start_and_send(items.message("a"), "anna")
        await handle.start_and_send(items.message("b", key="k"), "anna")
        starts = (await client.store.query(Starts())).items
        assert [start.to for start in starts] == ["c"]
        async with world.node(app):
            assert await handle.result(timeout=PATIENCE_S) == ["a", "b"]
            await until(lambda: _is_empty(client), "all messages are taken")


async def _is_empty(client: Client) -> bool:
    return (await client.counts())["inbox"] == 0


async def test_the_store_says_that_nothing_more_may_wait(app: App) -> None:
    cart = carts(app)
    async with MemoryStore(limits=StoreLimits(inbox_messages=2)) as store:
        async with Client.open(store) as client:
            handle = client.workflow(cart, id="c")
            await handle.start_and_send(items.message("a"), "anna")
            with pytest.raises(InboxFull):
                await handle.start_and_send(items.message("b"), "anna")


async def test_what_is_sent_behind_it_is_received_behind_it(client: Client) -> None:
    await client.workflow("cart", id="c").start("anna", 5)
    handle = client.workflow("cart", id="c", if_exists="replace")
    await handle.start_and_send(items.message("a"), "berta")
    await handle.send(items, "b")
    assert await handle.result(timeout=PATIENCE_S) == ["a", "b"]


async def test_two_callers_with_one_key_begin_one_run(client: Client) -> None:
    handles = [client.workflow("cart", id="c", if_exists="renew") for _ in range(4)]
    await asyncio.gather(
        *(handle.start_and_send(items.message("a", key="evt_1"), "anna", 1) for handle in handles)
    )
    assert await handles[0].result(timeout=PATIENCE_S) == ["a"]
    await until(lambda: _is_empty(client), "all messages are taken")
    # A second run would wait for an item that nobody sends.
    assert await client.get("c").status() == "completed"


async def test_an_event_that_an_open_run_took_starts_nothing_later(client: Client) -> None:
    handle = client.workflow("cart", id="c", if_exists="renew")
    await handle.start_and_send(items.message("a", key="evt_1"), "anna")
    await handle.start_and_send(items.message("b", key="evt_2"), "anna")
    assert await handle.result(timeout=PATIENCE_S) == ["a", "b"]
    await handle.start_and_send(items.message("b", key="evt_2"), "anna")
    await until(lambda: _is_empty(client), "all messages are taken")
    assert await client.get("c").status() == "completed"


async def test_renew_joins_what_goes_on_and_starts_what_has_ended(client: Client) -> None:
    first, second = (client.workflow("cart", id="c", if_exists="renew") for _ in range(2))
    await first.start("anna", 1)
    await waits_for(client.get("c"), "message items")
    await second.start("anna", 1)
    with pytest.raises(AlreadyStarted):
        await client.workflow("cart", id="c", if_exists="renew").start("berta", 1)
    await first.send(items, "a")
    ends = [await handle.result(timeout=PATIENCE_S) for handle in (first, second)]
    assert ends == [["a"], ["a"]]
    await second.start("anna", 1)
    await second.send(items, "b")
    assert await second.result(timeout=PATIENCE_S) == ["b"]
