"""How a node stops: its client works until the activities have ended, the grace is waited for once, and what does not
end is named and left.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import pytest

from perdure import App, Client, NodeOptions, activity, workflow
from perdure.errors import StoreFormat, StoreUnavailable
from perdure.node.loop import loader, memory
from perdure.ports.store import Commit, InboxPart, Incarnation, Loaded, Verdict
from perdure.store.memory import MemoryStore


async def began(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), 30)


async def test_an_activity_uses_the_client_while_the_node_stops() -> None:
    app = App("stop")
    running, gate = asyncio.Event(), asyncio.Event()
    lives: list[int] = []

    @app.workflow
    async def other(n: int) -> int:
        return n

    @app.activity
    async def asking() -> int:
        lives.append(1)
        running.set()
        await gate.wait()
        return await activity.client().workflow(other, id="other").run(7)

    @app.workflow
    async def calling() -> int:
        return await asking()

    async with MemoryStore() as store:
        node = app.node(store)
        await node.start()
        await node.client.workflow(calling, id="c").start()
        await began(running)
        stopping = [asyncio.create_task(node.stop(5)) for _ in range(2)]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.wait_for(asyncio.gather(*stopping), 30)
        assert node.abandoned == ()
        async with app.node(store) as node:
            assert await node.client.workflow(calling, id="c").result(timeout=30) == 7
    assert lives == [1]


async def test_one_that_asks_too_late_is_given_up_and_has_not_failed() -> None:
    """What its cleanup meets after the cancel is no failure of the activity, whatever it is."""
    app = App("stop")
    running = asyncio.Event()
    lives: list[int] = []

    @app.workflow
    async def other() -> None: ...

    @app.activity
    async def asking() -> str:
        lives.append(1)
        if len(lives) == 2:
            return "done"
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            await activity.client().workflow(other, id="other").start()
            raise ValueError("in the cleanup")

    @app.workflow
    async def calling() -> str:
        return await asking()

    async with MemoryStore() as store:
        async with app.node(store, options=NodeOptions(stop_ms=1)) as node:
            await node.client.workflow(calling, id="c").start()
            await began(running)
        async with app.node(store) as node:
            assert await node.client.workflow(calling, id="c").result(timeout=30) == "done"
            assert await node.client.workflow(other, id="other").result(timeout=30) is None


async def test_what_does_not_end_is_waited_for_once_and_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = App("stop")
    release, threads = asyncio.Event(), threading.Event()
    running: list[str] = []

    @app.activity
    async def deaf() -> None:
        running.append("deaf")
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    @app.activity
    def blocked() -> None:
        running.append("blocked")
        threads.wait()

    @app.workflow
    async def calling(which: str) -> None:
        await (deaf() if which == "deaf" else blocked())

    async with MemoryStore() as store:
        node = app.node(store, options=NodeOptions(grace_ms=60_000))
        await node.start()
        for which in ("deaf", "blocked"):
            await node.client.workflow(calling, id=which).start(which)
        async with asyncio.timeout(30):
            while len(running) < 2:
                await asyncio.sleep(0)
        started = time.monotonic()
        with caplog.at_level(logging.WARNING, "perdure.activity"):
            await node.stop(3.0)
        took = time.monotonic() - started
        release.set()
        threads.set()
    assert 3.0 <= took < 6.0, "the grace once, and a moment for the cleanup"
    assert sorted(node.abandoned) == ["activity blocked of 'blocked'", "activity deaf of 'deaf'"]
    assert "the node stops without attempts that do not end (2)" in caplog.text


async def test_ten_thousand_that_wait_for_a_slot_do_not_hold_the_stop_up() -> None:
    app = App("stop")

    @app.activity
    async def slow() -> None:
        await asyncio.Event().wait()

    @app.workflow
    async def calling() -> None:
        await asyncio.gather(*(slow() for _ in range(1_000)))

    async with MemoryStore() as store:
        node = app.node(store, options=NodeOptions(activities=10))
        await node.start()
        for i in range(10):
            await node.client.workflow(calling, id=f"c-{i}").start()
        async with asyncio.timeout(20):
            while node.metrics.waiting < 9_990:
                await asyncio.sleep(0)
        began_s = time.process_time()  # a busy machine changes little
        await node.stop(0)
        assert time.process_time() - began_s < 1.0


EMBEDDED = """
import asyncio, time
from perdure import App, NodeOptions
app = App("e")
begun = []
@app.activity
def blocked() -> None:
    begun.append(1)
    time.sleep(50)
@app.workflow
async def calling() -> None:
    await blocked()
async def main():
    async with app.node("memory://", options=NodeOptions(stop_ms=10)) as node:
        await node.client.workflow(calling, id="c").start()
        while not begun:
            await asyncio.sleep(0)
asyncio.run(main())
print("over", flush=True)
"""


def test_a_thread_that_does_not_end_does_not_keep_the_program() -> None:
    done = subprocess.run(
        [sys.executable, "-c", EMBEDDED], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "over\n", done.stderr


class Slow(MemoryStore):
    """Takes its time for a commit while `gate` is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.asked = asyncio.Event(), asyncio.Event()
        self.gate.set()

    async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        self.asked.set()
        await self.gate.wait()
        return await super().commit(batch)


@pytest.mark.parametrize("where", ["an activity", "a commit", "memory"])
async def test_a_stop_that_is_cancelled_runs_no_line_of_a_workflow(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Units that a cancelled stop left behind would be the garbage collector's: it runs their cleanup."""
    app = App("stop")
    running = asyncio.Event()
    lines: list[str] = []
    cancelled: list[str] = []

    @app.activity
    async def long() -> None:
        try:
            running.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append("long")
            raise

    @app.workflow
    async def tidy(works: bool) -> None:
        try:
            if works:
                await long()
            await workflow.receive("go", bool)
            await workflow.receive("more", bool)
        finally:
            lines.append("its cleanup")
            await asyncio.sleep(1)

    if where == "memory":
        monkeypatch.setattr(memory, "_LEAVING_SLICE_S", 0)
    async with Slow() as store:
        node = app.node(store)
        await node.start()
        works = where == "an activity"
        await node.client.workflow(tidy, id="t").start(works)
        await node.client.workflow(tidy, id="u").start(works)
        waiting = asyncio.create_task(node.client.get("t").result(timeout=30))
        asking = []
        if works:
            await began(running)
        if where == "a commit":
            store.gate.clear()
            store.asked.clear()
            asking = [asyncio.create_task(node.client.get("t").send("go", True))]
            await began(store.asked)
        stopping = asyncio.create_task(node.stop(30))
        other = asyncio.create_task(node.stop())
        await asyncio.sleep(0)
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(stopping, 30)
        await asyncio.wait_for(other, 30)
        store.gate.set()
        for task in (waiting, *asking):
            with pytest.raises(StoreUnavailable, match="goes on when a node runs again"):
                await asyncio.wait_for(task, 30)
        async with asyncio.timeout(30):
            while len(asyncio.all_tasks()) > 1:
                await asyncio.sleep(0)
        gc.collect()
        assert lines == []
        assert cancelled == ["long"] * 2 * works
        async with app.node(store) as node:
            assert await node.client.get("t").status() == "running"
            assert await node.client.get("u").status() == "running"


@pytest.mark.parametrize("where", ["counted as suspects", "replayed"])
async def test_a_stop_that_is_cancelled_while_instances_are_loaded_replays_none_of_them(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App("stop")
    lines: list[str] = []

    @app.workflow
    async def tidy() -> None:
        lines.append("its first line")
        try:
            await workflow.receive("go", bool)
            await workflow.receive("more", bool)
        finally:
            lines.append("its cleanup")
            await asyncio.sleep(1)

    # One replay, and then the event loop has its turn.
    monkeypatch.setattr(loader, "_SLICE_S", 0)
    ids = [f"t-{n}" for n in range(5)]
    async with Slow() as store:
        async with app.node(store) as node:
            for unit in ids:
                await node.client.workflow(tidy, id=unit).start()
            scopes = list(node.scopes)
        async with Client.open(store) as outside:
            for unit in ids:
                await outside.get(unit).send("go", True)
        if where == "counted as suspects":
            # An owner that crashed: it has not released what it claimed.
            await store.claim(scopes, Incarnation("crashed", "ab" * 8))
            store.gate.clear()
        lines.clear()
        store.asked.clear()
        node = app.node(store)
        await node.start()
        async with asyncio.timeout(30):
            while not (lines or store.asked.is_set()):
                await asyncio.sleep(0)
        stopping = asyncio.create_task(node.stop())
        await asyncio.sleep(0)
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(stopping, 30)
        lines.clear()
        store.gate.set()
        async with asyncio.timeout(30):
            while len(asyncio.all_tasks()) > 1:
                await asyncio.sleep(0)
        gc.collect()
        assert lines == []
        async with app.node(store) as node:
            assert await node.client.get(ids[0]).status() == "running"


@pytest.mark.parametrize("where", ["a commit", "a load", "an inbox"])
async def test_what_a_store_answers_behind_a_stop_that_is_cancelled_is_no_error_of_a_task(
    where: str,
) -> None:
    """Nothing waits for the answer any more. A task that fails by it would be reported as a defect."""
    app = App("stop")
    reports: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: reports.append(context["message"])
    )

    @app.workflow
    async def echo() -> bool:
        return await workflow.receive("go", bool)

    class Answering(Slow):
        async def answer(self) -> None:
            if not self.gate.is_set():
                self.asked.set()
                await self.gate.wait()
                if where == "a commit":
                    raise StoreUnavailable("away", "none")
                raise StoreFormat("damaged")

        async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
            await self.answer()
            return await MemoryStore.commit(self, batch)

        async def load(self, units: Sequence[str]) -> list[Loaded]:
            await self.answer()
            return await super().load(units)

        async def inbox(self, unit: str, after: str | None, limit: int) -> InboxPart:
            await self.answer()
            return await super().inbox(unit, after, limit)

    async with Answering() as store:
        async with app.node(store) as node:
            await node.client.workflow(echo, id="e").start()
        node = app.node(store)
        if where == "a load":
            async with Client.open(store) as outside:
                await outside.get("e").send("go", True)
            store.gate.clear()
        await node.start()
        if where != "a load":
            await node.client.workflow(echo, id="f").start()
            store.gate.clear()
        if where == "an inbox":
            async with Client.open(store) as outside:
                await outside.get("f").send("go", True)
        asking = []
        if where == "a commit":
            asking.append(asyncio.create_task(node.client.get("f").send("go", True)))
        await began(store.asked)
        stopping = asyncio.create_task(node.stop())
        await asyncio.sleep(0)
        stopping.cancel()
        await asyncio.wait([*asking, stopping], timeout=30)
        assert stopping.cancelled()
        assert [str(task.exception())[:20] for task in asking] == ["the node has stopped"] * len(
            asking
        )
        store.gate.set()
        # A task that ends may have another one begun, and is let go in the pass behind that.
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1
        gc.collect()
        assert reports == []
