"""The id is the idempotency key; `if_exists` says what a second start does."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import Any

import pytest
from engine import World, waits_for

from perdure import AlreadyStarted, App, WorkflowFailed, workflow
from perdure.errors import UsageError


def definitions(app: App) -> tuple[Any, Any, list[int]]:
    """A workflow that runs until it is told, another one, and what ran."""
    ran: list[int] = []

    @app.activity
    async def note(i: int) -> int:
        ran.append(i)
        return i

    @app.workflow
    async def work(i: int) -> int:
        return await note(i) + await workflow.receive("go", int)

    @app.workflow
    async def other(i: int) -> int:
        return i

    return work, other, ran


async def test_join_takes_the_one_that_is_there(world: World, app: App) -> None:
    work, _, ran = definitions(app)
    async with world.node(app) as node:
        handle = node.client.workflow(work, id="w")
        await handle.start(1)
        await handle.start(1)
        second = asyncio.create_task(node.client.workflow(work, id="w").run(1))
        await waits_for(handle, "message go")
        await handle.send("go", 10)
        assert await second == 11
        assert await handle.run(1) == 11, "the result of one that has ended is given again"
    async with world.node(app) as node:
        assert await node.client.workflow(work, id="w").run(1) == 11
        assert await node.client.get("w").executions() == [1]
    assert ran == [1]


async def test_many_starts_at_once_are_one(world: World, app: App) -> None:
    work, _, ran = definitions(app)
    async with world.node(app) as node:
        handles = [node.client.workflow(work, id="w") for _ in range(20)]
        runs = [asyncio.create_task(h.run(1)) for h in handles]
        await asyncio.gather(*(h.start(1) for h in handles))
        await handles[0].send("go", 1)
        assert await asyncio.wait_for(asyncio.gather(*runs), 30) == [2] * 20
    assert ran == [1]


@pytest.mark.parametrize("ended", [False, True])
async def test_another_type_or_input_does_not_join(world: World, app: App, ended: bool) -> None:
    work, other, ran = definitions(app)
    async with world.node(app) as node:
        handle = node.client.workflow(work, id="w")
        await handle.start(1)
        if ended:
            await handle.send("go", 1)
            await handle.result(timeout=30)
        for wrong, argument in ((work, 2), (other, 1)):
            with pytest.raises(AlreadyStarted, match="'w' is taken"):
                await node.client.workflow(wrong, id="w").start(argument)
            with pytest.raises(AlreadyStarted, match="'w' is taken"):
                await node.client.workflow(wrong, id="w").run(argument)
        if not ended:
            await handle.send("go", 1)
        assert await handle.result(timeout=30) == 2
    assert ran == [1]


async def test_reject_never_joins(world: World, app: App) -> None:
    work, _, _ = definitions(app)
    async with world.node(app) as node:
        first = node.client.workflow(work, id="w", if_exists="reject")
        await first.start(1)
        with pytest.raises(AlreadyStarted, match="reject"):
            await node.client.workflow(work, id="w", if_exists="reject").start(1)
        await first.send("go", 1)
        await first.result(timeout=30)
        with pytest.raises(AlreadyStarted, match="reject"):
            await node.client.workflow(work, id="w", if_exists="reject").run(1)


async def test_replace_ends_the_one_that_runs_and_starts_anew(world: World, app: App) -> None:
    work, other, ran = definitions(app)
    stopped = asyncio.Event()

    @app.activity
    async def slow() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            stopped.set()

    @app.workflow
    async def busy() -> None:
        workflow.kv.set("old", 1)
        workflow.set_status("old")
        await slow()

    async with world.node(app) as node:
        old = node.client.workflow(busy, id="w")
        await old.start()
        await old.send("go", 100)
        await waits_for(old, "activity slow")
        new = node.client.workflow(work, id="w", if_exists="replace")
        await new.start(1)
        await asyncio.wait_for(stopped.wait(), 30)
        await waits_for(new, "message go")
        await new.send("go", 1)
        assert await new.result(timeout=30) == 2, "the message for the old one is gone"
        description = await new.describe()
        assert (description.type, description.execution) == ("work", 2)
        assert await new.executions() == [2], (
            "the number goes on, the replaced one's history is gone"
        )
        assert type((await new.history())[-1].event).__name__ == "Completed"
        assert await new.kv() == {}
        assert description.custom_status() is None
        replaced = node.client.workflow(other, id="w", if_exists="replace")
        assert await replaced.run(7) == 7
        assert await replaced.executions() == [3]
    assert ran == [1]


async def test_no_line_of_a_replaced_one_runs(world: World, app: App) -> None:
    ran: list[str] = []

    @app.workflow
    async def careful(name: str) -> str:
        try:
            return await workflow.receive("go", str)
        except BaseException as error:
            ran.append(f"{name}: {type(error).__name__}")
            raise
        finally:
            ran.append(f"{name} cleaned up")

    async with world.node(app) as node:
        await node.client.workflow(careful, id="w").start("old")
        await waits_for(node.client.get("w"), "message go")
        new = node.client.workflow(careful, id="w", if_exists="replace")
        await new.start("new")
        gc.collect()
        assert ran == [], "its end is not its cleanup: that would act for a run that is over"
        await new.send("go", "here")
        assert await new.result(timeout=30) == "here"
    assert ran == ["new cleaned up"]


async def test_a_replaced_ones_late_results_do_not_reach_the_new_one(
    world: World, app: App
) -> None:
    gate, began = asyncio.Event(), asyncio.Event()
    calls: list[int] = []

    @app.activity
    async def deaf() -> int:
        calls.append(1)
        number = len(calls)
        began.set()
        while not gate.is_set():
            with contextlib.suppress(asyncio.CancelledError):  # it is deaf on purpose
                await gate.wait()
        return number

    @app.workflow
    async def work() -> int:
        return await deaf()

    async with world.node(app) as node:
        await node.client.workflow(work, id="w").start()
        await asyncio.wait_for(began.wait(), 30)
        began.clear()
        handle = node.client.workflow(work, id="w", if_exists="replace")
        await handle.start()
        await asyncio.wait_for(began.wait(), 30)
        gate.set()
        assert await handle.result(timeout=30) == 2


async def test_one_that_ends_in_the_turn_that_replaces_it_keeps_its_outcome(
    world: World, app: App, caplog: pytest.LogCaptureFixture
) -> None:
    @app.workflow
    async def box() -> list[str]:
        return [await workflow.receive("post", str) for _ in range(4)]

    @app.workflow
    async def once(text: str) -> str:
        if text == "told":
            text = await workflow.receive("go", str)
        workflow.logger.info("%s ends", text)
        workflow.send("box", "post", text)
        return text

    caplog.set_level("INFO", "perdure.workflow")
    async with world.node(app) as node:
        filled = asyncio.create_task(node.client.workflow(box, id="box").run())
        handle = node.client.workflow(once, id="x", if_exists="replace")
        await handle.start("told")
        await waits_for(handle, "message go")
        runs = [asyncio.create_task(node.client.get("x").result())]
        telling = asyncio.create_task(node.client.get("x").send("go", "first"))
        runs += [asyncio.create_task(handle.run(text)) for text in ("second", "third", "last")]
        results = await asyncio.wait_for(asyncio.gather(*runs), 30)
        await telling
        assert results == ["first", "second", "third", "last"]
        assert await asyncio.wait_for(filled, 30) == results
    assert [r.getMessage() for r in caplog.records if r.name == "perdure.workflow"] == [
        f"{text} ends" for text in results
    ]


async def test_a_start_by_name_needs_no_code_at_the_client(world: World, app: App) -> None:
    _, _, _ = definitions(app)

    @app.workflow(name="shop.order")
    async def order(name: str, cents: int = 5) -> list[Any]:
        return [name, cents]

    async with world.node(app) as node:
        assert await node.client.workflow("shop.order", id="a").run("x") == ["x", 5]
        assert await node.client.workflow("shop.order", id="b").run("x", 7) == ["x", 7]
        with pytest.raises(UsageError, match="positional"):
            await node.client.workflow("shop.order", id="c").run("x", cents=7)
        with pytest.raises(WorkflowFailed, match=r"shop\.order"):
            await node.client.workflow("shop.order", id="d").run(["wrong"])
        description = await node.client.get("a").describe()
        assert description.type == "shop.order"


async def test_a_handle_by_id_gives_plain_data(world: World, app: App) -> None:
    from dataclasses import dataclass

    @app.workflow
    async def work() -> dict[str, list[int]]:
        return {"a": [1]}

    assert dataclass is not None
    async with world.node(app) as node:
        await node.client.workflow(work, id="w").run()
        assert await node.client.get("w").result() == {"a": [1]}


async def test_wrong_options_of_a_start_are_refused(world: World, app: App) -> None:
    work, _, _ = definitions(app)
    async with world.node(app) as node:
        with pytest.raises(UsageError, match="if_exists"):
            node.client.workflow(work, id="w", if_exists="overwrite")  # type: ignore[call-overload]
        with pytest.raises(UsageError, match="delay"):
            node.client.workflow(work, id="w", delay=-1)
        with pytest.raises(UsageError, match="needs a workflow or its name"):
            node.client.workflow(definitions, id="w")  # type: ignore[call-overload]
        for wrong in ("", "x" * 513, "a\nb", "a\x00b"):
            with pytest.raises(UsageError):
                node.client.workflow(work, id=wrong)
