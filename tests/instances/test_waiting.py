"""A caller that waits for an end waits for the run that it began, whatever becomes of its id meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from engine import World, until, waits_for

from perdure import (
    AlreadyStarted,
    App,
    Client,
    Node,
    NotFound,
    WorkflowCancelled,
    WorkflowTerminated,
    workflow,
)
from perdure.errors import UsageError

PATIENCE_S = 30


@pytest.fixture
def echo(app: App) -> Any:
    @app.workflow
    async def echo(text: str) -> str:
        """Ends with its argument when it is told to."""
        await workflow.receive("go", bool)
        return text

    return echo


@pytest.fixture
def at_once(app: App) -> Any:
    @app.workflow
    async def at_once(text: str) -> str:
        return text

    return at_once


class Pair:
    """A node, its client, and a client that stands alone on the store."""

    def __init__(self, node: Node, outside: Client) -> None:
        self.node = node
        self.outside = outside
        self.inside = node.client

    def __getitem__(self, name: str) -> Client:
        return self.inside if name == "inside" else self.outside


@pytest.fixture
async def pair(world: World, app: App, echo: Any, at_once: Any) -> AsyncIterator[Pair]:
    async with world.node(app) as node, Client.open(world.store) as outside:
        yield Pair(node, outside)


BOTH = pytest.mark.parametrize("who", ["inside", "outside"])


@BOTH
@pytest.mark.parametrize("ended", [False, True])
async def test_a_run_that_replaces_gives_its_own_result(
    pair: Pair, echo: Any, at_once: Any, who: str, ended: bool
) -> None:
    if ended:
        await pair.inside.workflow(at_once, id="x").run("old")
    else:
        await pair.inside.workflow(echo, id="x").start("old")
    for text in ("new", "newer"):
        handle = pair[who].workflow(at_once, id="x", if_exists="replace")
        async with asyncio.timeout(PATIENCE_S):
            assert await handle.run(text) == text
        await handle.start(f"{text} again")
        assert await handle.result(timeout=PATIENCE_S) == f"{text} again"


@pytest.mark.parametrize("yields", range(8))
async def test_a_start_beside_the_end_of_the_run_before(pair: Pair, echo: Any, yields: int) -> None:
    old = pair.inside.workflow(echo, id="x")
    await old.start("old")
    ending = asyncio.create_task(old.send("go", True))
    for _ in range(yields):
        await asyncio.sleep(0)
    new = pair.inside.workflow(echo, id="x", if_exists="replace")
    running = asyncio.create_task(new.run("new"))
    await asyncio.gather(ending, return_exceptions=True)
    await until(lambda: is_of(pair.inside, "x", "new"), "the new run has the id")
    await pair.inside.get("x").send("go", True)
    assert await asyncio.wait_for(running, PATIENCE_S) == "new"


async def is_of(client: Client, id: str, text: str) -> bool:
    history = await client.get(id).history()
    return bool(history) and text.encode() in getattr(history[0].event, "input", b"")


@BOTH
async def test_the_caller_of_a_replaced_run_learns_of_it(pair: Pair, echo: Any, who: str) -> None:
    first = asyncio.create_task(pair[who].workflow(echo, id="x", if_exists="replace").run("first"))
    await until(lambda: has_begun(pair.inside, "x"), "the first run")
    by_id = asyncio.create_task(pair[who].get("x").result())
    await asyncio.sleep(0)
    second = pair.inside.workflow(echo, id="x", if_exists="replace")
    await second.start("second")
    await second.send("go", True)
    assert await second.result(timeout=PATIENCE_S) == "second"
    for waiting in (first, by_id) if who == "inside" else (first,):
        with pytest.raises(
            (WorkflowTerminated, NotFound), match="replaced by a new start of the same id"
        ):
            await asyncio.wait_for(waiting, PATIENCE_S)
    if who == "outside":
        by_id.cancel()


async def has_begun(client: Client, id: str) -> bool:
    try:
        return (await client.get(id).describe()).started_at is not None
    except NotFound:
        return False


@BOTH
async def test_the_caller_of_a_deleted_run_learns_of_it(pair: Pair, echo: Any, who: str) -> None:
    handle = pair[who].workflow(echo, id="x", if_exists="replace")
    await handle.start("first")
    await until(lambda: has_begun(pair.inside, "x"), "the first run")
    waiting = asyncio.create_task(handle.result())
    await asyncio.sleep(0)
    await pair.inside.get("x").delete(force=True)
    again = pair.inside.workflow(echo, id="x")
    await again.start("second")
    with pytest.raises((WorkflowTerminated, NotFound)):
        await asyncio.wait_for(waiting, PATIENCE_S)
    with pytest.raises(NotFound, match="'x' that was asked for is gone"):
        await handle.result(timeout=PATIENCE_S)
    await again.send("go", True)
    assert await again.result(timeout=PATIENCE_S) == "second"


@BOTH
async def test_a_start_that_joins_waits_for_the_joined_run(pair: Pair, echo: Any, who: str) -> None:
    await pair.inside.workflow(echo, id="x").start("same")
    handle = pair[who].workflow(echo, id="x")
    joined = asyncio.create_task(handle.run("same"))
    other = pair[who].workflow(echo, id="x")
    await other.start("same")
    await pair.inside.get("x").send("go", True)
    assert await asyncio.wait_for(joined, PATIENCE_S) == "same"
    await pair.inside.workflow(echo, id="x", if_exists="replace").start("same")
    with pytest.raises(NotFound, match="is gone"):
        await other.result(timeout=PATIENCE_S)
    assert (await pair.inside.get("x").describe()).status == "running"


async def test_posted_starts_are_followed_to_the_run_that_they_joined(
    world: World, app: App, echo: Any
) -> None:
    """No node runs yet: nobody can say which of the starts makes the run."""
    async with Client.open(world.store) as outside:
        handles = [outside.workflow(echo, id="x") for _ in range(3)]
        for handle in handles:
            await handle.start("same")
        rival = outside.workflow(echo, id="x")
        await rival.start("other")
        waiting = [
            asyncio.create_task(handle.result(timeout=PATIENCE_S)) for handle in (*handles, rival)
        ]
        await asyncio.sleep(0)
        async with world.node(app) as node:
            await waits_for(node.client.get("x"), "message go")
            await node.client.get("x").send("go", True)
            *results, refused = await asyncio.gather(*waiting, return_exceptions=True)
            assert results == ["same"] * 3
            assert isinstance(refused, AlreadyStarted)


@BOTH
async def test_a_handle_stops_its_own_run_only(pair: Pair, echo: Any, who: str) -> None:
    mine = pair[who].workflow(echo, id="x")
    await mine.start("mine")
    await until(lambda: has_begun(pair.inside, "x"), "the first run")
    theirs = pair.inside.workflow(echo, id="x", if_exists="replace")
    await theirs.start("theirs")
    await mine.cancel("mine")
    await mine.terminate("mine")
    await theirs.send("go", True)
    assert await theirs.result(timeout=PATIENCE_S) == "theirs"
    third = pair[who].workflow(echo, id="x", if_exists="replace")
    await third.start("third")
    await until(lambda: is_of(pair.inside, "x", "third"), "the third run")
    await third.cancel("enough")
    with pytest.raises(WorkflowCancelled, match="enough"):
        await third.result(timeout=PATIENCE_S)


@BOTH
async def test_a_handle_by_id_stops_whatever_runs(pair: Pair, echo: Any, who: str) -> None:
    await pair.inside.workflow(echo, id="x").start("first")
    await pair[who].get("x").cancel("by id")
    with pytest.raises(WorkflowCancelled, match="by id"):
        await pair.inside.get("x").result(timeout=PATIENCE_S)


async def test_an_id_that_only_a_message_named_is_still_missing(pair: Pair, at_once: Any) -> None:
    for name in ("never", "deleted"):
        handle = pair.inside.get(name)
        if name == "deleted":
            await pair.inside.workflow(at_once, id=name).run("x")
            await handle.delete()
        with pytest.raises(NotFound):
            await handle.result(timeout=PATIENCE_S)
        with pytest.raises(NotFound):
            await handle.send("go", True)
        with pytest.raises(NotFound):
            await handle.cancel()
        with pytest.raises(NotFound):
            await handle.result(timeout=PATIENCE_S)
        with pytest.raises(NotFound):
            await handle.wait(timeout=PATIENCE_S)


async def test_a_start_behind_many_messages_is_found(world: World, app: App, echo: Any) -> None:
    @app.workflow
    async def sender() -> None:
        for _ in range(1_200):
            workflow.send("x", "go", True)

    async with world.node(app) as node:
        await node.client.workflow(sender, id="s").run()
    async with Client.open(world.store) as outside:
        await outside.workflow(echo, id="x").start("late")
        assert (await outside.get("x").describe()).status == "pending"


async def test_a_node_is_started_by_one_call(world: World, app: App) -> None:
    node = world.node(app)
    outcomes = await asyncio.gather(node.start(), node.start(), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None), UsageError]
    assert any(
        why in str(outcomes[1]) for why in ("is being started by another call", "runs already")
    )
    await node.stop()
    await node.start()
    await node.stop()


async def test_two_starts_that_replace_in_one_turn_tell_every_caller(pair: Pair, echo: Any) -> None:
    def starting(text: str) -> asyncio.Task[Any]:
        return asyncio.create_task(
            pair.inside.workflow(echo, id="x", if_exists="replace").run(text)
        )

    runs = [starting("first")]
    await until(lambda: has_begun(pair.inside, "x"), "the first run")
    runs += [starting("second"), starting("third"), starting("last")]
    await until(lambda: is_of(pair.inside, "x", "last"), "the last run")
    await pair.inside.get("x").send("go", True)
    *replaced, last = await asyncio.wait_for(
        asyncio.gather(*runs, return_exceptions=True), PATIENCE_S
    )
    assert last == "last"
    assert [type(error) for error in replaced] == [WorkflowTerminated] * 3
