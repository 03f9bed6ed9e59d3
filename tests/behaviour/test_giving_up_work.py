"""Work that is given up: a lost race, a cancelled call, an ended parent; and what comes too late."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from engine import World, until, waits_for

from perdure import App, ChildError, workflow
from perdure.client.client import Client


async def there(client: Client, id: str) -> bool:
    """Whether it has been started."""
    return bool(await client.list(id_prefix=id))


async def ended_as(client: Client, id: str) -> str:
    """Wait until it is there and has ended: its status."""
    await until(lambda: there(client, id), f"{id!r} is there")
    return (await client.get(id).wait(timeout=30)).status


async def test_a_result_after_a_failure_adds_nothing(world: World, app: App) -> None:
    began, gate, finished = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @app.activity
    async def deaf() -> int:
        began.set()
        while not gate.is_set():
            with contextlib.suppress(asyncio.CancelledError):  # it is deaf on purpose
                await gate.wait()
        finished.set()
        return 1

    @app.workflow
    async def failing() -> None:
        deaf()  # perdure: ignore[PD303]
        await workflow.receive("go", bool)
        raise ValueError("failed first")

    @app.workflow
    async def later() -> None:
        await asyncio.sleep(0.001)

    async with world.node(app) as node:
        handle = node.client.workflow(failing, id="f")
        await handle.start()
        await asyncio.wait_for(began.wait(), 30)
        await handle.send("go", True)
        assert (await handle.wait(timeout=30)).status == "failed"
        before = await handle.history()
        gate.set()
        await asyncio.wait_for(finished.wait(), 30)
        await node.client.workflow(later, id="later").run()
        assert await handle.history() == before


async def test_a_call_that_is_cancelled_reaches_the_activity_at_once(
    world: World, app: App
) -> None:
    began, stopped = asyncio.Event(), asyncio.Event()

    @app.activity
    async def slow() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    @app.workflow
    async def choosy() -> str:
        call = asyncio.ensure_future(slow())
        await workflow.receive("drop it", bool)
        call.cancel()
        await workflow.receive("end", bool)
        return "done"

    async with world.node(app) as node:
        handle = node.client.workflow(choosy, id="c")
        await handle.start()
        await asyncio.wait_for(began.wait(), 30)
        await handle.send("drop it", True)
        await asyncio.wait_for(stopped.wait(), 30)
        assert await handle.status() == "running"
        await handle.send("end", True)
        assert await handle.result(timeout=30) == "done"


async def test_a_reference_that_goes_out_of_scope_cancels_nothing_until_the_end(
    world: World, app: App
) -> None:
    began, stopped = asyncio.Event(), asyncio.Event()

    @app.activity
    async def slow() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    def forget() -> None:
        call = slow()
        del call

    @app.workflow
    async def careless() -> str:
        forget()
        await workflow.receive("one", bool)
        workflow.set_status("one")
        await workflow.receive("two", bool)
        return "done"

    async with world.node(app) as node:
        handle = node.client.workflow(careless, id="c")
        await handle.start()
        await asyncio.wait_for(began.wait(), 30)
        await handle.send("one", True)
        await handle.custom_status(str, after_version=0, timeout=30)
        assert not stopped.is_set()
        await handle.send("two", True)
        assert await handle.result(timeout=30) == "done"
        await asyncio.wait_for(stopped.wait(), 30)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("how", ["lost race", "cancelled", "parent ended"])
async def test_a_child_that_is_given_up_is_cancelled(
    world: World, app: App, how: str, named: bool
) -> None:
    ids: list[str] = []

    @app.activity
    async def note(id: str) -> None:
        ids.append(id)

    @app.workflow
    async def child() -> None:
        await note(workflow.info().id)
        await workflow.receive("never", bool)

    @app.workflow
    async def parent() -> str:
        call = asyncio.ensure_future(workflow.child(child, id="named" if named else None)())
        if how == "lost race":
            await workflow.select(call, workflow.receive("go", bool))
        else:
            await workflow.receive("go", bool)
        if how == "cancelled":
            call.cancel()
        if how != "parent ended":
            await workflow.receive("end", bool)
        return "done"

    async with world.node(app) as node:
        handle = node.client.workflow(parent, id="p")
        await handle.start()
        await until(lambda: bool(ids), "the child runs")
        await handle.send("go", True)
        assert ids == ["named"] or not named
        assert await ended_as(node.client, ids[0]) == "cancelled"
        if how != "parent ended":
            assert await handle.status() == "running"
            await handle.send("end", True)
        assert await handle.result(timeout=30) == "done"


async def test_a_child_that_was_given_up_and_cancelled_by_hand_is_cancelled_once(
    world: World, app: App
) -> None:
    cleaned: list[str] = []

    @app.activity
    async def note(text: str) -> None:
        cleaned.append(text)

    @app.workflow
    async def child() -> None:
        try:
            await workflow.receive("never", bool)
        except asyncio.CancelledError:
            await note("cleaned up")
            raise

    @app.workflow
    async def parent() -> str:
        call = asyncio.ensure_future(workflow.child(child, id="c")())
        await workflow.receive("go", bool)
        call.cancel()
        workflow.cancel("c", "also by hand")
        try:
            await call
        except asyncio.CancelledError:
            return "given up"
        except ChildError:
            return "told"
        return ""

    async with world.node(app) as node:
        handle = node.client.workflow(parent, id="p")
        await handle.start()
        await until(lambda: there(node.client, "c"), "the child")
        await handle.send("go", True)
        await node.client.get("c").cancel("and once more")
        assert await handle.result(timeout=30) == "given up"
        assert await ended_as(node.client, "c") == "cancelled"
        requests = [
            e
            for e in await node.client.get("c").history()
            if type(e.event).__name__ == "CancelRequested"
        ]
        assert len(requests) == 1
    assert cleaned == ["cleaned up"]


async def test_a_wait_that_lost_a_race_is_recorded_as_given_up_and_takes_no_event(
    world: World, app: App
) -> None:
    @app.workflow
    async def racing() -> list[str]:
        first = await workflow.select(workflow.wait_event("news", str), workflow.receive("go", str))
        second = await workflow.wait_event("news", str)
        return [first[1], second]

    async with world.node(app) as node:
        handle = node.client.workflow(racing, id="r")
        await handle.start()
        await waits_for(handle, "event news")
        await handle.send("go", "message")
        await handle.raise_event("news", "for the second wait")
        assert await handle.result(timeout=30) == ["message", "for the second wait"]
        kinds = [type(e.event).__name__ for e in await handle.history()]
        assert kinds.count("CommandCancelled") == 1
