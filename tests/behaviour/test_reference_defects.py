"""Defects that were observed in duroxide 0.2.2, each as a regression test."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import apsw
import pytest
from engine import PATIENCE_S, World, until, waits_for

from perdure import App, Client, Limits, NotFound, WorkflowFailed, workflow


@pytest.mark.parametrize("verb", ["cancel", "raise_event", "send"])
@pytest.mark.parametrize("who", ["the node's client", "a client in another process"])
async def test_what_is_sent_to_nobody_stops_nobody(
    file_world: World, app: App, verb: str, who: str
) -> None:
    """A cancel or an event for an id that does not exist wedged the queue for everybody, until that id was started;
    then it was cancelled at once.
    """

    @app.workflow
    async def hello(name: str) -> str:
        return f"hello {name}"

    async def ask(client: Client) -> None:
        handle = client.get("nobody")
        await (handle.cancel("stop") if verb == "cancel" else getattr(handle, verb)("news", 1))

    async with file_world.node(app) as node, Client.open(node.store) as other:
        with pytest.raises(NotFound, match="no instance has the id 'nobody'"):
            await ask(node.client if who == "the node's client" else other)
        handles = [node.client.workflow(hello, id=f"h{i}") for i in range(5)]
        assert await asyncio.gather(*(h.run("you") for h in handles)) == ["hello you"] * 5
        assert await node.client.workflow(hello, id="nobody").run("somebody") == "hello somebody"


async def test_a_detached_start_in_the_turn_of_continue_as_new_begins(
    file_world: World, app: App
) -> None:
    """The history said that it was started, and it never was."""

    @app.workflow
    async def other() -> str:
        return "began"

    @app.workflow
    async def loop(again: bool) -> str:
        if again:
            workflow.child(other, id="other").detach()
            workflow.continue_as_new(loop, False)
        return "ended"

    async with file_world.node(app) as node:
        assert await node.client.workflow(loop, id="l").run(True) == "ended"
        await until(lambda: _there(node.client, "other"), "the detached one")
        assert await node.client.get("other").result(timeout=PATIENCE_S) == "began"


async def test_a_child_that_loses_a_race_in_the_turn_of_continue_as_new_is_cancelled(
    file_world: World, app: App
) -> None:
    """It ran on, with nobody who waited for it."""

    @app.workflow
    async def child() -> None:
        await workflow.receive("never", bool)

    @app.workflow
    async def loop(again: bool) -> str:
        if again:
            await workflow.select(workflow.child(child, id="child")(), workflow.receive("go", bool))
            workflow.continue_as_new(loop, False)
        return "ended"

    async with file_world.node(app) as node:
        handle = node.client.workflow(loop, id="l")
        await handle.start(True)
        await until(lambda: _there(node.client, "child"), "the child")
        await handle.send("go", True)
        assert await handle.result(timeout=PATIENCE_S) == "ended"
        assert (await node.client.get("child").wait(timeout=PATIENCE_S)).status == "cancelled"


@pytest.mark.parametrize("restart", [False, True])
async def test_the_limit_of_keys_counts_those_of_earlier_turns(
    file_world: World, app: App, restart: bool
) -> None:
    """Only the keys of one turn were counted: 240 were accepted with a limit of 150."""

    @app.workflow
    async def filling() -> None:
        for turn in range(4):
            for i in range(3):
                workflow.kv.set(f"turn {turn} key {i}", i)
            await workflow.receive("go", bool)

    limits = Limits(kv_keys=8)
    async with file_world.node(app, limits=limits) as node:
        handle = node.client.workflow(filling, id="f")
        await handle.start()
        await handle.send("go", True)
        if not restart:
            await _is_full(node.client)
    async with file_world.node(app, limits=limits) as node:
        if restart:
            await _is_full(node.client)


async def _is_full(client: Client) -> None:
    handle = client.get("f")
    await handle.send("go", True)
    with pytest.raises(WorkflowFailed, match=r"LimitExceeded.*8 keys.*Limits\.kv_keys"):
        await handle.result(timeout=PATIENCE_S)
    assert len(await handle.kv()) == 8


async def test_a_replay_writes_no_key_again(tmp_path: Path, app: App) -> None:
    """The time of each key was stamped anew by every replay, so that pruning by age missed keys, or failed with a
    nondeterminism. Here the times come from the journal: a replay leaves each row as it is, with its times.
    """
    world = World(f"sqlite:///{tmp_path}/x.db")
    replays: list[bool] = []

    @app.workflow
    async def keeping() -> list[str]:
        replays.append(workflow.info().is_replaying)
        workflow.kv.set("a", 1)
        workflow.kv.set("b", 2)
        await workflow.receive("go", bool)
        workflow.kv.delete("a")
        await workflow.receive("go", bool)
        return workflow.kv.keys()

    def rows() -> list[Any]:
        connection = apsw.Connection(str(tmp_path / "x.db"))
        try:
            return list(connection.execute("SELECT * FROM kv ORDER BY key"))
        finally:
            connection.close()

    async with world.node(app) as node:
        handle = node.client.workflow(keeping, id="k")
        await handle.start()
        await handle.send("go", True)
        before = await handle.describe()
    entries = rows()
    for _ in range(2):
        async with world.node(app) as node:
            await waits_for(node.client.get("k"), "message go")
            await node.client.get("k").raise_event("nothing")
    assert rows() == entries
    assert replays == [False, True, True]
    async with world.node(app) as node:
        handle = node.client.workflow(keeping, id="k")
        assert (await handle.describe()).created_at == before.created_at
        await handle.send("go", True)
        assert await handle.result(timeout=PATIENCE_S) == ["b"]


async def test_the_times_of_instances_and_executions_are_right(tmp_path: Path, app: App) -> None:
    """They were always 0 on SQLite."""
    world = World(f"sqlite:///{tmp_path}/x.db")
    clock = world.stop_time()
    began = clock.now_ms()

    @app.workflow
    async def loop(again: bool) -> None:
        await workflow.receive("go", bool)
        if again:
            workflow.continue_as_new(loop, False)

    async with world.node(app) as node:
        handle = node.client.workflow(loop, id="l", delay=1)
        await handle.start(True)
        await clock.until_armed(1_000)
        clock.advance(1_000)
        await waits_for(handle, "message go")
        clock.advance(10_000)
        await handle.send("go", True)
        await waits_for(handle, "message go")
        clock.advance(10_000)
        await handle.send("go", True)
        ended = await handle.wait(timeout=PATIENCE_S)
        first = await handle.history(1)
        second = await handle.history(2)

    def after(at: Any) -> int:
        return round(at.timestamp() * 1_000) - began

    assert after(ended.created_at) == 0
    assert ended.started_at is not None
    assert ended.closed_at is not None
    assert after(ended.closed_at) == 21_000
    assert first[0].event.at - began == 1_000  # type: ignore[union-attr]
    assert second[0].event.at - began == 11_000  # type: ignore[union-attr]
    assert second[-1].event.at - began == 21_000  # type: ignore[union-attr]


async def test_readers_and_writers_side_by_side_never_find_the_file_busy(
    tmp_path: Path, app: App, caplog: pytest.LogCaptureFixture
) -> None:
    """Transactions that began as readers and then wrote collided all the time ("database is locked")."""
    world = World(f"sqlite:///{tmp_path}/x.db")

    @app.activity
    async def double(i: int) -> int:
        return 2 * i

    @app.workflow
    async def working(i: int) -> int:
        for _ in range(4):
            i = await double(i)
            workflow.kv.set("i", i)
        return i

    with caplog.at_level(logging.WARNING):
        async with world.node(app) as node, Client.open(world.store) as other:

            async def read() -> None:
                for _ in range(20):
                    await other.list()
                    await other.counts()

            async def post(i: int) -> None:
                await other.workflow(working, id=f"posted-{i}").start(i)

            runs = [node.client.workflow(working, id=f"w{i}").run(i) for i in range(30)]
            results = await asyncio.gather(
                *runs, *(read() for _ in range(3)), *(post(i) for i in range(10))
            )
            assert results[:30] == [16 * i for i in range(30)]
            for i in range(10):
                assert await node.client.get(f"posted-{i}").result(timeout=PATIENCE_S) == 16 * i
    assert "locked" not in caplog.text
    assert "busy" not in caplog.text


async def _there(client: Client, id: str) -> bool:
    return bool(await client.list(id_prefix=id))
