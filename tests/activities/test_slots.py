"""Slots come back, time is counted from the beginning, and what runs already does not begin again."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from engine import PATIENCE_S, World, until, waits_for

from perdure import (
    ActivityError,
    ActivityTimeout,
    App,
    Limits,
    Node,
    NodeOptions,
    activity,
    workflow,
)
from perdure.errors import StoreUnavailable
from perdure.kernel.data.message import Message
from perdure.ports.clock import SystemClock
from perdure.ports.store import Inbox
from perdure.store.memory import MemoryStore


class Gate:
    """Functions that wait until it is opened, whatever is asked of them."""

    def __init__(self) -> None:
        self.began = 0
        self.is_open = threading.Event()
        self.opened = asyncio.Event()

    async def deaf(self) -> str:
        self.began += 1
        while not self.opened.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.opened.wait()
        return "late"

    def blocked(self) -> str:
        self.began += 1
        self.is_open.wait()
        return "late"

    def open(self) -> None:
        self.is_open.set()
        self.opened.set()


@pytest.fixture
def gate() -> Any:
    made = Gate()
    yield made
    made.open()


def define(app: App, gate: Gate, kind: str) -> Callable[..., Any]:
    """An activity that does not end, and a workflow `stuck` that waits for it."""
    deaf = app.activity(name="deaf")(gate.deaf if kind == "async" else gate.blocked)

    @app.workflow
    async def stuck() -> str:
        return await deaf()

    return stuck


@pytest.mark.parametrize("kind", ["async", "def"])
async def test_one_that_refuses_to_end_gives_its_slot_back_after_the_grace(
    world: World, app: App, gate: Gate, kind: str
) -> None:
    clock = world.stop_time()
    stuck = define(app, gate, kind)

    @app.activity
    def on_thread() -> str:
        return "ran"

    @app.activity
    async def on_loop() -> str:
        return "ran"

    @app.workflow
    async def other() -> list[str]:
        return [await on_loop(), await on_thread()]

    async with world.node(app, activities=1, threads=1, grace_ms=500) as node:
        handle = node.client.workflow(stuck, id="s")
        await handle.start()
        await until(lambda: gate.began == 1, "it began")
        await handle.cancel()
        assert (await handle.wait(timeout=30)).status == "cancelled"
        second = node.client.workflow(other, id="o")
        await second.start()
        clock.advance(499)
        assert node.metrics.running == 1
        assert await second.status() == "running"
        clock.advance(1)
        assert await second.result(timeout=30) == ["ran", "ran"]
        assert node.metrics.running == 0
        gate.open()
    assert gate.began == 1


async def test_a_def_that_waits_for_a_thread_has_all_its_time(
    world: World, app: App, gate: Gate
) -> None:
    clock = world.stop_time()
    stuck = define(app, gate, "def")

    @app.activity(timeout=5)
    def quick() -> str:
        return "ran"

    @app.activity(start_timeout=10)
    def impatient() -> str:
        return "ran"

    @app.workflow
    async def patient() -> str:
        return await quick()

    @app.workflow
    async def hasty() -> str:
        try:
            return await impatient()
        except ActivityTimeout as error:
            return str(error)

    async with world.node(app, threads=1) as node:
        await node.client.workflow(stuck, id="s").start()
        await until(lambda: gate.began == 1, "it began")
        waiting = [node.client.workflow(w, id=w.name) for w in (patient, hasty)]
        for handle in waiting:
            await handle.start()
        await until(lambda: node.metrics.waiting == 2, "both wait")
        clock.advance(10_000)
        assert "no slot became free (10000 ms)" in await waiting[1].result(timeout=30)
        assert await waiting[0].status() == "running"
        gate.open()
        assert await waiting[0].result(timeout=30) == "ran"


async def test_no_attempt_begins_when_the_time_of_all_is_over(world: World, app: App) -> None:
    """After a restart, and while it waits for a slot."""
    clock = world.stop_time()
    began: list[int] = []

    @app.activity(total_timeout=10)
    async def slow() -> None:
        began.append(1)
        await asyncio.Event().wait()

    @app.workflow
    async def calling() -> str:
        try:
            await slow()
        except ActivityTimeout as error:
            return str(error)
        return ""

    async with world.node(app, activities=1) as node:
        await node.client.workflow(calling, id="first").start()
        await until(lambda: began == [1], "it began")
        await node.client.workflow(calling, id="second").start()
        await until(lambda: node.metrics.waiting == 1, "the second one waits")
    clock.advance(10_000)
    async with world.node(app) as node:
        for name in ("first", "second"):
            text = await node.client.get(name).result(timeout=30)
            assert "all attempts together took too long (10000 ms)" in text
    assert began == [1]


async def test_the_time_of_all_attempts_ends_the_wait_for_a_slot(
    world: World, app: App, gate: Gate
) -> None:
    clock = world.stop_time()
    stuck = define(app, gate, "async")

    @app.activity(total_timeout=10)
    async def late() -> None:
        raise AssertionError("it must not begin")

    @app.workflow
    async def calling() -> str:
        try:
            await late()
        except ActivityTimeout as error:
            return str(error)
        return ""

    async with world.node(app, activities=1) as node:
        await node.client.workflow(stuck, id="s").start()
        await until(lambda: gate.began == 1, "it began")
        handle = node.client.workflow(calling, id="c")
        await handle.start()
        await until(lambda: node.metrics.waiting == 1, "it waits")
        clock.advance(10_000)
        assert "all attempts together took too long" in await handle.result(timeout=30)
        gate.open()


async def test_details_of_a_heartbeat_have_a_limit_and_the_last_good_ones_stay(
    world: World, app: App
) -> None:
    @app.activity
    async def beating() -> None:
        activity.heartbeat("good")
        try:
            activity.heartbeat("x" * 2_000)
        except ValueError as error:
            assert activity.info().attempt == 1
            raise LookupError(str(error)) from None

    @app.workflow
    async def calling() -> str:
        try:
            await beating()
        except ActivityError as error:
            return error.failure.message
        return ""

    async with world.node(app, limits=Limits(payload_bytes=1_000)) as node:
        text = await node.client.workflow(calling, id="c").run()
    assert text == (
        "the details of a heartbeat of activity 'beating' have 2004 bytes; the limit is 1000 "
        "(Limits.payload_bytes): store them elsewhere and give a reference"
    )


async def test_results_of_two_lives_have_ids_of_their_own(world: World, app: App) -> None:
    """A result that waits in the inbox of a paused instance, and the next one, by the next node."""
    ran: list[str] = []
    gates = {"a": asyncio.Event(), "b": asyncio.Event()}

    @app.activity
    async def noted(name: str) -> str:
        await gates[name].wait()
        ran.append(name)
        return name

    @app.workflow
    async def both() -> list[str]:
        return await asyncio.gather(noted("a"), noted("b"))

    async def kept(node: Node, count: int) -> list[Message]:
        found: list[Message] = []

        async def stand_there() -> bool:
            nonlocal found
            found = (await node.store.query(Inbox(unit="i"))).items
            return len(found) == count

        await until(stand_there, f"{count} results in the inbox")
        return found

    ids: set[bytes] = set()
    for life, name in enumerate("ab", start=1):
        async with world.node(app) as node:
            handle = node.client.workflow(both, id="i")
            if life == 1:
                await handle.start()
                await handle.pause()
            gates[name].set()
            ids |= {message.id for message in await kept(node, life)}
    async with world.node(app) as node:
        await node.client.get("i").resume()
        assert await node.client.get("i").result(timeout=30) == ["a", "b"]
    assert (ran, len(ids)) == (["a", "b"], 2)


class Forgetful(MemoryStore):
    """Fails to read an inbox once."""

    fails = False

    async def query(self, query: Any) -> Any:
        if self.fails and isinstance(query, Inbox):
            self.fails = False
            raise StoreUnavailable("broken")
        return await super().query(query)

    async def inbox(self, unit: str, after: str | None, limit: int) -> Any:
        if self.fails:
            self.fails = False
            raise StoreUnavailable("once")
        return await super().inbox(unit, after, limit)


@pytest.mark.parametrize("kind", ["activity", "checkpoint"])
async def test_what_runs_already_does_not_begin_again_when_its_instance_is_loaded_again(
    app: App, kind: str
) -> None:
    began: list[str] = []
    gate = asyncio.Event()

    async def work() -> str:
        began.append(kind)
        await gate.wait()
        return "done"

    slow = app.activity(name="slow")(work)

    @app.workflow
    async def calling() -> str:
        return await (slow() if kind == "activity" else workflow.checkpoint("slow", work))

    async with Forgetful() as store, Node(app, store, options=NodeOptions(stop_ms=10)) as node:
        handle = node.client.workflow(calling, id="c")
        await handle.start()
        await until(lambda: began == [kind], "it began")
        await waits_for(handle, "activity slow" if kind == "activity" else "checkpoint slow")
        store.fails = True
        node._running().memory.read_inbox(
            "c"
        )  # somebody outside has posted, and the inbox cannot be read
        await until(lambda: not store.fails, "the read that fails")
        with contextlib.suppress(StoreUnavailable):
            await handle.send("any", 1)
        await handle.send("any", 2)
        gate.set()
        assert await handle.result(timeout=30) == "done"
    assert began == [kind]


async def test_a_thousand_that_have_no_time_left_free_their_slot(app: App) -> None:
    """A clock that was set forward leaves none of them any time before their alarms ring."""
    ahead_ns = 0
    clock = SystemClock(wall_ns=lambda: time.time_ns() + ahead_ns)
    began, gate = asyncio.Event(), asyncio.Event()

    @app.activity(total_timeout=60)
    async def work() -> str:
        began.set()
        await gate.wait()
        return "done"

    @app.workflow
    async def crowd() -> list[str]:
        calls = [work() for _ in range(1_000)]
        ends = await asyncio.gather(*calls, return_exceptions=True)
        return [end if isinstance(end, str) else type(end).__name__ for end in ends]

    async with Node(app, "memory://", clock=clock, options=NodeOptions(activities=1)) as node:
        handle = node.client.workflow(crowd, id="c")
        await handle.start()
        await began.wait()
        ahead_ns = 3_600_000_000_000
        gate.set()
        ends = await handle.result(timeout=PATIENCE_S)
        assert ends == ["done"] + ["ActivityTimeout"] * 999
