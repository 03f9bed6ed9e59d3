"""Who waits for an instance that is suspended is told so, unless the wait is to go through the suspension."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from engine import PATIENCE_S, World, waits_for

from perdure import App, Client, Handle, Node, Suspended, Timeout, workflow

OTHER = App("activities")


@OTHER.activity
async def charge(cents: int) -> int:
    return cents


@pytest.fixture
def checkout(app: App) -> Any:
    @app.workflow
    async def checkout(cents: int) -> int:
        """Its activity is registered with another app."""
        return await charge(cents)

    return checkout


@pytest.fixture
def stuck(app: App) -> Any:
    @app.workflow
    async def stuck() -> None:
        await workflow.receive("go", bool)
        await asyncio.Event().wait()

    return stuck


@pytest.fixture
async def pair(
    world: World, app: App, checkout: Any, stuck: Any
) -> AsyncIterator[tuple[Node, Client]]:
    """A node, and a client that stands alone on its store."""
    async with world.node(app) as node, Client.open(world.store) as outside:
        yield node, outside


def client_of(pair: tuple[Node, Client], who: str) -> Client:
    return pair[0].client if who == "inside" else pair[1]


BOTH = pytest.mark.parametrize("who", ["inside", "outside"])
WAYS: dict[str, Callable[[Handle[Any]], Awaitable[object]]] = {
    "result": lambda handle: handle.result(timeout=PATIENCE_S),
    "wait": lambda handle: handle.wait(timeout=PATIENCE_S),
}


@BOTH
async def test_run_ends_with_the_reason_and_the_remedy(
    pair: tuple[Node, Client], checkout: Any, who: str
) -> None:
    handle = client_of(pair, who).workflow(checkout, id="order-1")
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(Suspended) as raised:
            await handle.run(5)
    assert raised.value.reason == "not_registered"
    assert raised.value.failure.type == "NotRegistered"
    text = str(raised.value)
    assert text.startswith("checkout 'order-1' is suspended (not_registered): activity 'charge' ")
    assert "`app.include(...)` the app that it belongs to" in text
    assert "perdure explain not_registered" in text
    assert "through_suspension=True" in text


@BOTH
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("before", [True, False])
async def test_waits_end_when_it_is_suspended_before_or_meanwhile(
    pair: tuple[Node, Client], stuck: Any, who: str, way: str, before: bool
) -> None:
    node = pair[0]
    handle = client_of(pair, who).workflow(stuck, id="s")
    await handle.start()
    await waits_for(node.client.get("s"), "message go")
    if before:
        await node.client.get("s").send("go", True)
        await waits_for(node.client.get("s"), "stuck")
    waiting = asyncio.ensure_future(WAYS[way](handle))
    if not before:
        await asyncio.sleep(0)  # the wait is under way
        await node.client.get("s").send("go", True)
    with pytest.raises(Suspended, match=r"stuck 's' is suspended \(stuck\): 's' waits at "):
        await waiting


@BOTH
async def test_a_wait_can_go_through_the_suspension(
    pair: tuple[Node, Client], app: App, checkout: Any, who: str
) -> None:
    handle = client_of(pair, who).workflow(checkout, id="order-1")
    await handle.start(5)
    result = asyncio.ensure_future(handle.result(timeout=PATIENCE_S, through_suspension=True))
    wait = asyncio.ensure_future(handle.wait(timeout=PATIENCE_S, through_suspension=True))
    await waits_for(pair[0].client.get("order-1"), "not_registered")
    app.include(OTHER)
    assert await result == 5
    assert (await wait).status == "completed"


async def test_a_definition_that_came_at_the_last_moment_counts(
    pair: tuple[Node, Client], app: App, checkout: Any
) -> None:
    handle = pair[0].client.workflow(checkout, id="order-1")
    await handle.start(5)
    await waits_for(pair[0].client.get("order-1"), "not_registered")
    app.include(OTHER)
    assert await handle.result(timeout=PATIENCE_S) == 5


@BOTH
async def test_a_pause_ends_no_wait(
    pair: tuple[Node, Client], app: App, checkout: Any, who: str
) -> None:
    app.include(OTHER)
    handle = client_of(pair, who).workflow(checkout, id="order-1", delay=0.5)  # time for the pause
    await handle.start(5)
    await handle.pause()
    with pytest.raises(Timeout, match=r"is suspended \(paused\)\. It goes on after resume\(\)"):
        await handle.result(timeout=0.2)
    result = asyncio.ensure_future(handle.result(timeout=PATIENCE_S))
    await handle.resume()
    assert await result == 5


async def test_a_timeout_says_that_it_does_not_go_on(
    pair: tuple[Node, Client], checkout: Any
) -> None:
    handle = pair[0].client.workflow(checkout, id="order-1")
    await handle.start(5)
    await waits_for(pair[0].client.get("order-1"), "not_registered")
    with pytest.raises(Timeout) as raised:
        await handle.result(timeout=0.01, through_suspension=True)
    assert "It does not go on by itself: `perdure explain not_registered`" in str(raised.value)
    assert "It goes on" not in str(raised.value)


async def test_a_wait_without_a_node_says_so_once(
    tmp_path: Path, checkout: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with Client.open(f"sqlite:///{tmp_path}/x.db") as client:
        handles = [client.workflow(checkout, id=f"order-{n}") for n in range(20)]
        await asyncio.gather(*(handle.start(5) for handle in handles))
        with caplog.at_level(logging.WARNING, "perdure.client"):
            waits = [handle.result(timeout=2.5) for handle in handles]
            ended = await asyncio.gather(*waits, return_exceptions=True)
    assert {type(error) for error in ended} == {Timeout}
    # One for all of them.
    (record,) = caplog.records
    unit = record.__dict__["instance"]
    assert unit in {handle.id for handle in handles}
    assert record.getMessage().startswith(f"{unit!r} waits for a node: none runs on this store")


async def test_a_wait_beside_a_node_says_nothing(
    tmp_path: Path, app: App, stuck: Any, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    async with Node(app, url), Client.open(url) as client:
        handle = client.workflow(stuck, id="s")
        await handle.start()
        with pytest.raises(Timeout):
            await handle.result(timeout=1.5)
    assert not caplog.records
