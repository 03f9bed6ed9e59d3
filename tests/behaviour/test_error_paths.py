"""Failures: compensated, caught, propagated, and what is sent at the wrong moment."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from engine import World, waits_for

from perdure import ActivityError, App, ChildError, NotFound, WorkflowFailed, workflow
from perdure.client.client import Client
from perdure.errors import NotRunning


@dataclass
class Parcel:
    kilos: int


def shop(failing: str, done: list[str]) -> App:
    """An app whose `order` debits and ships, and refunds if shipping fails."""
    app = App("shop")

    @app.activity
    async def debit(cents: int) -> str:
        if failing == "debit":
            raise PermissionError("card declined")
        done.append("debit")
        return f"tx-{cents}"

    @app.activity
    async def ship() -> str:
        if failing == "ship":
            raise ConnectionError("no truck")
        done.append("ship")
        return "shipped"

    @app.activity
    async def refund(receipt: str) -> str:
        done.append(f"refund {receipt}")
        return "refunded"

    @app.workflow
    async def order() -> str:
        receipt = await debit(100)
        try:
            return await ship()
        except ActivityError as error:
            return f"{await refund(receipt)} after {error.failure.type}"

    return app


@pytest.mark.parametrize("store", ["memory", "file"])
@pytest.mark.parametrize(
    ("failing", "result", "steps"),
    [
        ("nothing", "shipped", ["debit", "ship"]),
        ("ship", "refunded after ConnectionError", ["debit", "refund tx-100"]),
        ("debit", None, []),
    ],
)
async def test_what_was_done_is_undone_when_a_later_step_fails(
    world: World, file_world: World, store: str, failing: str, result: str | None, steps: list[str]
) -> None:
    done: list[str] = []
    app = shop(failing, done)
    async with (world if store == "memory" else file_world).node(app) as node:
        handle = node.client.workflow("order", id="o")
        if result is None:
            with pytest.raises(WorkflowFailed, match="card declined"):
                await handle.run()
        else:
            assert await handle.run() == result
    assert done == steps


async def test_a_nested_error_reaches_the_top_through_helpers_and_children(
    world: World, app: App
) -> None:
    @app.activity
    async def bad() -> None:
        raise LookupError("no such row")

    async def helper() -> None:
        await bad()

    @app.workflow
    async def child() -> None:
        await helper()

    @app.workflow
    async def parent() -> None:
        await child()

    async with world.node(app) as node:
        with pytest.raises(WorkflowFailed, match="no such row") as caught:
            await node.client.workflow(parent, id="p").run()
        assert caught.value.failure.type == "ChildError"


async def test_an_error_is_caught_where_it_is_wanted_and_the_workflow_goes_on(
    world: World, app: App
) -> None:
    @app.activity
    async def read(path: str) -> str:
        if path == "primary":
            raise FileNotFoundError(path)
        return f"content of {path}"

    async def body() -> str:
        try:
            return await read("primary")
        except ActivityError as error:
            return f"{await read('backup')} after {error.failure.type}"

    assert await world.replayed(app, body) == "content of backup after FileNotFoundError"


async def test_an_unhandled_error_of_the_code_has_its_message_and_traceback(
    world: World, app: App
) -> None:
    @app.workflow
    async def broken() -> None:
        await asyncio.sleep(0.001)
        raise AssertionError("must not happen")

    async with world.node(app) as node:
        handle = node.client.workflow(broken, id="b")
        with pytest.raises(WorkflowFailed, match="AssertionError: must not happen"):
            await handle.run()
        failure = (await handle.describe()).failure
        assert failure is not None
        assert "test_error_paths.py" in failure.traceback
        assert failure.category == "application"


async def test_an_event_after_the_end_is_refused_and_the_history_stays(
    world: World, app: App
) -> None:
    @app.workflow
    async def waiting() -> str:
        return await workflow.wait_event("news", str)

    async with world.node(app) as node:
        handle = node.client.workflow(waiting, id="w")
        await handle.start()
        await waits_for(handle, "event news")
        await handle.raise_event("news", "first")
        assert await handle.result(timeout=30) == "first"
        before = await handle.history()
        with pytest.raises(NotRunning, match="'w' has ended"):
            await handle.raise_event("news", "second")
        with pytest.raises(NotRunning):
            await handle.send("news", "third")
        assert await handle.history() == before


async def test_a_result_of_another_shape_is_an_error_of_the_caller(world: World, app: App) -> None:
    @app.activity
    async def weigh() -> Parcel:
        return {"kilos": "heavy"}  # type: ignore[return-value]

    async def body() -> list[str]:
        try:
            await weigh()
        except ActivityError as error:
            return [error.failure.type, error.failure.message]
        return []

    kind, message = await world.replayed(app, body)
    assert kind == "EncodeError"
    assert "Expected `Parcel`, got `dict`" in message


@pytest.mark.parametrize("by", ["event", "message"])
async def test_a_value_of_another_shape_is_a_dead_letter_and_the_wait_goes_on(
    world: World, app: App, by: str
) -> None:
    @app.workflow
    async def receiving() -> int:
        if by == "event":
            return (await workflow.wait_event("parcel", Parcel)).kilos
        return (await workflow.receive("parcel", Parcel)).kilos

    async with world.node(app) as node:
        handle = node.client.workflow(receiving, id="r")
        await handle.start()
        await waits_for(handle, f"{by} parcel")
        for kilos in ("heavy", 3):
            if by == "event":
                await handle.raise_event("parcel", {"kilos": kilos})
            else:
                await handle.send("parcel", {"kilos": kilos})
        assert await handle.result(timeout=30) == 3
        (letter,) = await node.client.dead_letters()
        assert "kilos" in letter.reason


async def test_an_id_that_has_ended_gives_its_result_again_without_running(
    file_world: World, app: App
) -> None:
    ran: list[int] = []

    @app.activity
    async def count() -> int:
        ran.append(1)
        return len(ran)

    @app.workflow
    async def once() -> int:
        return await count()

    async with file_world.node(app) as node:
        assert await node.client.workflow(once, id="same").run() == 1
        assert await node.client.workflow(once, id="same").run() == 1
    async with file_world.node(app) as node:
        assert await node.client.workflow(once, id="same").run() == 1
    assert ran == [1]


async def test_a_child_that_fails_does_not_end_its_siblings(world: World, app: App) -> None:
    @app.workflow
    async def child(i: int) -> int:
        if i == 1:
            raise ValueError("one is bad")
        await asyncio.sleep(0.001)
        return i

    async def body() -> list[Any]:
        outcomes = await workflow.join(*(child(i) for i in range(3)))
        return [o.failure.message if isinstance(o, ChildError) else o for o in outcomes]

    assert await world.replayed(app, body) == [0, "one is bad", 2]


@pytest.mark.parametrize("verb", ["cancel", "raise_event", "send", "terminate", "pause"])
async def test_what_is_asked_of_nobody_is_refused_and_disturbs_nobody(
    file_world: World, app: App, verb: str
) -> None:
    @app.workflow
    async def hello() -> str:
        return "hello"

    async def ask(client: Client) -> None:
        handle = client.get("nobody")
        arguments: dict[str, tuple[Any, ...]] = {"raise_event": ("news", 1), "send": ("news", 1)}
        await getattr(handle, verb)(*arguments.get(verb, ()))

    async with file_world.node(app) as node:
        with pytest.raises(NotFound, match="'nobody'"):
            await ask(node.client)
        assert await node.client.workflow(hello, id="h").run() == "hello"
        assert (await node.client.counts())["inbox"] == 0
        late = node.client.workflow(hello, id="nobody")
        assert await late.run() == "hello", "what was refused does not reach a later one of that id"
