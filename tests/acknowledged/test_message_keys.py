"""A message with a key counts once, whichever client sends it, and for as long as the store says."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from engine import until

from perdure import App, Client, Node, NodeOptions, workflow
from perdure.errors import UsageError
from perdure.store.limits import StoreLimits
from perdure.store.memory import MemoryStore
from perdure.store.sqlite import SQLiteStore
from perdure.testing import ManualClock

approval = workflow.Channel[str]("approval")
other = workflow.Channel[str]("other")

WINDOW_MS = 60_000


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> MemoryStore | SQLiteStore:
    """Each kind of store, with a window of a minute."""
    limits = StoreLimits(dedupe_ms=WINDOW_MS)
    if request.param == "memory":
        return MemoryStore(limits=limits, clock=ManualClock())
    return SQLiteStore(f"{tmp_path}/x.db", limits=limits, clock=ManualClock())


def reading(app: App, received: list[str]) -> None:
    @app.workflow(name="reader")
    async def reader() -> None:
        while True:
            received.append(await approval.receive())


def node_of(app: App, store: MemoryStore | SQLiteStore, clock: ManualClock) -> Node:
    return Node(app, store, clock=clock, options=NodeOptions(stop_ms=10, sweep_ms=1_000))


async def test_a_key_counts_once_while_it_waits_and_after_it_was_taken(
    store: MemoryStore | SQLiteStore, app: App
) -> None:
    received: list[str] = []
    reading(app, received)
    clock = ManualClock()
    async with store, node_of(app, store, clock) as node:
        handle = node.client.workflow("reader", id="r")
        await handle.start()
        alone = Client.open(store, clock=clock).get("r")
        # A webhook that comes twice at once, through the node and through another client.
        await asyncio.gather(
            handle.send(approval, "first", key="evt_1"),
            handle.send(approval, "first", key="evt_1"),
            alone.send("approval", "first", key="evt_1"),
        )
        await until(lambda: len(received) == 1, "the message is received")
        await handle.send(approval, "again", key="evt_1")
        await alone.send("approval", "again", key="evt_1")
        await handle.send(approval, "second", key="evt_2")
        await handle.send(approval, "no key")
        await handle.send(approval, "no key")
        await until(lambda: len(received) == 4, "the others are received")
    assert received == ["first", "second", "no key", "no key"]


async def test_the_key_is_forgotten_at_the_end_of_the_window(
    store: MemoryStore | SQLiteStore, app: App
) -> None:
    received: list[str] = []
    reading(app, received)
    clock = ManualClock()
    async with store, node_of(app, store, clock) as node:
        handle = node.client.workflow("reader", id="r")
        await handle.start()
        await handle.send(approval, "first", key="evt_1")
        await until(lambda: len(received) == 1, "the message is received")
        clock.advance(WINDOW_MS - 1_000)
        await handle.send(approval, "early", key="evt_1")
        clock.advance(10 * WINDOW_MS)

        async def sent_again() -> bool:
            await handle.send(approval, "late", key="evt_1")
            return len(received) == 2

        await until(sent_again, "the sweeper has removed the key")
    assert received == ["first", "late"]


async def test_a_key_belongs_to_an_instance_and_a_channel(
    store: MemoryStore | SQLiteStore, app: App
) -> None:
    @app.workflow(name="both")
    async def both() -> list[str]:
        return [await approval.receive(), await other.receive()]

    clock = ManualClock()
    async with store, node_of(app, store, clock) as node:
        one, two = (node.client.workflow("both", id=name) for name in ("a", "b"))
        await one.start()
        await two.start()
        for handle in (one, two):
            await handle.send(approval, "x", key="k")
            await handle.send(other, "y", key="k")
        assert await one.result(timeout=30) == ["x", "y"]
        assert await two.result(timeout=30) == ["x", "y"]


@pytest.mark.parametrize(
    ("key", "said"), [("", "is empty"), ("a\0b", "NUL"), (7, "is a string, got int")]
)
async def test_what_is_no_key_is_refused(app: App, key: object, said: str) -> None:
    async with app.node("memory://") as node:
        with pytest.raises(UsageError, match=said):
            await node.client.get("r").send("approval", "x", key=key)  # type: ignore[arg-type]
