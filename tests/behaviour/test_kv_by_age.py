"""Values of the KV store are removed by age: their times come from the journal, so replay removes the same."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from engine import World, waits_for

from perdure import App, WorkflowFailed, workflow
from perdure.store import open_store
from perdure.testing import export_history, replay

MINUTE = timedelta(minutes=1)


def make_keeper(app: App) -> Any:
    """A workflow that sets keys, removes old ones and continues as new, each when it is told to."""

    @app.workflow
    async def keeper(told: list[str]) -> list[str]:
        while True:
            what = await workflow.receive("do", str)
            if what == "next":
                workflow.continue_as_new(keeper, told)
            elif what == "end":
                return told
            elif what.startswith("prune"):
                told = [*told, f"{workflow.kv.prune(workflow.now() - int(what[5:]) * MINUTE)}"]
                workflow.set_status(told)
            else:
                workflow.kv.set(what, what)

    return keeper


async def settled(handle: Any) -> None:
    await waits_for(handle, "message do")


async def test_only_what_is_older_goes_over_restarts_and_executions(world: World, app: App) -> None:
    clock = world.stop_time()
    keeper = make_keeper(app)
    async with world.node(app) as node:
        handle = node.client.workflow(keeper, id="k")
        await handle.start([])
        await handle.send("do", "old")
        clock.advance(10 * 60_000)
        await handle.send("do", "next")
        await settled(handle)
        clock.advance(10 * 60_000)
        await handle.send("do", "young")
        await settled(handle)
    async with world.node(app) as node:  # which replays
        handle = node.client.workflow(keeper, id="k")
        await handle.send("do", "prune21")
        await settled(handle)
        assert await handle.kv() == {"old": "old", "young": "young"}
        await handle.send("do", "prune19")
        await settled(handle)
        assert await handle.kv() == {"young": "young"}
    async with world.node(app) as node:
        handle = node.client.workflow(keeper, id="k")
        await handle.send("do", "prune0")
        await handle.send("do", "end")
        assert await handle.result(timeout=30) == [
            "0",
            "1",
            "0",
        ]  # what is written now is not before now


async def test_a_key_that_is_written_again_is_young_again(world: World, app: App) -> None:
    clock = world.stop_time()
    keeper = make_keeper(app)
    async with world.node(app) as node:
        handle = node.client.workflow(keeper, id="k")
        await handle.start([])
        await handle.send("do", "a")
        await handle.send("do", "b")
        clock.advance(10 * 60_000)
        await handle.send("do", "a")
        await handle.send("do", "prune5")
        await handle.send("do", "end")
        assert await handle.result(timeout=30) == ["1"]
        assert await handle.kv() == {"a": "a"}


async def test_a_cutoff_in_the_future_takes_all_and_an_old_one_nothing(
    world: World, app: App
) -> None:
    @app.workflow
    async def extremes() -> list[Any]:
        assert workflow.kv.prune(workflow.now()) == 0
        workflow.kv.set("a", 1)
        workflow.kv.set("b", 2)
        written = workflow.kv.updated_at("a")
        assert written is not None
        found = [workflow.kv.prune(datetime.fromtimestamp(0, UTC)), workflow.kv.keys()]
        assert (workflow.kv.updated_at("none"), abs(workflow.now() - written) < MINUTE) == (
            None,
            True,
        )
        return [*found, workflow.kv.prune(workflow.now() + MINUTE), workflow.kv.keys()]

    async with world.node(app) as node:
        assert await node.client.workflow(extremes, id="e").run() == [0, ["a", "b"], 2, []]


@pytest.mark.parametrize("wrong", ["monday", 12, datetime(2026, 1, 1)])
async def test_what_is_no_time_is_refused(world: World, app: App, wrong: Any) -> None:
    @app.workflow
    async def confused() -> int:
        return workflow.kv.prune(wrong)

    async with world.node(app) as node:
        with pytest.raises(WorkflowFailed, match=r"kv\.prune\(\) needs a datetime with a timezone"):
            await node.client.workflow(confused, id="c").run()


async def test_an_exported_history_keeps_the_times(tmp_path: Path, app: App) -> None:
    world = World(f"sqlite:///{tmp_path}/x.db")
    clock = world.stop_time()
    keeper = make_keeper(app)
    async with world.node(app) as node:
        handle = node.client.workflow(keeper, id="k")
        await handle.start([])
        await handle.send("do", "old")
        clock.advance(10 * 60_000)
        await handle.send("do", "next")
        await handle.send("do", "young")
        await handle.send("do", "prune5")
        await handle.send("do", "end")
        assert await handle.result(timeout=30) == ["1"]
    async with open_store(f"sqlite:///{tmp_path}/x.db?read_only=true") as store:
        history = await export_history(store, "k")
    history.write(tmp_path / "k.json")
    assert replay(app, tmp_path / "k.json").executions == 1
