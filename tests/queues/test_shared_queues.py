"""Tasks of shared queues: run by whichever node serves the queue, once each, whatever happens to workers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from engine import PATIENCE_S, World, until, waits_for

from perdure import (
    App,
    Handle,
    Node,
    RetryPolicy,
    WorkflowFailed,
    WorkflowTerminated,
    activity,
    workflow,
)
from perdure.kernel.data.commit import Task
from perdure.kernel.data.message import ActivityDone, Message
from perdure.ports.store import Posted, Renewal, Store, TaskMatch, TaskRequest
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
        async def fails_twice() -> int:
            attempt = activity.info().attempt
            self.began.append((place, attempt))
            if attempt < 3:
                raise ValueError("not yet")
            return attempt

        self._define_workflows(app, where, where_on_thread, held, fails_twice)
        return app

    @staticmethod
    def _define_workflows(
        app: App, where: Any, where_on_thread: Any, held: Any, fails_twice: Any
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
            call = held()
            try:
                async with asyncio.timeout(0.05):
                    return await call
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


@pytest.fixture
def bench() -> Bench:
    return Bench()


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


# ---------------------------------------------------------------- where calls run


async def test_a_single_node_runs_its_own_tasks(world: World, bench: Bench) -> None:
    async with world.node(bench.app("here")) as node:
        assert await ran(node, "both") == ["here", "here"]
        assert await node.client.queues() == {}


async def test_a_worker_runs_what_the_owner_does_not_serve(world: World, bench: Bench) -> None:
    async with apart(world, bench, "worker") as (owner, _):
        assert await ran(owner, "both") == ["worker", "worker"]
        assert await tasks_of(world) == []


@pytest.mark.parametrize("serves", [None, ("gpu",)])
async def test_a_queue_that_no_app_declares_is_a_line_of_its_owner(
    world: World, serves: tuple[str, ...] | None
) -> None:
    bench = Bench(is_declared=False)
    async with world.node(bench.app("here"), serves=serves) as node:
        handle = handle_of(node, "holds")
        await handle.start({})
        await until(lambda: bool(bench.began), "the activity")
        assert await tasks_of(world) == []
        bench.ended.set()
        assert await handle.result(timeout=PATIENCE_S) == "here"


async def test_a_queue_that_its_owner_does_not_serve_goes_to_others(world: World) -> None:
    bench = Bench(is_declared=False)
    async with (
        world.node(bench.app("owner"), serves=("cpu",), **FAST) as owner,
        world.node(bench.app("worker"), worker_only=True, serves=("gpu",), **FAST),
    ):
        assert await ran(owner, "one") == "worker"


async def test_tasks_wait_until_there_is_a_worker(world: World, bench: Bench) -> None:
    async with world.node(bench.app("owner"), serves=(), **FAST) as owner:
        handle = handle_of(owner, "one")
        await handle.start()
        task = await stored_task(world)
        assert (task.queue, task.name, task.worker) == ("gpu", "where", None)
        async with world.node(bench.app("worker"), worker_only=True, serves=("gpu",), **FAST):
            assert await handle.result(timeout=PATIENCE_S) == "worker"


async def test_a_worker_owns_nothing(world: World, bench: Bench) -> None:
    async with world.node(bench.app("worker"), worker_only=True, **FAST) as worker:
        assert worker.scopes == {}
        handle = handle_of(worker, "one")
        await handle.start()
        async with world.node(bench.app("owner"), serves=(), **FAST):
            # The client of a worker reaches instances by the store.
            assert await handle.result(timeout=PATIENCE_S) == "worker"


async def test_a_worker_takes_only_activities_that_it_has(world: World, bench: Bench) -> None:
    async with apart(world, bench) as (owner, _):
        empty = App("bench")
        empty.queue("gpu")
        async with world.node(empty, worker_only=True, serves=("gpu",), **FAST):
            handle = handle_of(owner, "one")
            await handle.start()
            async with world.node(bench.app("able"), worker_only=True, **FAST):
                assert await handle.result(timeout=PATIENCE_S) == "able"


# ---------------------------------------------------------------- attempts


async def test_retries_are_tasks_of_their_own(world: World, bench: Bench) -> None:
    async with apart(world, bench, "worker") as (owner, _):
        assert await ran(owner, "stubborn") == 3
        assert bench.began == [("worker", 1), ("worker", 2), ("worker", 3)]
        assert await tasks_of(world) == []


async def test_a_timeout_ends_the_function_on_its_worker(world: World, bench: Bench) -> None:
    async with apart(world, bench, "worker") as (owner, _):
        with pytest.raises(WorkflowFailed, match="took too long"):
            await ran(owner, "holds", {"timeout": 0.05})
        await until(lambda: bench.cancelled == 1, "the cancel")


async def test_a_cancel_reaches_the_worker_at_once(world: World, bench: Bench) -> None:
    # Long before its lease is to be renewed.
    async with apart(world, bench, "worker", task_lease_ms=600_000) as (owner, _):
        assert await ran(owner, "impatient") == "gave up"
        await until(lambda: bench.cancelled == len(bench.began), "the cancel")
        assert await tasks_of(world) == []


async def test_the_end_of_an_instance_drops_its_tasks(world: World, bench: Bench) -> None:
    async with apart(world, bench, "worker") as (owner, _):
        handle = handle_of(owner, "holds")
        await handle.start({})
        await until(lambda: bool(bench.began), "the activity")
        await handle.terminate("enough")
        with pytest.raises(WorkflowTerminated):
            await handle.result(timeout=PATIENCE_S)
        await until(lambda: bench.cancelled == 1, "the cancel")
        assert await tasks_of(world) == []


async def test_a_held_instance_is_terminated_with_its_tasks(world: World, bench: Bench) -> None:
    async with world.node(bench.app("owner"), serves=(), **FAST) as owner:
        await handle_of(owner, "holds").start({})
    strange = App("bench")
    async with world.node(strange, serves=(), **FAST) as owner:
        handle = owner.client.workflow("holds", id="one")
        await handle.send("wake up", 1)
        await waits_for(handle, "not_registered")
        assert len(await tasks_of(world)) == 1
        await handle.terminate("enough")
        with pytest.raises(WorkflowTerminated):
            await handle.result(timeout=PATIENCE_S)
    assert await tasks_of(world) == []


async def test_continuing_as_new_drops_the_tasks_of_before(world: World, bench: Bench) -> None:
    async with apart(world, bench, "worker") as (owner, _):
        assert await ran(owner, "again", 2) == "worker"
        assert await tasks_of(world) == []
        await until(lambda: bench.cancelled == len(bench.began) - 1, "the cancels")


async def test_a_task_that_nobody_takes_is_given_up(world: World, bench: Bench) -> None:
    async with apart(world, bench) as (owner, _):
        first = ran(owner, "holds", {"start_timeout": 0.1}, unit="first")
        second = ran(owner, "holds", {"total_timeout": 0.1}, unit="second")
        with pytest.raises(WorkflowFailed, match="no worker of queue 'gpu' took it in time"):
            await first
        with pytest.raises(WorkflowFailed, match="all attempts together took too long"):
            await second
        assert await tasks_of(world, "first") == await tasks_of(world, "second") == []


# ---------------------------------------------------------------- workers that are lost


async def test_a_lost_worker_is_no_fault_of_the_activity(world: World, bench: Bench) -> None:
    # Without a policy, as after a crash of a node that runs its own activities.
    async with apart(world, bench) as (owner, _):
        handle = handle_of(owner, "one")
        await handle.start()
        await lease_by_hand(world)
        async with world.node(bench.app("worker"), worker_only=True, **FAST):
            assert await handle.result(timeout=PATIENCE_S) == "worker"
        assert bench.began == [("worker", 2)]


async def test_the_third_lost_worker_is_a_failure(world: World, bench: Bench) -> None:
    async with apart(world, bench) as (owner, _):
        handle = handle_of(owner, "one")
        await handle.start()
        for attempt in (1, 2, 3):
            assert (await lease_by_hand(world)).attempt == attempt
        with pytest.raises(WorkflowFailed, match="was lost") as caught:
            await handle.result(timeout=PATIENCE_S)
        assert "WorkerLost" in str(caught.value)
        assert await tasks_of(world) == []


async def test_a_late_result_is_dropped(world: World, bench: Bench) -> None:
    async with apart(world, bench) as (owner, _):
        handle = handle_of(owner, "one")
        await handle.start()
        lost = await lease_by_hand(world)

        async def is_second() -> bool:
            return [task.attempt for task in await tasks_of(world)] == [2]

        await until(is_second, "the second attempt")
        assert (await post_by_hand(world, lost)).outcome == "lost_lease"
        async with world.node(bench.app("worker"), worker_only=True, **FAST):
            assert await handle.result(timeout=PATIENCE_S) == "worker"


async def test_a_result_in_time_counts_once(world: World, bench: Bench) -> None:
    async with apart(world, bench) as (owner, _):
        handle = handle_of(owner, "one")
        await handle.start()
        leased = await lease_by_hand(world, 600_000)
        assert (await post_by_hand(world, leased)).outcome == "accepted"
        assert (await post_by_hand(world, leased)).outcome == "lost_lease"
        assert await handle.result(timeout=PATIENCE_S) == "late"


async def test_a_second_attempt_outlives_its_owner(world: World, bench: Bench) -> None:
    async with apart(world, bench) as (owner, _):
        await handle_of(owner, "one").start()
        await lease_by_hand(world)
        leased = await lease_by_hand(world, 600_000)
        assert leased.attempt == 2
    async with apart(world, bench) as (owner, _):
        handle = handle_of(owner, "one")
        # It brings the instance into memory, and has a turn of it.
        await handle.send("nothing", 1)
        assert [task.token for task in await tasks_of(world)] == [leased.token]
        assert (await post_by_hand(world, leased)).outcome == "accepted"
        assert await handle.result(timeout=PATIENCE_S) == "late"


async def test_details_of_heartbeats_reach_the_next_worker(world: World, bench: Bench) -> None:
    async with apart(world, bench) as (owner, _):
        handle = handle_of(owner, "holds")
        await handle.start({})
        lost = await lease_by_hand(world, 200)
        async with looked_into(world) as store:
            assert lost.token is not None
            beat = Renewal("one", lost.seq, 1, lost.token, 100, b"\x01\xa5lost ")
            assert await store.renew([beat], await store.now()) == ["kept"]
        bench.ended.set()
        async with world.node(bench.app("worker"), worker_only=True, **FAST):
            assert await handle.result(timeout=PATIENCE_S) == "lost worker"


async def test_a_worker_renews_its_leases(world: World, bench: Bench) -> None:
    async with apart(world, bench, "worker", task_lease_ms=150) as (owner, _):
        handle = handle_of(owner, "holds")
        await handle.start({})
        await until(lambda: bool(bench.began), "the activity")
        [first] = await tasks_of(world)

        async def is_renewed_often() -> bool:
            [task] = await tasks_of(world)
            return (task.expires_at or 0) > (first.expires_at or 0) + 400

        await until(is_renewed_often, "renewals")
        bench.ended.set()
        assert await handle.result(timeout=PATIENCE_S) == "worker"
        assert bench.began == [("worker", 1)]


# ---------------------------------------------------------------- workers and owners that stop


async def test_a_worker_that_stops_gives_its_tasks_back(world: World, bench: Bench) -> None:
    async with apart(world, bench, "first", task_lease_ms=600_000) as (owner, [first]):
        handle = handle_of(owner, "holds")
        await handle.start({})
        await until(lambda: bool(bench.began), "the activity")
        await first.stop()
        [task] = await tasks_of(world)
        assert (task.worker, task.attempt, task.expires_at) == (None, 1, None)
        bench.ended.set()
        async with world.node(bench.app("second"), worker_only=True, **FAST):
            # The same attempt, with what the first one had to say.
            assert await handle.result(timeout=PATIENCE_S) == "first second"
        assert bench.began == [("first", 1), ("second", 1)]


async def test_a_worker_that_stops_finishes_what_it_can(world: World, bench: Bench) -> None:
    async with apart(world, bench, "worker", stop_ms=20_000) as (owner, [worker]):
        handle = handle_of(owner, "holds")
        await handle.start({})
        await until(lambda: bool(bench.began), "the activity")
        stopping = asyncio.ensure_future(worker.stop())
        await asyncio.sleep(0)
        bench.ended.set()
        await stopping
        assert await handle.result(timeout=PATIENCE_S) == "worker"


async def test_tasks_go_on_while_there_is_no_owner(world: World, bench: Bench) -> None:
    async with world.node(bench.app("owner"), serves=(), **FAST) as owner:
        await handle_of(owner, "holds").start({})
        await stored_task(world)
    async with world.node(bench.app("worker"), worker_only=True, **FAST):
        await until(lambda: bool(bench.began), "the activity")
        # Another owner finds the task under way, and adds none.
        async with world.node(bench.app("owner"), serves=(), **FAST):
            assert len(await tasks_of(world)) == 1
        bench.ended.set()

        async def is_posted() -> bool:
            return await tasks_of(world) == []

        await until(is_posted, "the result")
    async with world.node(bench.app("owner"), serves=(), **FAST) as owner:
        handle = handle_of(owner, "holds")
        assert await handle.result(timeout=PATIENCE_S) == "worker"
    assert bench.began == [("worker", 1)]


async def test_a_local_call_becomes_a_task_under_another_owner(world: World) -> None:
    bench = Bench(is_declared=False)
    async with world.node(bench.app("first"), **FAST) as first:
        await handle_of(first, "holds").start({})
        await until(lambda: bool(bench.began), "the activity")
    bench.ended.set()
    async with world.node(bench.app("second"), serves=(), **FAST) as second:
        handle = handle_of(second, "holds")
        async with world.node(bench.app("worker"), worker_only=True, serves=("gpu",), **FAST):
            assert await handle.result(timeout=PATIENCE_S) == "worker"


async def test_a_task_stays_one_under_an_owner_that_serves_its_queue(world: World) -> None:
    bench = Bench(is_declared=False)
    async with world.node(bench.app("first"), serves=(), **FAST) as first:
        await handle_of(first, "holds").start({})
        await stored_task(world)
    async with world.node(bench.app("second"), **FAST) as second:
        handle = handle_of(second, "holds")
        # It has a turn, whose row says that the owner has nothing to do for it.
        await handle.send("nothing", 1)
        assert (await handle.describe()).wake_at is None
        bench.ended.set()
        assert await handle.result(timeout=PATIENCE_S) == "second"
    assert bench.began == [("second", 1)]


async def test_a_paused_instance_keeps_the_result(world: World, bench: Bench) -> None:
    async with apart(world, bench, "worker") as (owner, _):
        handle = handle_of(owner, "holds")
        await handle.start({})
        await until(lambda: bool(bench.began), "the activity")
        await handle.pause()
        bench.ended.set()

        async def is_posted() -> bool:
            return await tasks_of(world) == []

        await until(is_posted, "the result")
        await handle.resume()
        assert await handle.result(timeout=PATIENCE_S) == "worker"
        assert len(bench.began) == 1


# ---------------------------------------------------------------- many


async def test_two_workers_share_many_tasks(world: World, bench: Bench) -> None:
    async with apart(world, bench, "one", "two", activities=20) as (owner, _):
        assert await ran(owner, "crowd", 500) == 500
        assert len(bench.began) == 500
        assert {place for place, _ in bench.began} == {"one", "two"}
        assert await tasks_of(world) == []


async def test_an_instance_that_waits_for_workers_may_leave_memory(
    world: World, bench: Bench
) -> None:
    async with apart(world, bench, residents=1) as (owner, _):
        for n in range(5):
            await handle_of(owner, "holds", f"unit-{n}").start({})
        await until(lambda: owner.residents <= 1, "room in memory")
        bench.ended.set()
        async with world.node(bench.app("worker"), worker_only=True, **FAST):
            for n in range(5):
                found = await handle_of(owner, "holds", f"unit-{n}").result(timeout=PATIENCE_S)
                assert found == "worker"
        assert len(bench.began) == 5


def test_a_match_with_tags() -> None:
    task = Task("u", b"r", 1, 1, 1, "s", "gpu", "a", b"", tag="x")
    assert TaskMatch(tags=("x",), only_tagged=True).fits(task)
    assert not TaskMatch().fits(task)
