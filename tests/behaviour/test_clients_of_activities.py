"""An activity has a client of its node: it starts, asks and reads other instances."""

from __future__ import annotations

import pytest
from engine import PATIENCE_S, World, waits_for

from perdure import App, activity, workflow
from perdure.errors import UsageError


async def test_an_activity_starts_and_reads_another_instance(world: World, app: App) -> None:
    @app.workflow
    async def helper(n: int) -> int:
        return n + 1

    @app.activity
    async def ask(n: int) -> int:
        return await activity.client().workflow(helper, id=f"helper-{n}").run(n)

    async def body() -> int:
        return await ask(41)

    assert await world.replayed(app, body) == 42


async def test_an_activity_sends_to_the_instance_that_called_it(world: World, app: App) -> None:
    @app.activity
    async def send_back(value: str) -> None:
        await activity.client().get(activity.info().instance).send("echo", value)

    async def body() -> str:
        await send_back("hello")
        return await workflow.receive("echo", str)

    assert await world.replayed(app, body) == "hello"


async def test_a_checkpoint_has_it_as_well(world: World, app: App) -> None:
    async def count() -> int:
        return len(await activity.client().list())

    async def body() -> int:
        return await workflow.checkpoint("count", count)

    assert await world.replayed(app, body) == 1


async def test_on_a_thread_it_is_refused_with_the_remedy(world: World, app: App) -> None:
    @app.activity
    def threaded() -> str:
        try:
            activity.client()
        except UsageError as error:
            return str(error)
        return ""

    async def body() -> str:
        return await threaded()

    assert "`async def`" in await world.replayed(app, body)


def test_outside_of_an_activity_it_is_refused() -> None:
    with pytest.raises(UsageError, match="none is running"):
        activity.client()


async def test_workflow_code_does_not_get_it(world: World, app: App) -> None:
    async def body() -> str:
        try:
            activity.client()
        except UsageError as error:
            return str(error)
        return ""

    assert "inside an activity" in await world.replayed(app, body)


async def test_the_client_is_that_of_the_node_that_runs_it(world: World, app: App) -> None:
    """A node that is started where another one already runs activities keeps its own."""
    inner = App("inner")

    @inner.activity
    async def count() -> int:
        return len(await activity.client().list())

    @inner.workflow
    async def counting() -> int:
        return await count()

    @app.activity
    async def nested() -> int:
        async with inner.node("memory://") as node:
            return await node.client.workflow(counting, id="only").run()

    @app.workflow
    async def other() -> None:
        await workflow.receive("never", bool)

    @app.workflow
    async def outer() -> int:
        return await nested()

    async with world.node(app) as node:
        for i in range(3):
            await node.client.workflow(other, id=f"o{i}").start()
        assert await node.client.workflow(outer, id="outer").run() == 1


async def test_the_info_of_an_attempt_names_its_queue_and_session(world: World, app: App) -> None:
    @app.activity(queue="gpu")
    async def where() -> list[str | None]:
        return [activity.info().queue, activity.info().session]

    async def body() -> list[list[str | None]]:
        return [await where(), await where.with_options(queue="cpu", session="s-1")()]

    assert await world.replayed(app, body) == [["gpu", None], ["cpu", "s-1"]]


async def test_another_instances_kv_is_read_and_recorded(world: World, app: App) -> None:
    @app.workflow
    async def settings() -> None:
        workflow.kv.set("rate", 1.5)
        await workflow.receive("change", bool)
        workflow.kv.set("rate", 2.5)
        await workflow.receive("never", bool)

    @app.workflow
    async def reader() -> list[float | None]:
        kv = workflow.kv_of("settings")
        seen = [await kv.get("rate", float)]
        await workflow.receive("again", bool)
        seen.append(await kv.get("rate", float))
        await workflow.receive("end", bool)
        return seen

    async with world.node(app) as node:
        source = node.client.workflow(settings, id="settings")
        await source.start()
        handle = node.client.workflow(reader, id="reader")
        await handle.start()
        await waits_for(handle, "message again")
        await source.send("change", True)
        await waits_for(source, "message never")
        await handle.send("again", True)
        await waits_for(handle, "message end")
    async with world.node(app) as node:
        handle = node.client.workflow(reader, id="reader")
        await handle.send("end", True)
        assert await handle.result(timeout=PATIENCE_S) == [1.5, 2.5]
