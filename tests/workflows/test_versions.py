"""Versions of one workflow stand side by side: new runs get the latest, running ones keep theirs."""

from __future__ import annotations

from typing import Any

import pytest
from engine import World, waits_for

from perdure import App, workflow
from perdure.errors import DefinitionError


def add(app: App, version: str | int | None, name: str = "ship") -> Any:
    @app.workflow(name=name, version=version)
    async def ship() -> str:
        await workflow.receive("go", bool)
        return f"version {workflow.info().version}"

    return ship


def add_quick(app: App, version: str | int | None) -> Any:
    @app.workflow(name="quick", version=version)
    async def quick() -> str:
        return workflow.info().version

    return quick


async def test_running_ones_are_pinned_and_new_ones_get_the_latest(world: World) -> None:
    old, both = App("test"), App("test")
    first = add(old, None)
    add(both, "1.0.0")
    add(both, "1.10.0")
    add(both, "1.9.0")
    async with world.node(old) as node:
        await node.client.workflow(first, id="old").start()
    async with world.node(both) as node:
        await node.client.workflow("ship", id="new").start()
        for key, version in (("old", "1.0.0"), ("new", "1.10.0")):
            await node.client.get(key).send("go", True)
            assert await node.client.get(key).result(timeout=30) == f"version {version}"
            assert (await node.client.get(key).describe()).version == version


async def test_versions_are_compared_as_numbers_and_have_short_forms(app: App) -> None:
    assert add(app, 2).version == "2.0.0"
    assert add(app, "2.1").version == "2.1.0"
    assert add(app, None).version == "1.0.0"
    assert app.workflows() == [("ship", ["1.0.0", "2.0.0", "2.1.0"])]


@pytest.mark.parametrize(("given", "again"), [(None, "1.0.0"), (2, "2.0.0"), ("2.1", "2.1.0")])
async def test_a_version_can_be_there_once(app: App, given: Any, again: Any) -> None:
    add(app, given)
    with pytest.raises(DefinitionError, match=r"'ship' version .* already"):
        add(app, again)


@pytest.mark.parametrize("version", ["", "latest", "1.2.3.4", -1, "1.x"])
async def test_what_is_no_version_is_refused(app: App, version: Any) -> None:
    with pytest.raises(DefinitionError, match="version"):
        add(app, version)


async def test_a_start_can_name_a_version(world: World, app: App) -> None:
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        quick = add_quick(app, version)
    async with world.node(app) as node:
        client = node.client
        assert await client.workflow(quick, id="a").run() == "3.0.0"
        assert await client.workflow(quick, id="b", version=2).run() == "2.0.0"
        assert await client.workflow("quick", id="c", version="1.0").run() == "1.0.0"


async def test_use_version_pins_new_runs(world: World, app: App) -> None:
    for version in (1, 2, 3):
        quick = add_quick(app, version)
    async with world.node(app) as node:
        app.use_version("quick", 2)
        assert await node.client.workflow(quick, id="a").run() == "2.0.0"
        app.use_version("quick", None)
        assert await node.client.workflow(quick, id="b").run() == "3.0.0"


async def test_children_get_the_latest_or_the_pinned_one(world: World, app: App) -> None:
    for version in (1, 2):
        quick = add_quick(app, version)

    @app.workflow
    async def parent() -> str:
        return await quick()

    async with world.node(app) as node:
        assert await node.client.workflow(parent, id="a").run() == "2.0.0"
        add_quick(app, 3)
        assert await node.client.workflow(parent, id="b").run() == "3.0.0"
        app.use_version("quick", 1)
        assert await node.client.workflow(parent, id="c").run() == "1.0.0"


async def test_continue_as_new_moves_to_the_latest(world: World) -> None:
    def make(versions: list[int]) -> App:
        app = App("test")
        for version in versions:

            @app.workflow(name="loop", version=version)
            async def loop(seen: list[str]) -> list[str]:
                await workflow.receive("go", bool)
                seen = [*seen, workflow.info().version]
                if len(seen) < 2:
                    workflow.continue_as_new(loop, seen)
                return seen

        return app

    async with world.node(make([1])) as node:
        await node.client.workflow("loop", id="l").start([])
    async with world.node(make([1, 2])) as node:
        handle = node.client.get("l")
        await handle.send("go", True)
        await handle.send("go", True)
        assert await handle.result(timeout=30) == ["1.0.0", "2.0.0"]


async def test_continue_as_version_takes_an_exact_one(world: World, app: App) -> None:
    @app.workflow(name="loop", version=1)
    async def loop_1(seen: list[str]) -> list[str]:
        return [*seen, workflow.info().version]

    @app.workflow(name="loop", version=2)
    async def loop_2(seen: list[str]) -> list[str]:
        workflow.continue_as_version(1, loop_1, [*seen, workflow.info().version])

    async with world.node(app) as node:
        assert await node.client.workflow(loop_2, id="l").run([]) == ["2.0.0", "1.0.0"]


async def test_a_missing_version_waits_for_its_deploy(world: World, app: App) -> None:
    add_quick(app, 1)

    @app.workflow
    async def loop(again: bool) -> str:
        if again:
            workflow.continue_as_version(7, loop, False)
        return workflow.info().version

    async with world.node(app) as node:
        started = node.client.workflow("quick", id="started", version=5)
        await started.start()
        continued = node.client.workflow(loop, id="continued")
        await continued.start(True)
        for handle, name in (
            (started, "'quick' version 5.0.0"),
            (continued, "'loop' version 7.0.0"),
        ):
            await waits_for(handle, "not_registered")
            failure = (await handle.describe()).failure
            assert failure is not None
            assert name in failure.message
        add_quick(app, 5)
        assert await started.result(timeout=30) == "5.0.0"

        @app.workflow(name="loop", version=7)
        async def loop_7(again: bool) -> str:
            return workflow.info().version

        assert await continued.result(timeout=30) == "7.0.0"


async def test_a_float_is_no_version(app: App) -> None:
    with pytest.raises(DefinitionError, match="version"):
        add(app, 1.5)  # type: ignore[arg-type]
