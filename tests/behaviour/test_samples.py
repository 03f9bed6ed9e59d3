"""Small whole programs, as users write them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from engine import PATIENCE_S, World, waits_for

from perdure import App, NotFound, Timeout, WorkflowFailed, workflow
from perdure.errors import DecodeError, PayloadError


async def test_polling_the_status_until_the_end(world: World, app: App) -> None:
    """A client may ask for the status now and then; waiting without asking is `result`."""

    @app.workflow
    async def steps() -> str:
        for i in range(3):
            await workflow.receive("go", bool)
            workflow.set_status(f"step {i}")
        return "done"

    async with world.node(app) as node:
        handle = node.client.workflow(steps, id="s")
        with pytest.raises(NotFound):
            await handle.status()
        await handle.start()
        seen: list[str] = []
        version = 0
        while await handle.status() == "running":
            await handle.send("go", True)
            text, version = await handle.custom_status(
                str, after_version=version, timeout=PATIENCE_S
            )
            seen.append(str(text))
        assert seen == ["step 0", "step 1", "step 2"]
        assert await handle.status() == "completed"
        assert await handle.result() == "done"


async def test_each_end_has_its_status(world: World, app: App) -> None:
    @app.workflow
    async def ending(how: str) -> str:
        if how == "continued":
            workflow.continue_as_new(ending, "completed")
        if how == "failed":
            raise ValueError(how)
        if how in ("cancelled", "terminated", "running"):
            await workflow.receive("never", bool)
        return how

    async with world.node(app) as node:
        handles = {
            how: node.client.workflow(ending, id=how)
            for how in ("completed", "continued", "failed", "cancelled", "terminated", "running")
        }
        for how, handle in handles.items():
            await handle.start(how)
        await handles["cancelled"].cancel("no longer wanted")
        await handles["terminated"].terminate("enough")
        for how, handle in handles.items():
            if how != "running":
                await handle.wait(timeout=PATIENCE_S)
        found = {how: await handle.status() for how, handle in handles.items()}
        assert found == {
            "completed": "completed",
            "continued": "completed",
            "failed": "failed",
            "cancelled": "cancelled",
            "terminated": "cancelled",
            "running": "running",
        }
        described = await handles["cancelled"].describe()
        assert described.failure is not None
        assert described.failure.category == "cancelled"
        assert "no longer wanted" in described.failure.message
        with pytest.raises(Timeout, match="running"):
            await handles["running"].result(timeout=0.01)
        counts = await node.client.counts()
        assert [counts[k] for k in ("running", "completed", "failed", "cancelled")] == [1, 2, 1, 2]


@dataclass
class Order:
    item: str
    count: int


async def test_typed_and_plain_data_meet(world: World, app: App) -> None:
    """A typed workflow started by name with plain data, and an untyped one that calls typed activities."""

    @app.activity
    async def price(order: Order) -> int:
        return order.count * 10

    @app.workflow
    async def typed(order: Order) -> Order:
        return Order(order.item, await price(order))

    @app.workflow
    async def plain(text):  # type: ignore[no-untyped-def]  # untyped on purpose
        return f"{text} costs {await price(Order(text, 2))}"

    async with world.node(app) as node:
        client = node.client
        assert await client.workflow("typed", id="a").run({"item": "bolt", "count": 3}) == {
            "item": "bolt",
            "count": 30,
        }
        assert await client.workflow(typed, id="b").run(Order("nut", 1)) == Order("nut", 10)
        assert await client.workflow("plain", id="c").run("nut") == "nut costs 20"
        with pytest.raises(PayloadError, match="count"):
            await client.workflow(typed, id="d").run(Order("nut", "many"))  # type: ignore[arg-type]
        with pytest.raises(WorkflowFailed) as caught:
            await client.workflow("typed", id="e").run({"item": "nut", "count": "many"})
        assert caught.value.failure.type == DecodeError.__name__


async def test_configuration_is_reloaded_between_the_cycles_of_a_service(
    world: World, app: App
) -> None:
    """A long-lived service takes what came since the last cycle, in order, and uses the newest."""
    reports: list[str] = []
    config = workflow.Channel[str]("config")

    @app.activity
    async def work(setting: str) -> None:
        reports.append(setting)

    @app.workflow
    async def service(setting: str, cycle: int) -> str:
        await workflow.receive("cycle", bool)
        while True:
            try:
                async with asyncio.timeout(0.002):
                    setting = await config.receive()
            except TimeoutError:
                break  # the mailbox is empty
        await work(setting)
        if cycle < 3:
            workflow.continue_as_new(service, setting, cycle + 1)
        return setting

    async with world.node(app) as node:
        handle = node.client.workflow(service, id="s")
        await handle.start("default", 1)
        await handle.send("cycle", True)
        await handle.send(config, "a")
        await handle.send(config, "b")
    async with world.node(app) as node:
        handle = node.client.workflow(service, id="s")
        await waits_for(handle, "message cycle")
        await handle.send(config, "c")
        await handle.send("cycle", True)
        await waits_for(handle, "message cycle")
        await handle.send("cycle", True)
        assert await handle.result(timeout=PATIENCE_S) == "c"
    assert reports[-2:] == ["c", "c"]
    assert reports[0] in ("default", "a", "b")


async def test_a_program_that_stops_and_starts_again_goes_on(file_world: World, app: App) -> None:
    """Three steps with a restart between them: what is done is not done again."""
    ran: list[str] = []

    @app.activity
    async def step(name: str) -> str:
        ran.append(name)
        return name

    @app.workflow
    async def job() -> list[str]:
        done = []
        for name in ("one", "two", "three"):
            done.append(await step(name))
            await workflow.receive("next", bool)
        return done

    for _ in range(3):
        async with file_world.node(app) as node:
            handle = node.client.workflow(job, id="j")
            await handle.start()
            await waits_for(handle, "message next")
            await handle.send("next", True)
    async with file_world.node(app) as node:
        assert await node.client.get("j").result(timeout=PATIENCE_S) == ["one", "two", "three"]
    assert ran == ["one", "two", "three"]


async def test_many_programs_recover_at_once(file_world: World, app: App) -> None:
    @app.activity
    async def double(i: int) -> int:
        return 2 * i

    @app.workflow
    async def job(i: int) -> int:
        i = await double(i)
        await workflow.receive("go", bool)
        return await double(i)

    async with file_world.node(app) as node:
        handles = [node.client.workflow(job, id=f"j{i}") for i in range(20)]
        await asyncio.gather(*(h.start(i) for i, h in enumerate(handles)))
    async with file_world.node(app) as node:
        handles = [node.client.workflow(job, id=f"j{i}") for i in range(20)]
        await asyncio.gather(*(h.send("go", True) for h in handles))
        assert await asyncio.gather(*(h.result(timeout=PATIENCE_S) for h in handles)) == [
            4 * i for i in range(20)
        ]


async def test_a_control_plane(file_world: World, app: App) -> None:
    """Servers are made by a child each, are watched by an eternal one, changed by messages and taken down again."""
    running: dict[str, int] = {}

    @app.activity
    async def launch(name: str, size: int) -> str:
        running[name] = size
        return f"addr-{name}"

    @app.activity
    async def resize(name: str, size: int) -> None:
        running[name] = size

    @app.activity
    async def remove(name: str) -> None:
        running.pop(name, None)

    @app.workflow
    async def server(name: str, size: int, launched: bool = False) -> None:
        if not launched:
            workflow.kv.set("address", await launch(name, size))
        wanted = await workflow.receive("size", int)
        if wanted == 0:
            await remove(name)
            return
        await resize(name, wanted)
        workflow.continue_as_new(server, name, wanted, True)

    @app.workflow
    async def deploy(names: list[str]) -> list[str | None]:
        calls = [
            workflow.child(server, id=f"server-{n}", parent_close="abandon").detach(n, 1)
            for n in names
        ]
        addresses: list[str | None] = []
        for id_ in calls:
            while (address := await workflow.kv_of(id_).get("address", str)) is None:
                await asyncio.sleep(0.002)
            addresses.append(address)
        return addresses

    async def told(client: Any, name: str, size: int) -> None:
        await client.get(f"server-{name}").send("size", size)

    async with file_world.node(app) as node:
        assert await node.client.workflow(deploy, id="d").run(["a", "b"]) == ["addr-a", "addr-b"]
        assert running == {"a": 1, "b": 1}
        await told(node.client, "a", 5)
    async with file_world.node(app) as node:
        await waits_for(node.client.get("server-a"), "message size")
        assert running == {"a": 5, "b": 1}
        assert (await node.client.get("server-a").describe()).execution == 2
        for name in ("a", "b"):
            await told(node.client, name, 0)
            await node.client.get(f"server-{name}").wait(timeout=PATIENCE_S)
        assert running == {}
        assert {d.id: d.status for d in await node.client.list(id_prefix="server-")} == {
            "server-a": "completed",
            "server-b": "completed",
        }
