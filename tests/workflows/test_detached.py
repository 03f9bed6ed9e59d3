"""What is detached lives on by itself, however the workflow that started it ends."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from engine import World, until

from perdure import App, NotFound, RetryPolicy, workflow
from perdure.errors import UsageError


async def _completed(handle: Any) -> bool:
    try:
        return await handle.status() == "completed"
    except NotFound:
        return False


@pytest.mark.parametrize("end", ["returns", "fails", "continues", "is-cancelled", "cancels-itself"])
async def test_it_starts_even_in_the_turn_in_which_its_starter_ends(
    world: World, app: App, end: str
) -> None:
    ran: list[str] = []

    @app.activity
    async def note(what: str) -> str:
        ran.append(what)
        return what

    @app.workflow
    async def other(x: int) -> int:
        return x

    @app.workflow
    async def starter(again: bool = True) -> list[str]:
        if not again:
            return []
        try:
            if end == "is-cancelled":
                await workflow.receive("never", int)
        finally:
            ids = [
                other.detach(1),
                workflow.child(other, id="named").detach(2),
                note.detach("detached"),
            ]
            workflow.set_status(ids)
        if end == "fails":
            raise ValueError("oh")
        if end == "continues":
            workflow.continue_as_new(starter, False)
        if end == "cancels-itself":
            workflow.cancel(workflow.info().id)
            await workflow.receive("never", int)
        return ids

    async with world.node(app) as node:
        handle = node.client.workflow(starter, id="s")
        await handle.start()
        if end == "is-cancelled":
            await handle.cancel()
        ended = await handle.wait(timeout=30)
        first, named, activity = ended.custom_status(list[str]) or []
        assert named == "named"
        for key in (first, named, activity):
            await until(lambda key=key: _completed(node.client.get(key)), key)
        assert await node.client.get(first).result() == 1
        assert await node.client.get("named").result() == 2
        assert await node.client.get(activity).result() == "detached"
        assert ran == ["detached"]
        assert (await node.client.get(first).describe()).parent is None


async def test_a_detached_workflow_outlives_a_cancel_of_its_starter(world: World, app: App) -> None:
    @app.workflow
    async def other() -> str:
        return await workflow.receive("go", str)

    @app.workflow
    async def starter() -> None:
        workflow.child(other, id="other").detach()
        await workflow.receive("never", int)

    async with world.node(app) as node:
        handle = node.client.workflow(starter, id="s")
        await handle.start()
        await handle.cancel()
        assert (await handle.wait(timeout=30)).status == "cancelled"
        other_handle = node.client.get("other")
        await until(lambda: _there(other_handle), "the other")
        await other_handle.send("go", "alive")
        assert await other_handle.result(timeout=30) == "alive"


async def test_ids_of_detached_work_are_the_same_in_replay_and_it_starts_once(
    world: World, app: App
) -> None:
    ran: list[int] = []

    @app.activity
    async def note(i: int) -> None:
        ran.append(i)

    async def body() -> list[str]:
        return [note.detach(1), note.detach(2)]

    ids = await world.replayed(app, body)
    assert len(set(ids)) == 2
    async with world.node(app) as node:
        for key in ids:
            await until(lambda key=key: _completed(node.client.get(key)), key)
        assert len(await node.client.list()) == 3
    assert set(ran) == {1, 2}


async def test_an_exact_version_can_be_detached(world: World, app: App) -> None:
    @app.workflow(name="other", version=1)
    async def other_1() -> str:
        return "one"

    @app.workflow(name="other", version=2)
    async def other_2() -> str:
        return "two"

    @app.workflow
    async def starter() -> None:
        workflow.child(other_1, id="exact", version=1).detach()
        workflow.child(other_1, id="latest").detach()

    async with world.node(app) as node:
        await node.client.workflow(starter, id="s").run()
        for key, expected in (("exact", "one"), ("latest", "two")):
            await until(lambda key=key: _completed(node.client.get(key)), key)
            assert await node.client.get(key).result() == expected


async def test_a_detached_activity_keeps_the_options_of_its_call(world: World, app: App) -> None:
    tries: list[str] = []

    @app.activity
    async def shaky(how: str) -> int:
        tries.append(how)
        if how == "once":
            raise FileNotFoundError(how)
        if tries.count(how) < 3:
            raise ConnectionError(how)
        return len(tries)

    @app.workflow
    async def starter() -> list[str]:
        policy = RetryPolicy(
            maximum_attempts=4,
            initial_interval=timedelta(milliseconds=1),
            non_retryable=(OSError, "NeverSeen"),
        )
        patient = RetryPolicy(maximum_attempts=4, initial_interval=0.001)
        return [
            shaky.with_options(retry=policy, timeout=5, queue="q").detach("once"),
            shaky.with_options(retry=patient).detach("twice"),
            shaky.detach("plain"),
        ]

    async with world.node(app) as node:
        ids = await node.client.workflow(starter, id="s").run()
        ended = [await node.client.get(started).wait(timeout=30) for started in ids]
        assert [d.status for d in ended] == ["failed", "completed", "failed"]
        assert (tries.count("once"), tries.count("twice"), tries.count("plain")) == (1, 3, 1)


async def test_detach_outside_of_a_workflow_is_refused(app: App) -> None:
    @app.activity
    async def note() -> None:
        pass

    @app.workflow
    async def other() -> None:
        pass

    for thing in (note, other):
        with pytest.raises(UsageError, match="workflow"):
            thing.detach()


async def _there(handle: Any) -> bool:
    try:
        return bool((await handle.describe()).started_at)
    except NotFound:
        return False
