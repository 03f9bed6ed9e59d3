"""Bulk deletes and prunes take what fits all filters, skip what must stay with the reason, and stop at their limit."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from engine import World, until

from perdure import App, Client, Limits, workflow
from perdure.errors import UsageError
from perdure.kernel.data.message import Message, Prune


@pytest.fixture
def count(app: App) -> Any:
    @app.workflow
    async def count(n: int, to: int) -> int:
        if n < to:
            workflow.continue_as_new(count, n + 1, to)
        return n

    return count


@pytest.fixture
def wait(app: App) -> Any:
    @app.workflow
    async def wait() -> str:
        return await workflow.receive("go", str)

    return wait


def at(clock: Any) -> datetime:
    return datetime.fromtimestamp(clock.now_ms() / 1000, UTC)


async def test_only_what_fits_all_filters_goes(
    world: World, app: App, count: Any, wait: Any
) -> None:
    clock = world.stop_time()
    async with world.node(app) as node:
        client = node.client
        for name in ("a-1", "a-2", "b-1"):
            await client.workflow(count, id=name).run(1, 1)
        await client.workflow(wait, id="a-3").start()
        clock.advance(1_000)
        cut = at(clock)
        clock.advance(1_000)
        await client.workflow(count, id="a-4").run(1, 1)
        removed = await client.delete(id_prefix="a-", closed_before=cut)
        assert (sorted(removed.deleted), removed.instances, removed.more) == (
            ["a-1", "a-2"],
            2,
            False,
        )
        removed = await client.delete(id_prefix="a-")
        assert removed.deleted == ["a-4"]
        assert list(removed.skipped) == ["a-3"]
        assert "is running" in removed.skipped["a-3"]
        removed = await client.delete(["a-3", "gone"], force=True)
        assert removed.deleted == ["a-3"]
        assert list(removed.skipped) == ["gone"]
        assert [d.id for d in await client.list()] == ["b-1"]


async def test_the_limit_is_kept(world: World, app: App, count: Any) -> None:
    async with world.node(app) as node:
        for i in range(5):
            await node.client.workflow(count, id=f"c-{i}").run(1, 1)
        removed = await node.client.delete(type="count", limit=2)
        assert (len(removed.deleted), removed.more) == (2, True)
        assert len(await node.client.list()) == 3


async def test_filters_choose_roots_and_children_go_with_them(
    world: World, app: App, count: Any
) -> None:
    @app.workflow
    async def parent() -> list[int]:
        return [
            await workflow.child(count, id=f"child-{i}-{workflow.info().id}")(1, 1)
            for i in range(3)
        ]

    async with world.node(app) as node:
        client = node.client
        for i in range(3):
            await client.workflow(parent, id=f"parent-{i}").run()
        removed = await client.delete(status="completed", limit=2)
        assert (removed.instances, removed.skipped, removed.more) == (8, {}, True)
        assert sorted(removed.deleted) == ["parent-1", "parent-2"]
        removed = await client.delete(["child-0-parent-0"])
        assert "is a child of 'parent-0'" in removed.skipped["child-0-parent-0"]
        assert (await client.delete(type="parent")).instances == 4
        assert await client.list() == []


async def test_ended_executions_go_and_the_current_one_stays(
    world: World, app: App, count: Any
) -> None:
    async with world.node(app) as node:
        handle = node.client.workflow(count, id="c")
        await handle.run(1, 6)
        assert await handle.executions() == [1, 2, 3, 4, 5, 6]
        assert await handle.prune(keep_last=3) == [1, 2, 3]
        assert await handle.executions() == [4, 5, 6]
        assert await handle.history(2) == []
        assert await handle.prune(keep_last=0) == [4, 5]
        assert await handle.executions() == [6]
        assert await handle.result() == 6
        assert await handle.prune(keep_last=1) == []


async def test_prunes_that_one_turn_takes_together_all_count(
    world: World, app: App, count: Any
) -> None:
    async with world.node(app) as node:
        handle = node.client.workflow(count, id="c")
        await handle.run(1, 6)
        asked = [Message(bytes([n]) * 16, "c", Prune([n]), 0) for n in (1, 2, 4)]
        assert await asyncio.gather(*map(node.gateway.send, asked)) == ["ok"] * 3
        assert await handle.executions() == [3, 5, 6]


async def test_age_and_number_must_both_let_an_execution_go(world: World, app: App) -> None:
    clock = world.stop_time()

    @app.workflow
    async def loop(n: int) -> None:
        await workflow.sleep(10)
        workflow.continue_as_new(loop, n + 1)

    async with world.node(app) as node:
        handle = node.client.workflow(loop, id="loop")
        await handle.start(1)
        for n in range(2, 6):
            await clock.until_armed(10_000)
            clock.advance(10_000)
            await until(lambda n=n: is_at(handle, n), f"execution {n}")  # type: ignore[misc]
        third_ended = datetime.fromtimestamp((clock.now_ms() - 10_000) / 1000, UTC)
        assert await handle.prune(keep_last=10, closed_before=third_ended) == []
        assert await handle.prune(keep_last=2, closed_before=third_ended) == [1, 2]
        pruned = await node.client.prune(keep_last=1)
        assert pruned.executions == {"loop": [3, 4]}
        assert await handle.executions() == [5]
        assert (await handle.describe()).status == "running"


async def test_an_option_keeps_the_last_executions_only(world: World, app: App, count: Any) -> None:
    async with world.node(app, limits=Limits(executions_kept=2)) as node:
        handle = node.client.workflow(count, id="c")
        await handle.run(1, 6)
        assert await handle.executions() == [4, 5, 6]


async def test_what_cannot_be_meant_is_refused(world: World, app: App) -> None:
    async with world.node(app) as node:
        client: Client = node.client
        wrong: list[tuple[Any, str]] = [
            (lambda: client.delete(), "say what goes"),
            (lambda: client.delete("order-1"), r"give \['order-1'\]"),
            (
                lambda: client.delete(type="a", limit=0),
                "limit must be a whole number of at least 1, got 0",
            ),
            (lambda: client.delete(status="done"), "'done' is not a status"),
            (
                lambda: client.delete(closed_before="monday"),
                "closed_before must be a datetime, got",
            ),
            (lambda: client.prune(), "say which executions go"),
            (lambda: client.prune(keep_last=-1), "keep_last must be a whole number, got -1"),
            (lambda: client.delete(["a\nb"]), "control character"),
        ]
        for call, text in wrong:
            with pytest.raises(UsageError, match=text):
                await call()


async def is_at(handle: Any, execution: int) -> bool:
    found: int = (await handle.describe()).execution
    return found == execution
