"""Instances are listed newest first with filters, described, and their histories read in pages."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from engine import World, waits_for

from perdure import App, NotFound, Timeout, workflow


def definitions(app: App) -> Any:
    """Three kinds of workflows."""

    @app.workflow
    async def done(i: int) -> int:
        return i

    @app.workflow(version=2)
    async def waiting(i: int) -> int:
        return await workflow.receive("n", int)

    @app.workflow
    async def failing() -> None:
        raise ValueError("oh")

    return done, waiting, failing


async def test_the_newest_comes_first_and_filters_combine(world: World, app: App) -> None:
    clock = world.stop_time()
    done, waiting, failing = definitions(app)
    async with world.node(app) as node:
        client = node.client
        for i in range(3):
            await client.workflow(done, id=f"done-{i}").run(i)
            clock.advance(1_000)
        middle = datetime.fromtimestamp(clock.now_ms() / 1000, UTC)
        clock.advance(1_000)
        for i in range(2):
            await client.workflow(waiting, id=f"waiting-{i}").start(i)
            clock.advance(1_000)
        await client.workflow(failing, id="failing").start()

        async def ids(**filters: Any) -> list[str]:
            return [d.id for d in await client.list(**filters)]

        assert await ids() == ["failing", "waiting-1", "waiting-0", "done-2", "done-1", "done-0"]
        assert await ids(limit=2) == ["failing", "waiting-1"]
        assert await ids(status="running") == ["waiting-1", "waiting-0"]
        assert await ids(status=("failed", "completed"), id_prefix="f") == ["failing"]
        assert await ids(type="done") == ["done-2", "done-1", "done-0"]
        assert await ids(type="waiting", version="2") == ["waiting-1", "waiting-0"]
        assert await ids(type="waiting", version="1") == []
        assert await ids(id_prefix="done-") == ["done-2", "done-1", "done-0"]
        assert await ids(created_before=middle, type="done") == ["done-2", "done-1", "done-0"]
        assert await ids(created_after=middle, status="running") == ["waiting-1", "waiting-0"]
        counts = await client.counts()
        assert (counts["completed"], counts["running"], counts["failed"]) == (3, 2, 1)


async def test_more_than_a_page(world: World, app: App) -> None:
    done, _, _ = definitions(app)
    async with world.node(app) as node:
        for i in range(520):
            await node.client.workflow(done, id=f"d{i:03}").start(i)
        assert len(await node.client.list()) == 100
        everything = await node.client.list(limit=None)
        assert len({d.id for d in everything}) == 520
        assert [d.id for d in await node.client.list(limit=510)] == [d.id for d in everything][:510]


async def test_a_description(world: World, app: App) -> None:
    clock = world.stop_time()
    _, waiting, failing = definitions(app)
    async with world.node(app) as node:
        began = datetime.fromtimestamp(clock.now_ms() / 1000, UTC)
        handle = node.client.workflow(waiting, id="w")
        await handle.start(1)
        description = await handle.describe()
        assert (description.id, description.type, description.version) == ("w", "waiting", "2.0.0")
        assert (description.status, description.reason, description.execution) == (
            "running",
            "message n",
            1,
        )
        assert (description.created_at, description.started_at, description.closed_at) == (
            began,
            began,
            None,
        )
        assert description.history_events == len(await handle.history())
        assert description.result() is None
        clock.advance(5_000)
        await handle.send("n", 7)
        ended = await handle.wait(timeout=30)
        assert ended.closed_at is not None
        assert (ended.closed_at - began).total_seconds() == 5
        assert (ended.status, ended.reason, ended.result(), ended.failure) == (
            "completed",
            None,
            7,
            None,
        )
        failed = node.client.workflow(failing, id="f")
        await failed.start()
        failure = (await failed.wait(timeout=30)).failure
        assert failure is not None
        assert failure.display() == "ValueError: oh"


async def test_an_unknown_id_is_an_error_everywhere(world: World, app: App) -> None:
    async with world.node(app) as node:
        handle = node.client.get("nobody")
        for call in (
            handle.describe,
            handle.status,
            handle.result,
            handle.wait,
            handle.history,
            handle.executions,
        ):
            with pytest.raises(NotFound, match="nobody"):
                await call()
        with pytest.raises(NotFound, match="nobody"):
            await handle.custom_status(str)


async def test_a_wait_that_is_too_short_says_what_it_waits_for(world: World, app: App) -> None:
    _, waiting, _ = definitions(app)
    async with world.node(app) as node:
        handle = node.client.workflow(waiting, id="w")
        await handle.start(1)
        await waits_for(handle, "message n")
        with pytest.raises(
            Timeout, match=r"'w' has not ended within 0\.01 s; it is running \(message n\)"
        ):
            await handle.result(timeout=0.01)
        with pytest.raises(TimeoutError):
            await handle.wait(timeout=0)
        await handle.send("n", 1)
        assert await handle.result(timeout=5) == 1


async def test_a_history_in_order_and_of_one_execution(world: World, app: App) -> None:
    @app.workflow
    async def long(i: int) -> int:
        for n in range(300):
            workflow.kv.set("n", n)
            if n % 100 == 0:
                await workflow.sleep(0.001)
        if i == 0:
            workflow.continue_as_new(long, 1)
        return i

    async with world.node(app) as node:
        handle = node.client.workflow(long, id="l")
        await handle.run(0)
        for execution in (1, 2):
            events = await handle.history(execution)
            assert [e.number for e in events] == list(range(1, len(events) + 1))
            assert {e.execution for e in events} == {execution}
            assert len(events) == 300 + 1 + 6 + 1
        assert await handle.history(3) == []
        assert [e.number async for e in handle.iterate_history(1)] == [
            e.number for e in await handle.history(1)
        ]


async def test_pages_join_up(world: World, app: App) -> None:
    done, _, _ = definitions(app)
    async with world.node(app) as node:
        for i in range(5):
            await node.client.workflow(done, id=f"done-{i}").run(i)
        seen: list[str] = []
        after = None
        for _ in range(3):
            page = await node.client.page(type="done", size=2, after=after)
            seen += [d.id for d in page.items]
            after = page.next
        assert after is None
        assert sorted(seen) == [f"done-{i}" for i in range(5)]
