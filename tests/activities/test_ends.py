"""However a function of the app ends, its workflow learns of it, the node goes on, and no limit is passed over."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine import World, until, waits_for

from perdure import App, RetryPolicy, activity, workflow
from perdure.errors import ActivityError, ActivityTimeout, ApplicationError
from perdure.kernel.data.message import ActivityDone
from perdure.ports.store import Inbox


class Unprintable(Exception):
    """Cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def _raise(error: BaseException) -> Any:
    raise error


ENDS: dict[str, Callable[[], Any]] = {
    "an error": lambda: _raise(ValueError("bad")),
    "a cancellation": lambda: _raise(asyncio.CancelledError("mine")),
    "an exit": lambda: sys.exit(3),
    "a closed generator": lambda: _raise(GeneratorExit()),
    "an error without text": lambda: _raise(Unprintable()),
    "a result that is no data": object,
    "a result that is too large": lambda: "x" * 5_000_000,
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    "form", ["async activity", "def activity", "async checkpoint", "def checkpoint"]
)
async def test_a_workflow_learns_how_its_function_ended(
    world: World, app: App, form: str, end: str
) -> None:
    @app.activity
    async def coroutine() -> Any:
        return ENDS[end]()

    @app.activity
    def function() -> Any:
        return ENDS[end]()

    async def step() -> Any:
        return ENDS[end]()

    @app.workflow(guard="off")
    async def calls() -> str:
        try:
            if form == "async activity":
                await coroutine()
            elif form == "def activity":
                await function()
            else:
                await workflow.checkpoint("step", step if form == "async checkpoint" else ENDS[end])
        except Exception as error:
            return type(error).__name__
        return "no error"

    @app.workflow
    async def nothing() -> str:
        return "the node goes on"

    async with world.node(app) as node:
        error = await node.client.workflow(calls, id="c").run()
        assert error in ("ActivityError", "ApplicationError", "PayloadTooLarge", "EncodeError"), (
            error
        )
        assert await node.client.workflow(nothing, id="n").run() == "the node goes on"
        sizes = [chunk.event for chunk in await node.client.get("c").history()]
        assert len(repr(sizes)) < 1_000_000, "nothing of the large result stands in the journal"


async def test_details_of_heartbeats_and_failures_have_the_limit_of_payloads(
    world: World, app: App
) -> None:
    refused: list[str] = []

    @app.activity
    async def beats() -> None:
        try:
            activity.heartbeat("y" * 5_000_000)
        except ValueError as error:
            refused.append(str(error))
        raise ApplicationError("broken", details="z" * 5_000_000)

    @app.workflow
    async def calls() -> str:
        try:
            await beats()
        except ActivityError as error:
            return error.failure.message
        return "no error"

    async with world.node(app) as node:
        assert "broken" in await node.client.workflow(calls, id="c").run()
        assert "payload_bytes" in refused[0], "the error names the limit"
        assert len(repr([e.event for e in await node.client.get("c").history()])) < 1_000_000


async def test_the_nodes_client_works_until_the_last_activity_has_ended(
    world: World, app: App
) -> None:
    go = asyncio.Event()
    running = asyncio.Event()

    @app.workflow
    async def other() -> str:
        return "started within the grace"

    @app.activity
    async def starts() -> str:
        running.set()
        await go.wait()
        await activity.client().workflow(other, id="o").start()
        return "ok"

    @app.workflow
    async def calls() -> str:
        return await starts()

    node = world.node(app)
    await node.start()
    await node.client.workflow(calls, id="c").start()
    await running.wait()
    stopping = asyncio.ensure_future(node.stop(5))
    await asyncio.sleep(0)
    go.set()
    await asyncio.wait_for(stopping, 30)
    async with world.node(app) as node:
        assert await node.client.workflow(calls, id="c").result(timeout=30) == "ok"
        assert (
            await node.client.workflow(other, id="o").result(timeout=30)
            == "started within the grace"
        )


async def test_a_function_that_waits_for_a_thread_is_not_late_yet(world: World, app: App) -> None:
    """Its timeout counts from when it begins. Before that it has not run."""
    release = threading.Event()
    ran: list[str] = []

    @app.activity
    def holds() -> None:
        release.wait(60)

    @app.activity(timeout=0.2)
    def quick() -> str:
        ran.append("quick")
        return "ran"

    @app.workflow
    async def hold() -> None:
        await holds()

    @app.workflow
    async def wait() -> str:
        return await quick()

    clock = world.stop_time()
    async with world.node(app, threads=1) as node:
        await node.client.workflow(hold, id="h").start()
        await until(lambda: node.metrics.running == 1, "the thread is taken")
        handle = node.client.workflow(wait, id="w")
        await handle.start()
        await waits_for(handle, "activity quick")
        clock.advance(10_000)
        assert ran == []
        release.set()
        assert await handle.result(timeout=30) == "ran"


async def test_no_attempt_begins_after_the_time_of_all_attempts(world: World, app: App) -> None:
    began: list[int] = []

    @app.activity(total_timeout=10, retry=RetryPolicy(maximum_attempts=5))
    async def hangs() -> None:
        began.append(activity.info().attempt)
        await asyncio.Event().wait()

    @app.workflow
    async def calls() -> str:
        try:
            await hangs()
        except ActivityTimeout:
            return "timed out"
        return "?"

    clock = world.stop_time()
    async with world.node(app) as node:
        await node.client.workflow(calls, id="c").start()
        await until(lambda: began == [1], "it runs")
    clock.advance(11_000)
    async with world.node(app) as node:
        assert await node.client.workflow(calls, id="c").result(timeout=30) == "timed out"
    assert began == [1]


async def test_an_activity_that_refuses_to_end_gives_its_slot_back(world: World, app: App) -> None:
    release = asyncio.Event()

    @app.activity
    async def rude() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    @app.activity
    async def polite() -> str:
        return "ran"

    @app.workflow
    async def first() -> None:
        await rude()

    @app.workflow
    async def second() -> str:
        return await polite()

    clock = world.stop_time()
    async with world.node(app, activities=1, grace_ms=100) as node:
        handle = node.client.workflow(first, id="f")
        await handle.start()
        await until(lambda: node.metrics.running == 1, "it runs")
        await handle.cancel("enough")
        waiting = node.client.workflow(second, id="s")
        await waiting.start()
        clock.advance(1_000)
        assert await waiting.result(timeout=30) == "ran"
        release.set()


async def test_results_of_two_lives_have_two_ids(tmp_path: Path, app: App) -> None:
    """The first life's result waits in the inbox of a paused instance. The second life's must not be taken for it."""
    gates: dict[str, asyncio.Event] = {}
    ran: list[str] = []

    @app.activity
    async def work(name: str) -> str:
        ran.append(name)
        await gates[name].wait()
        return name

    @app.workflow
    async def both() -> list[str]:
        return await asyncio.gather(work("a"), work("b"))

    world = World(f"sqlite:///{tmp_path}/x.db")
    gates.update(a=asyncio.Event(), b=asyncio.Event())
    async with world.node(app) as node:
        handle = node.client.workflow(both, id="w")
        await handle.start()
        await until(lambda: len(ran) == 2, "both run")
        await handle.pause("hold on")
        gates["a"].set()
        await until(lambda: _results(node, 1), "the first result is kept")
    gates.update(b=asyncio.Event())
    async with world.node(app) as node:
        handle = node.client.workflow(both, id="w")
        await until(lambda: len(ran) == 3, "the other one runs again")
        gates["b"].set()
        await until(lambda: _results(node, 2), "the second result is kept beside the first")
        await handle.resume()
        assert await handle.result(timeout=30) == ["a", "b"]
    assert ran == ["a", "b", "b"]


async def _results(node: Any, count: int) -> bool:
    inbox = (await node.store.query(Inbox(unit="w"))).items
    return sum(isinstance(message.body, ActivityDone) for message in inbox) == count
