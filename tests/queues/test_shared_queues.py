"""Tasks of shared queues: run by whichever node serves the queue, once each, whatever happens to workers."""

from __future__ import annotations

import asyncio

import pytest
from engine import PATIENCE_S, World, until, waits_for
from workbench import (
    FAST,
    Bench,
    apart,
    handle_of,
    lease_by_hand,
    looked_into,
    post_by_hand,
    ran,
    stored_task,
    tasks_of,
)

from perdure import (
    App,
    RetryPolicy,
    WorkflowFailed,
    WorkflowTerminated,
    activity,
)
from perdure.kernel.data.commit import Task
from perdure.ports.tasks import Renewal, TaskMatch


@pytest.fixture
def bench() -> Bench:
    return Bench()


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


async def test_a_lost_worker_leaves_the_policy_its_attempts(world: World) -> None:
    app = App("policy")
    app.queue("gpu")
    attempts: list[int] = []

    @app.activity(queue="gpu", retry=RetryPolicy(maximum_attempts=2, initial_interval=0.01))
    async def fails_once() -> str:
        attempts.append(activity.info().attempt)
        if len(attempts) == 1:
            raise ValueError("not yet")
        return "done"

    @app.workflow
    async def job() -> str:
        return await fails_once()

    async with world.node(app, serves=(), **FAST) as owner:
        handle = owner.client.workflow(job, id="one")
        await handle.start()
        await lease_by_hand(world)
        async with world.node(app, worker_only=True, **FAST):
            assert await handle.result(timeout=PATIENCE_S) == "done"
    # The first one was lost. The policy allows two, and had two.
    assert attempts == [2, 3]


async def test_a_retry_waits_for_its_time(world: World) -> None:
    app = App("later")
    app.queue("gpu")

    @app.activity(queue="gpu", retry=RetryPolicy(initial_interval=900, maximum_interval=900))
    async def fails() -> None:
        raise ValueError("not yet")

    @app.workflow
    async def job() -> None:
        await fails()

    async with world.node(app, **FAST) as node:
        await node.client.workflow(job, id="one").start()

        async def is_second() -> bool:
            return [task.attempt for task in await tasks_of(world)] == [2]

        await until(is_second, "the second attempt")
        [task] = await tasks_of(world)
        assert task.visible_at > node.clock.now_ms() + 800_000
        depth = (await node.client.queues())["gpu"]
        assert (depth.visible, depth.delayed, depth.leased) == (0, 1, 0)


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
        lost = await lease_by_hand(world, 20_000)
        async with looked_into(world) as store:
            assert lost.token is not None
            beat = Renewal("one", lost.seq, 1, lost.token, 100, b"\x01\xa5lost ")
            assert await store.renew([beat], await store.now()) == ["kept"]
        bench.ended.set()
        async with world.node(bench.app("worker"), worker_only=True, **FAST):
            assert await handle.result(timeout=PATIENCE_S) == "lost worker"


async def test_a_worker_renews_its_leases(world: World, bench: Bench) -> None:
    async with apart(world, bench, "worker", task_lease_ms=1_000) as (owner, _):
        handle = handle_of(owner, "holds")
        await handle.start({})
        await until(lambda: bool(bench.began), "the activity")
        [first] = await tasks_of(world)

        async def is_renewed_often() -> bool:
            [task] = await tasks_of(world)
            return (task.expires_at or 0) > (first.expires_at or 0) + 1_500

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
