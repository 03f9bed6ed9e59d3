"""`patched` puts a change of code behind a switch: old runs keep the old side, new runs take the new one."""

from __future__ import annotations

from collections.abc import Callable

from engine import World, waits_for

from perdure import App, workflow


def make(kind: str) -> App:
    app = App("test")

    @app.activity
    async def mail() -> str:
        return "mail"

    @app.activity
    async def fax() -> str:
        return "fax"

    @app.workflow
    async def notify() -> list[str]:
        sent: list[str] = []
        await workflow.receive("first", bool)
        if kind == "old":
            sent.append(await fax())
        elif kind == "patched":
            sent.append(await mail() if workflow.patched("mail-not-fax") else await fax())
        else:
            workflow.patched("mail-not-fax")
            sent.append(await mail())
        await workflow.receive("second", bool)
        if kind == "patched":
            sent.append("new" if workflow.patched("mail-not-fax") else "old")
        await workflow.receive("third", bool)
        return sent

    return app


async def step(world: World, app: App, channel: str, key: str, waits: str | None) -> object:
    async with world.node(app) as node:
        handle = node.client.get(key)
        await handle.send(channel, True)
        if waits is None:
            return await handle.result(timeout=30)
        await waits_for(handle, waits)
        return None


async def start(world: World, app: App, key: str) -> None:
    async with world.node(app) as node:
        await node.client.workflow("notify", id=key).start()


async def test_a_run_that_passed_the_line_with_the_old_code_keeps_the_old_side(
    world: World,
) -> None:
    await start(world, make("old"), "n")
    await step(world, make("old"), "first", "n", "message second")
    await step(world, make("patched"), "second", "n", "message third")
    assert await step(world, make("patched"), "third", "n", None) == ["fax", "old"]


async def test_a_run_that_has_not_passed_it_takes_the_new_side_and_keeps_it(world: World) -> None:
    await start(world, make("old"), "n")
    await step(world, make("patched"), "first", "n", "message second")
    await step(world, make("patched"), "second", "n", "message third")
    assert await step(world, make("patched"), "third", "n", None) == ["mail", "new"]


async def test_the_old_side_can_go_when_only_new_runs_are_left(world: World) -> None:
    await start(world, make("patched"), "n")
    await step(world, make("patched"), "first", "n", "message second")
    await step(world, make("final"), "second", "n", "message third")
    assert await step(world, make("final"), "third", "n", None) == ["mail"]


async def test_without_the_switch_the_change_is_reported(world: World) -> None:
    await start(world, make("old"), "n")
    await step(world, make("old"), "first", "n", "message second")
    async with world.node(make("final")) as node:
        handle = node.client.get("n")
        await handle.send("second", True)
        await waits_for(handle, "nondeterminism")
        failure = (await handle.describe()).failure
        assert failure is not None
        assert "patched" in failure.message


async def test_it_is_asked_often_and_marked_once(world: World, app: App) -> None:
    async def body() -> list[bool]:
        ask: Callable[[], bool] = lambda: workflow.patched("x")
        return [ask(), ask(), workflow.patched("y"), ask()]

    assert await world.replayed(app, body) == [True] * 4
    async with world.node(app) as node:
        marks = [
            e
            for e in await node.client.get("replayed").history()
            if type(e.event).__name__ == "PatchMarked"
        ]
        assert len(marks) == 2
