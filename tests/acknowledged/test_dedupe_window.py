"""A client's request that comes again is known for as long as the store says: `StoreLimits.dedupe_ms`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from engine import until

from perdure import App, Client, Node, NodeOptions, workflow
from perdure.client.custody import custody
from perdure.codec import encode
from perdure.kernel.data.commit import Fence
from perdure.kernel.data.message import AnyBody, Message, Send, Start
from perdure.kernel.data.placement import scopes_of
from perdure.ports.store import Incarnation, Store
from perdure.store.limits import StoreLimits
from perdure.store.memory import MemoryStore
from perdure.store.sqlite import SQLiteStore
from perdure.testing import ManualClock

HOUR_MS = 3_600_000
DAYS = [1, 3, 90]


class Place:
    """A store that forgets requests after `dedupe_ms`. Time passes when the test says so."""

    def __init__(self, kind: str, folder: Path, dedupe_ms: int) -> None:
        self.clock = ManualClock()
        self.dedupe_ms = dedupe_ms
        limits = StoreLimits(dedupe_ms=dedupe_ms)
        self.store: Store = MemoryStore(limits=limits, clock=self.clock)
        if kind == "sqlite":
            self.store = SQLiteStore(f"{folder}/x.db", limits=limits, clock=self.clock)

    def node(self, app: App) -> Node:
        return Node(app, self.store, clock=self.clock, options=NodeOptions(stop_ms=10))

    def message(self, body: AnyBody) -> Message:
        return Message(os.urandom(16), "r", body, self.clock.now_ms(), scope="default/0")

    async def post(self, message: Message) -> str:
        return (await self.store.post([message]))[0].outcome

    async def is_known_until_the_end_of_the_window(self, message: Message) -> None:
        """The same request is a duplicate an hour before the window ends, and a new one after it."""
        self.clock.advance(self.dedupe_ms - HOUR_MS)
        await self._sweep()
        assert await self.post(message) == "duplicate", "an hour before the end"
        self.clock.advance(2 * HOUR_MS)
        await self._sweep()
        assert await self.post(message) == "accepted", "an hour after the end"

    async def _sweep(self) -> None:
        scopes = scopes_of(self.store.info.shards)
        claims = await self.store.claim(scopes, Incarnation("sweeper", "1"))
        fences = [Fence(scope, claim.epoch, "1") for scope, claim in claims.items()]
        while (await self.store.sweep(fences, self.clock.now_ms(), 1_000)).removed:
            pass
        await self.store.release(fences)


@pytest.fixture(params=["memory", "sqlite"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of store."""
    kind: str = request.param
    return kind


@pytest.mark.parametrize("days", DAYS)
async def test_a_message(kind: str, tmp_path: Path, app: App, days: int) -> None:
    received: list[int] = []

    @app.workflow
    async def reader() -> None:
        while True:
            received.append(await workflow.receive("numbers", int))

    place = Place(kind, tmp_path, days * 24 * HOUR_MS)
    async with place.store:
        async with place.node(app) as node:
            await node.client.workflow(reader, id="r").start()
            message = place.message(Send("numbers", encode(7)))
            assert await place.post(message) == "accepted"
            await until(lambda: received == [7], "the message is received")
        await place.is_known_until_the_end_of_the_window(message)


@pytest.mark.parametrize("days", DAYS)
@pytest.mark.parametrize("beside", ["with a node", "without"])
async def test_the_start_of_what_was_deleted(
    kind: str, tmp_path: Path, app: App, days: int, beside: str
) -> None:
    ran: list[str] = []

    @app.workflow(name="once")
    async def once() -> None:
        ran.append("once")

    place = Place(kind, tmp_path, days * 24 * HOUR_MS)
    async with place.store:
        async with place.node(app) as node:
            start = place.message(Start("once", None, encode([])))
            assert await place.post(start) == "accepted"
            await until(lambda: ran == ["once"], "the instance runs")
            await node.client.get("r").wait(timeout=30)
            if beside == "with a node":
                assert await node.client.get("r").delete() == 1
        if beside == "without":
            async with custody(place.store, place.clock) as custodian:
                assert await Client(custodian).get("r").delete() == 1
        await place.is_known_until_the_end_of_the_window(start)
