"""A store that fails for a moment: nothing is lost, nothing runs twice, and what comes twice counts once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from engine import PATIENCE_S, World, until, waits_for

from perdure import App, Node, activity, workflow
from perdure.errors import StoreUnavailable
from perdure.kernel.data.commit import Commit, Verdict
from perdure.kernel.data.events import ActivityCompleted, TimerFired, decode_events
from perdure.kernel.data.message import ActivityDone, Message
from perdure.store.memory import MemoryStore


class Hiccups(MemoryStore):
    """Fails the commits that hold an event of this type: once each, before or after it has stored them."""

    def __init__(self) -> None:
        super().__init__()
        self.event: type[Any] | None = None
        self.outcome: Any = "none"
        self.failed = 0

    async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        if self.event is not None and any(self._has(commit) for commit in batch):
            self.event = None
            self.failed += 1
            if self.outcome == "unknown":
                await super().commit(batch)
            raise StoreUnavailable("a hiccup", self.outcome)
        return await super().commit(batch)

    def _has(self, commit: Commit) -> bool:
        assert self.event is not None
        chunks = [event for chunk in commit.journal for event in decode_events(chunk.events)]
        return any(isinstance(event, self.event) for event in chunks)


@pytest.fixture
async def hiccups() -> AsyncIterator[Hiccups]:
    """The store."""
    async with Hiccups() as store:
        yield store


@pytest.mark.parametrize("outcome", ["none", "unknown"])
async def test_a_result_that_could_not_be_recorded_is_recorded_later_and_does_not_run_again(
    hiccups: Hiccups, app: App, outcome: str
) -> None:
    ran: list[int] = []

    @app.activity
    async def count() -> int:
        ran.append(activity.info().attempt)
        return len(ran)

    @app.workflow
    async def counting() -> list[int]:
        return [await count(), await count()]

    hiccups.event, hiccups.outcome = ActivityCompleted, outcome
    async with World(hiccups).node(app) as node:
        handle = node.client.workflow(counting, id="c")
        assert await handle.run() == [1, 2]
        events = [e.event for e in await handle.history() if isinstance(e.event, ActivityCompleted)]
        assert len(events) == 2
    assert hiccups.failed == 1
    assert ran == [1, 1]


async def test_a_timer_that_could_not_be_recorded_fires_once(hiccups: Hiccups, app: App) -> None:
    @app.workflow
    async def sleeping() -> str:
        await asyncio.sleep(0.001)
        return "woken"

    hiccups.event = TimerFired
    async with World(hiccups).node(app) as node:
        handle = node.client.workflow(sleeping, id="s")
        assert await handle.run() == "woken"
        assert len([e for e in await handle.history() if isinstance(e.event, TimerFired)]) == 1
    assert hiccups.failed == 1


@pytest.mark.parametrize("copies", [2, 5])
async def test_a_result_that_is_delivered_again_counts_once(
    world: World, app: App, copies: int
) -> None:
    """The same result, a copy under another id, and one of an execution or a call that does not exist."""
    gate = asyncio.Event()

    @app.activity
    async def slow() -> int:
        await gate.wait()
        return 1

    @app.workflow
    async def calling() -> int:
        value = await slow()
        await workflow.receive("end", bool)
        return value

    async with world.node(app) as node:
        handle = node.client.workflow(calling, id="c")
        await handle.start()
        await waits_for(handle, "activity slow")
        run = bytes.fromhex((await handle.describe()).run)

        def result(i: int, *, execution: int = 1, seq: int = 1, run: bytes = run) -> Message:
            body = ActivityDone(run, execution, seq, 1, b"\x01\x2a", None, None)
            return Message(i.to_bytes(16), "c", body, node.clock.now_ms(), 0, "c")

        for i, wrong in enumerate(({"execution": 2}, {"seq": 99}, {"run": b"x" * 16})):
            await _quietly(node, result(100 + i, **wrong))
        assert await handle.status() == "running"
        for i in range(copies):
            await _quietly(node, result(i))
        gate.set()
        await waits_for(handle, "message end")
        await handle.send("end", True)
        assert await handle.result(timeout=PATIENCE_S) == 42
        assert (
            len([e for e in await handle.history() if isinstance(e.event, ActivityCompleted)]) == 1
        )


async def _quietly(node: Node, message: Message) -> None:
    await node.gateway.send(message)


async def test_several_that_were_interrupted_run_again_and_the_others_do_not(
    file_world: World, app: App
) -> None:
    gate = asyncio.Event()
    ran: list[int] = []

    @app.activity
    async def work(i: int) -> int:
        ran.append(i)
        if i % 2:
            await gate.wait()
        return i

    @app.workflow
    async def fan_out() -> list[int]:
        return await asyncio.gather(*(work(i) for i in range(6)))

    async with file_world.node(app) as node:
        handle = node.client.workflow(fan_out, id="f")
        await handle.start()

        async def recorded() -> bool:
            history = await handle.history()
            return len([e for e in history if isinstance(e.event, ActivityCompleted)]) == 3

        await until(recorded, "three results")
    gate.set()
    async with file_world.node(app) as node:
        assert await node.client.get("f").result(timeout=PATIENCE_S) == list(range(6))
    assert sorted(ran) == [0, 1, 1, 2, 3, 3, 4, 5, 5]
