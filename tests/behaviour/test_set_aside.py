"""One that is set aside: who waits for it waits on, and is told when it is released or ended."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from engine import PATIENCE_S, World, until, waits_for

from perdure import App, ChildError, Client, Suspended, workflow

POISONABLE: dict[str, Any] = {"turn_limit_ms": 40, "turn_failures": 2}


def family(mended: bool) -> App:
    """A parent whose child spins until the code is mended."""
    app = App("test")

    @app.workflow
    async def child() -> str:
        await workflow.receive("go", bool)
        while not mended:
            pass
        return "mended"

    @app.workflow
    async def middle() -> str:
        return f"middle of {await workflow.child(child, id='child')()}"

    @app.workflow
    async def parent() -> str:
        try:
            return f"parent of {await workflow.child(middle, id='middle')()}"
        except ChildError as error:
            return f"told: {error.failure.type}"

    return app


async def poisoned(client: Client) -> None:
    """Start the family and let the child run into its loop."""
    await client.workflow("parent", id="parent").start()
    await until(lambda: _there(client), "the child")
    await client.get("child").send("go", True)
    await waits_for(client.get("child"), "poison")


async def _there(client: Client) -> bool:
    return bool(await client.list(id_prefix="child"))


async def test_its_parents_wait_until_it_is_mended_and_released(file_world: World) -> None:
    async with file_world.node(family(mended=False), **POISONABLE) as node:
        await poisoned(node.client)
        for name in ("middle", "parent"):
            assert await node.client.get(name).status() == "running"
    async with file_world.node(family(mended=True), **POISONABLE) as node:
        assert await node.client.get("child").status() == "suspended", (
            "a restart alone does not release it"
        )
        await node.client.get("child").retry()
        assert (
            await node.client.get("parent").result(timeout=PATIENCE_S)
            == "parent of middle of mended"
        )


async def test_its_parents_are_told_when_it_is_terminated(file_world: World) -> None:
    async with file_world.node(family(mended=False), **POISONABLE) as node:
        await poisoned(node.client)
        await node.client.get("child").terminate("given up")
        assert (await node.client.get("middle").wait(timeout=PATIENCE_S)).status == "failed"
        assert await node.client.get("parent").result(timeout=PATIENCE_S) == "told: ChildError"


@pytest.mark.parametrize("attempts", [1, 3])
async def test_after_how_many_failures_is_an_option(world: World, attempts: int) -> None:
    async with world.node(family(mended=False), turn_limit_ms=40, turn_failures=attempts) as node:
        await poisoned(node.client)
        failure = (await node.client.get("child").describe()).failure
        assert failure is not None
        assert (failure.type, failure.category) == ("Poisoned", "poison")
        assert f"{attempts} turns of 'child' in a row were stopped" in failure.message


async def test_a_next_execution_without_its_version_waits_for_the_deploy(file_world: World) -> None:
    def make(*versions: int) -> App:
        app = App("test")
        for version in versions:

            @app.workflow(name="loop", version=version)
            async def loop(seen: list[str]) -> list[str]:
                seen = [*seen, workflow.info().version]
                if len(seen) == 1:
                    workflow.continue_as_version(2, loop, seen)
                return seen

        return app

    async with file_world.node(make(1)) as node:
        handle = node.client.workflow("loop", id="l", version=1)
        await handle.start([])
        await waits_for(handle, "not_registered")
        described = await handle.describe()
        assert (described.execution, described.version) == (2, "2.0.0")
        assert described.failure is not None
        assert "workflow 'loop' version 2.0.0 is not registered" in described.failure.message
    async with file_world.node(make(1, 2)) as node:
        assert await node.client.get("l").result(timeout=PATIENCE_S) == ["1.0.0", "2.0.0"]


async def test_a_wait_behind_a_posted_retry_does_not_end_by_what_was_before(
    file_world: World,
) -> None:
    async with file_world.node(family(mended=False), **POISONABLE) as node:
        await poisoned(node.client)
    async with Client.open(file_world.store) as alone:
        child = alone.get("child")
        with pytest.raises(Suspended, match="poison"):
            await child.result(timeout=PATIENCE_S)
        await child.retry()
        waiting = asyncio.create_task(child.result(timeout=PATIENCE_S))
        async with file_world.node(family(mended=True), **POISONABLE):
            assert await waiting == "mended"


async def test_a_wait_behind_a_retry_that_changes_nothing_ends(file_world: World) -> None:
    async with file_world.node(family(mended=False), **POISONABLE) as node:
        await poisoned(node.client)
    async with Client.open(file_world.store) as alone:
        await alone.get("child").retry()
        waiting = asyncio.create_task(alone.get("child").result(timeout=PATIENCE_S))
        async with file_world.node(family(mended=False), **POISONABLE):
            with pytest.raises(Suspended, match="poison"):
                await waiting


async def test_a_retry_of_code_that_is_not_mended_is_taken_each_time(
    file_world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async with file_world.node(family(mended=False), **POISONABLE) as node:
        await poisoned(node.client)
        child = node.client.get("child")
        for _ in range(3):
            # The tries before it do not count: it is neither refused, nor does it release for ever.
            await child.retry()
            await waits_for(child, "poison")
    refused = [one for one in caplog.records if "was refused" in one.getMessage()]
    assert refused == []
