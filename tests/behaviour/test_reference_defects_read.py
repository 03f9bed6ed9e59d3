"""Defects that were found by reading duroxide 0.1.26, each as a regression test."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from typing import Any

import pytest
from engine import PATIENCE_S, World, until, waits_for

from perdure import ActivityError, App, Client, Failure, Node, RetryPolicy, workflow
from perdure.errors import StoreUnavailable
from perdure.kernel.data import events as ev
from perdure.kernel.data.commit import Commit, Verdict
from perdure.kernel.data.message import ActivityDone, Message
from perdure.ports.store import Journal, Query
from perdure.store.memory import MemoryStore


async def test_a_child_that_continues_as_new_keeps_its_parent(file_world: World, app: App) -> None:
    """It lost the link, and the parent waited for ever."""

    @app.workflow
    async def child(i: int) -> list[Any]:
        await workflow.receive("go", bool)
        if i < 2:
            workflow.continue_as_new(child, i + 1)
        return [i, workflow.info().parent]

    @app.workflow
    async def parent() -> list[Any]:
        return await workflow.child(child, id="child")(0)

    async with file_world.node(app) as node:
        await node.client.workflow(parent, id="p").start()
        await until(lambda: _there(node.client, "child"), "the child")
    for _ in range(3):
        async with file_world.node(app) as node:
            await node.client.get("child").send("go", True)
    async with file_world.node(app) as node:
        assert await node.client.get("p").result(timeout=PATIENCE_S) == [2, "p"]


async def test_a_childs_result_reaches_the_execution_that_called_it(
    file_world: World, app: App
) -> None:
    """The parent's execution was taken from memory, and was 1 after a restart or after continue-as-new."""

    @app.workflow
    async def child(name: str) -> str:
        return f"{name} {await workflow.receive('go', str)}"

    @app.workflow
    async def parent(execution: int) -> str:
        if execution == 1:
            workflow.child(child, id="first", parent_close="abandon")("first")
            await workflow.receive("next", bool)
            workflow.continue_as_new(parent, 2)
        return await workflow.child(child, id="second")("second")

    async with file_world.node(app) as node:
        handle = node.client.workflow(parent, id="p")
        await handle.start(1)
        await until(lambda: _there(node.client, "first"), "the first child")
        await handle.send("next", True)
        await until(lambda: _there(node.client, "second"), "the second child")
    async with file_world.node(app) as node:
        await node.client.get("first").send("go", "of the execution before")
        assert (
            await node.client.get("first").result(timeout=PATIENCE_S)
            == "first of the execution before"
        )
        assert await node.client.get("p").status() == "running"
        await node.client.get("second").send("go", "of this one")
        assert await node.client.get("p").result(timeout=PATIENCE_S) == "second of this one"


async def test_keys_have_one_order_whatever_the_order_in_which_they_came(
    world: World, app: App
) -> None:
    """Pruning went through a hash map: another order of events in each process."""
    names = [f"k{i}" for i in range(20)]

    async def body() -> list[list[str]]:
        seen = []
        for order in (names, names[::-1], names[1::2] + names[::2]):
            workflow.kv.clear()
            for name in order:
                workflow.kv.set(name, 1)
            seen.append(workflow.kv.keys())
        return seen

    assert await world.replayed(app, body) == [sorted(names)] * 3


async def test_a_node_that_stops_gives_its_store_back_at_once(file_world: World, app: App) -> None:
    """The calls that should have given a lock back were never awaited: others waited until it expired."""

    @app.workflow
    async def waiting() -> str:
        return await workflow.receive("go", str)

    clock = file_world.stop_time()
    async with file_world.node(app) as node:
        await node.client.workflow(waiting, id="w").start()
    async with file_world.node(app) as node:
        await node.client.get("w").send("go", "at once")
        assert await node.client.get("w").result(timeout=PATIENCE_S) == "at once"
    assert clock.now_ms() == file_world.stop_time().now_ms(), "no time had to pass"


class FailsOnce(MemoryStore):
    """The first commit with an event of this type fails in this way."""

    def __init__(self, event: type[ev.Event], error: StoreUnavailable | None) -> None:
        super().__init__()
        self.event = event
        self.error = error
        self.failed = False
        self.journals_read = 0

    async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        events = [
            e
            for commit in batch
            for chunk in commit.journal
            for e in ev.decode_events(chunk.events)
        ]
        if not self.failed and any(isinstance(e, self.event) for e in events):
            self.failed = True
            if self.error is not None:
                raise self.error
            return ["invalid"] * len(batch)
        return await super().commit(batch)

    async def query(self, query: Query) -> Any:
        self.journals_read += isinstance(query, Journal)
        return await super().query(query)


@pytest.mark.parametrize(
    "error", [StoreUnavailable("busy"), StoreUnavailable("lost", "unknown"), None], ids=str
)
async def test_an_append_that_failed_once_is_made_again_for_the_right_instance(
    app: App, error: StoreUnavailable | None
) -> None:
    """Every error of an append counted as permanent, and the failure was written without instance and execution."""

    @app.activity
    async def double(i: int) -> int:
        return 2 * i

    @app.workflow
    async def doubling(i: int, again: bool) -> int:
        if again:
            workflow.continue_as_new(doubling, i, False)
        return await double(i)

    async with FailsOnce(ev.ActivityCompleted, error) as store, World(store).node(app) as node:
        handle = node.client.workflow(doubling, id="d")
        assert await handle.run(21, True) == 42
        assert store.failed
        described = await handle.describe()
        assert (described.status, described.execution, described.failure) == ("completed", 2, None)


async def test_every_version_that_is_registered_is_run(file_world: World) -> None:
    """Of several ranges of versions only the first one was honoured."""
    app = App("test")
    for version in ("1.0.0", "2.0.0", "5.0.0"):

        @app.workflow(name="waiting", version=version)
        async def waiting() -> str:
            return f"{await workflow.receive('go', str)} {workflow.info().version}"

    versions = ("1.0.0", "2.0.0", "5.0.0")
    async with file_world.node(app) as node:
        for version in versions:
            await node.client.workflow("waiting", id=version, version=version).start()
    async with file_world.node(app) as node:
        for version in versions:
            await node.client.get(version).send("go", "on")
            assert await node.client.get(version).result(timeout=PATIENCE_S) == f"on {version}"


@pytest.mark.parametrize("end", ["returns", "fails", "continues", "is-cancelled"])
async def test_the_end_is_the_last_event(world: World, app: App, end: str) -> None:
    """Requests to cancel what was still running were written behind the end."""

    @app.activity
    async def slow() -> None:
        await asyncio.Event().wait()

    @app.workflow
    async def leaving(again: bool) -> None:
        slow()  # perdure: ignore[PD303]
        if again:
            await workflow.receive("go", bool)
            if end == "fails":
                raise ValueError
            if end == "continues":
                workflow.continue_as_new(leaving, False)

    async with world.node(app) as node:
        handle = node.client.workflow(leaving, id="l")
        await handle.start(True)
        await waits_for(handle, "activity slow")
        await (handle.cancel() if end == "is-cancelled" else handle.send("go", True))
        await handle.wait(timeout=PATIENCE_S)
        kinds = [type(e.event) for e in await handle.history(1)]
        assert kinds[-2] is ev.CommandCancelled
        assert kinds[-1] in (ev.Completed, ev.Failed, ev.ContinuedAsNew, ev.Cancelled)


@pytest.mark.parametrize("restart", [False, True])
async def test_a_failure_that_is_delivered_again_counts_once(
    file_world: World, app: App, restart: bool
) -> None:
    """A failure that came again was taken for a nondeterminism."""
    calls: list[int] = []

    @app.activity(retry=RetryPolicy(2, 0))
    async def bad() -> None:
        calls.append(1)
        raise ValueError("no")

    @app.workflow
    async def calling() -> str:
        try:
            await bad()
        except ActivityError as error:
            message = error.failure.message
        await workflow.receive("end", bool)
        return message

    async def again(node: Node) -> None:
        run = bytes.fromhex((await node.client.get("c").describe()).run)
        for attempt in (1, 2):
            body = ActivityDone(run, 1, 1, attempt, None, Failure("ValueError", "no"))
            await node.gateway.send(Message(os.urandom(16), "c", body, node.clock.now_ms(), 0, "c"))

    async with file_world.node(app) as node:
        handle = node.client.workflow(calling, id="c")
        await handle.start()
        await waits_for(handle, "message end")
        if not restart:
            await again(node)
            await handle.send("end", True)
    async with file_world.node(app) as node:
        handle = node.client.workflow(calling, id="c")
        if restart:
            await again(node)
            await handle.send("end", True)
        assert await handle.result(timeout=PATIENCE_S) == "no"
        kinds = [type(e.event) for e in await handle.history()]
        assert (kinds.count(ev.AttemptFailed), kinds.count(ev.ActivityFailed)) == (1, 1)
    assert len(calls) == 2


async def test_asking_for_the_status_reads_no_history(app: App) -> None:
    """Each look at the status read the whole history."""

    @app.workflow
    async def long() -> None:
        for _ in range(50):
            await asyncio.sleep(0.0001)
        await workflow.receive("end", bool)

    async with FailsOnce(ev.Terminated, None) as store, World(store).node(app) as node:
        handle = node.client.workflow(long, id="l")
        await handle.start()
        await waits_for(handle, "message end")
        await handle.status()
        await handle.custom_status(str)
        await node.client.list()
        await handle.send("end", True)
        await handle.wait(timeout=PATIENCE_S)
        assert store.journals_read == 0
        assert len(await handle.history()) > 100
        assert store.journals_read > 0, "it would have been seen"


async def test_a_timer_of_the_future_is_no_waiting_message(world: World, app: App) -> None:
    """The depth of the queue counted timers that were not due."""

    @app.workflow
    async def sleeping() -> None:
        await asyncio.sleep(3_600)

    async with world.node(app) as node:
        for i in range(5):
            await node.client.workflow(sleeping, id=f"s{i}").start()
        counts = await node.client.counts()
        assert (counts["running"], counts["inbox"], counts["tasks"]) == (5, 0, 0)


async def test_two_nodes_of_one_name_have_different_tokens(app: App) -> None:
    """A lock token was made of the time and the process id, which two machines can share."""
    nodes = [Node(app, "memory://", name="same") for _ in range(20)]
    assert len({node.incarnation.id for node in nodes}) == 20
    async with MemoryStore() as store:
        epochs = []
        for node in nodes:
            claims = await store.claim(["default/0"], node.incarnation)
            epochs += [claim.epoch for claim in claims.values()]
        assert epochs == sorted(set(epochs)), "the store raises the epoch with each claim"


async def test_versions_with_large_parts_are_in_order(world: World, app: App) -> None:
    """Versions were packed into one number: 1.1000.0 was 2.0.0."""
    for version in ("1.1000.0", "1.999.1001", "2.0.0", "1.1000.5000"):

        @app.workflow(name="numbered", version=version)
        async def numbered() -> str:
            return workflow.info().version

    assert app.workflows() == [("numbered", ["1.999.1001", "1.1000.0", "1.1000.5000", "2.0.0"])]
    async with world.node(app) as node:
        assert await node.client.workflow("numbered", id="a").run() == "2.0.0"
        assert (
            await node.client.workflow("numbered", id="b", version="1.1000.0").run() == "1.1000.0"
        )


async def test_a_message_that_cannot_be_read_is_kept_and_shown(
    world: World, app: App, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows of the queue that could not be decoded were skipped without a word, and then deleted."""
    from perdure.kernel.data.message import Unreadable

    @app.workflow
    async def waiting() -> str:
        return await workflow.receive("go", str)

    async with world.node(app) as node:
        handle = node.client.workflow(waiting, id="w")
        await handle.start()
        letter = Message(
            os.urandom(16),
            "w",
            Unreadable(b"\xc1", "invalid opcode"),
            node.clock.now_ms(),
            scope="default/0",
        )
        with caplog.at_level(logging.ERROR):
            await node.store.post([letter])
            await waits_for(handle, "undecodable")
        assert (await node.client.counts())["inbox"] == 1
        failure = (await handle.describe()).failure
        assert failure is not None
        assert letter.id.hex() in failure.message


async def test_a_parent_that_ends_before_its_child_is_told_nothing_more(
    world: World, app: App
) -> None:
    """What comes back for a call that is over is dropped, and does not stay in an inbox."""

    @app.workflow
    async def child() -> str:
        return await workflow.receive("go", str)

    @app.workflow
    async def parent() -> str:
        asyncio.ensure_future(workflow.child(child, id="child", parent_close="abandon")())
        return await workflow.receive("end", str)

    async with world.node(app) as node:
        handle = node.client.workflow(parent, id="p")
        await handle.start()
        await until(lambda: _there(node.client, "child"), "the child")
        await handle.send("end", "early")
        assert await handle.result(timeout=PATIENCE_S) == "early"
        before = await handle.history()
        await node.client.get("child").send("go", "late")
        assert await node.client.get("child").result(timeout=PATIENCE_S) == "late"
        await until(lambda: _empty(node.client), "the inboxes are empty")
        assert await handle.history() == before


async def _empty(client: Client) -> bool:
    return (await client.counts())["inbox"] == 0


async def _there(client: Client, id: str) -> bool:
    return bool(await client.list(id_prefix=id))
