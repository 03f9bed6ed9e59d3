"""An app that says where it runs, nodes that share its queue, and workers that a test plays by hand."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from engine import PATIENCE_S, World, until

from perdure import (
    App,
    Handle,
    Node,
    RetryPolicy,
    activity,
    workflow,
)
from perdure.kernel.data.commit import Task
from perdure.kernel.data.message import ActivityDone, Message
from perdure.ports.store import (
    Posted,
    Store,
)
from perdure.ports.tasks import TaskRequest
from perdure.store import open_store

FAST = {"rescan_ms": 50, "task_lease_ms": 2_000}
"""Options of nodes that notice soon what no hint tells."""


class Bench:
    """An app whose activities say where they run, and wait until they are let go."""

    def __init__(self, *, is_declared: bool = True) -> None:
        self.began: list[tuple[str, int]] = []
        self.cancelled = 0
        self.ended = asyncio.Event()
        self.apps: dict[str, App] = {}
        self._is_declared = is_declared

    def app(self, place: str, **rules: Any) -> App:
        """The same app, as it is deployed to a place."""
        app = App("bench")
        self.apps[place] = app
        if self._is_declared:
            app.queue("gpu", **rules)

        @app.activity(queue="gpu")
        async def where() -> str:
            self.began.append((place, activity.info().attempt))
            return place

        @app.activity(queue="gpu")
        def where_on_thread() -> str:
            return place

        @app.activity(queue="gpu")
        async def held() -> str:
            self.began.append((place, activity.info().attempt))
            last = activity.info().last_heartbeat(str)
            activity.heartbeat(f"{last or ''}{place} ")
            try:
                await self.ended.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            return f"{last or ''}{place}"

        @app.activity(queue="gpu")
        async def quiet() -> None:
            self.began.append((place, activity.info().attempt))
            try:
                await self.ended.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise

        @app.activity(queue="gpu")
        async def fails_twice() -> int:
            attempt = activity.info().attempt
            self.began.append((place, attempt))
            if attempt < 3:
                raise ValueError("not yet")
            return attempt

        self._define_workflows(app, where, where_on_thread, held, quiet, fails_twice)
        return app

    @staticmethod
    def _define_workflows(
        app: App, where: Any, where_on_thread: Any, held: Any, quiet: Any, fails_twice: Any
    ) -> None:
        @app.workflow
        async def one() -> str:
            return await where()

        @app.workflow
        async def both() -> list[str]:
            return list(await asyncio.gather(where(), where_on_thread()))

        @app.workflow
        async def holds(options: dict[str, Any]) -> str:
            found: str = await held.with_options(**options)()
            return found

        @app.workflow
        async def stubborn() -> int:
            policy = RetryPolicy(maximum_attempts=3, initial_interval=0.01)
            return await fails_twice.with_options(retry=policy)()

        @app.workflow
        async def impatient() -> str:
            # It sends no heartbeat, so nothing but the cancel is a reason to renew its lease.
            call = quiet()
            try:
                async with asyncio.timeout(0.5):
                    await call
                return "in time"
            except TimeoutError:
                return "gave up"

        @app.workflow
        async def crowd(count: int) -> int:
            return len(await asyncio.gather(*[where() for _ in range(count)]))

        @app.workflow
        async def again(left: int) -> str:
            if left:
                _ = held()
                await workflow.sleep(0.01)
                workflow.continue_as_new(again, left - 1)
            return await where()


@asynccontextmanager
async def apart(
    world: World, bench: Bench, *workers: str, rules: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[tuple[Node, list[Node]]]:
    """A node that owns everything and serves no queue, and nodes that only work."""
    given = FAST | options
    nodes: list[Node] = []
    async with world.node(bench.app("owner"), serves=(), **given) as owner:
        try:
            for name in workers:
                app = bench.app(name, **(rules or {}))
                nodes.append(world.node(app, worker_only=True, **given))
                await nodes[-1].start()
            yield owner, nodes
        finally:
            for node in nodes:
                await node.stop()


def handle_of(node: Node, name: str, unit: str = "one") -> Handle[Any]:
    return node.client.workflow(name, id=unit)


async def ran(node: Node, name: str, *args: Any, unit: str = "one") -> Any:
    """Run a workflow to its end."""
    handle = handle_of(node, name, unit)
    await handle.start(*args)
    return await handle.result(timeout=PATIENCE_S)


@asynccontextmanager
async def looked_into(world: World) -> AsyncIterator[Store]:
    """The store of a world, beside its nodes."""
    if not isinstance(world.store, str):
        yield world.store
        return
    async with open_store(world.store) as store:
        yield store


async def tasks_of(world: World, unit: str = "one") -> list[Task]:
    async with looked_into(world) as store:
        return (await store.load([unit]))[0].tasks


async def stored_task(world: World, unit: str = "one") -> Task:
    """The one task of an instance, once it is stored."""
    found: list[Task] = []

    async def is_stored() -> bool:
        found.extend(await tasks_of(world, unit))
        return bool(found)

    await until(is_stored, "a task")
    return found[0]


async def lease_by_hand(world: World, lease_ms: int = 100, *, worker: str = "lost") -> Task:
    """Lease the one task as a worker that never says anything more."""
    async with looked_into(world) as store:
        found: list[Task] = []

        async def leases() -> bool:
            request = TaskRequest(
                queue="gpu", worker=worker, limit=1, lease_ms=lease_ms, at=await store.now()
            )
            found.extend((await store.lease(request)).tasks)
            return bool(found)

        await until(leases, "a task to lease")
        return found[0]


async def post_by_hand(world: World, task: Task) -> Posted:
    """Post a result as the worker that has leased the task."""
    body = ActivityDone(task.run, task.execution, task.seq, task.attempt, b"\x01\xa4late")
    message = Message(os.urandom(16), task.unit, body, 0, 0, "lost", None, task.scope, task.token)
    async with looked_into(world) as store:
        return (await store.post([message]))[0]
