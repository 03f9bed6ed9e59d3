"""Tasks: one attempt of an activity, leased by a worker, ended by a result with its token."""

# ruff: noqa: D102 - the name of a test says what it proves

from __future__ import annotations

import asyncio

from perdure.kernel.data.commit import Task
from perdure.kernel.data.message import ActivityDone, Message
from perdure.ports.store import (
    Posted,
)
from perdure.ports.tasks import Renewal, TaskMatch
from perdure.testing.conformance.scenario import (
    NOW,
    Scenario,
    StoreFactory,
    bodies_of,
    key_of,
    keys_of,
    request,
    scene,
    seqs_of,
    task,
    tasks_of,
)

LEASE_MS = 1_000


def _done(
    scenario: Scenario, task: Task, token: bytes | None = None, **changes: int | bytes
) -> Message:
    """The result that the holder of a lease posts."""
    fields = {
        "run": task.run,
        "execution": task.execution,
        "seq": task.seq,
        "attempt": task.attempt,
    } | changes
    body = ActivityDone(**fields, result=b"result")  # type: ignore[arg-type]
    if token is None:
        token = task.token
    return scenario.message(task.unit, body, sender=task.worker, token=token)


def _token_of(task: Task) -> bytes:
    """The token of a leased task."""
    assert task.token is not None
    return task.token


async def _lease(
    scenario: Scenario, limit: int = 10, worker: str = "worker", at: int = NOW
) -> list[Task]:
    return (await scenario.store.lease(request(worker=worker, limit=limit, at=at))).tasks


class Tasks:
    """Tasks and leases."""

    async def test_a_task_is_leased_once(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            added = task(scenario, "order")
            await scenario.applied("order", tasks_added=[added])
            [leased] = await _lease(scenario)
            assert leased.token
            assert (leased.worker, leased.expires_at) == ("worker", NOW + LEASE_MS)
            assert (leased.unit, leased.seq, leased.name, leased.input) == (
                "order",
                1,
                "render",
                b"input",
            )
            assert await _lease(scenario) == []
            assert (await scenario.load("order")).tasks == [leased]

    async def test_oldest_first_and_no_more_than_asked_for(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            for n in (3, 1, 2):
                await scenario.applied(
                    f"order-{n}", tasks_added=[task(scenario, f"order-{n}", visible_at=n)]
                )
            one, two = await _lease(scenario, 2)
            assert (one.unit, two.unit) == ("order-1", "order-2")
            [three] = await _lease(scenario, 2)
            assert three.unit == "order-3"

    async def test_a_task_that_is_not_visible_yet_is_skipped(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            added = [task(scenario, "order", 1, visible_at=NOW + 10), task(scenario, "order", 2)]
            await scenario.applied("order", tasks_added=added)
            assert seqs_of(await _lease(scenario)) == [2]
            assert seqs_of(await _lease(scenario, at=NOW + 10)) == [1]

    async def test_a_queue_has_its_own_tasks(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            added = [
                task(scenario, "order", 1, queue="cpu"),
                task(scenario, "order", 2, queue="gpu"),
            ]
            await scenario.applied("order", tasks_added=added)
            assert (await scenario.store.lease(request(queue="tpu"))).tasks == []
            found = await scenario.store.lease(request(queue="cpu"))
            assert seqs_of(found.tasks) == [1]
            [leased] = await _lease(scenario)
            assert (leased.seq, leased.queue) == (2, "gpu")

    async def test_two_workers_never_get_one_task(self, store_factory: StoreFactory) -> None:
        # Workers of several processes ask at the same time.
        async with scene(store_factory) as scenario:
            await scenario.applied("order", tasks_added=tasks_of(scenario, "order", *range(20)))
            shares = await asyncio.gather(*[_lease(scenario, 3, f"worker-{n}") for n in range(10)])
            leased: list[Task] = []
            for share in shares:
                leased += share
            assert sorted(seqs_of(leased)) == list(range(20))
            assert len(set(map(_token_of, leased))) == 20

    async def test_a_worker_gets_only_what_it_can_take(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            added = [
                task(scenario, "order", 1, name="render"),
                task(scenario, "order", 2, name="print"),
                task(scenario, "order", 3, name="render", tag="session-1"),
                task(scenario, "order", 4, name="print", tag="session-2"),
            ]
            await scenario.applied("order", tasks_added=added)

            async def lease(match: TaskMatch) -> list[int]:
                return seqs_of((await scenario.store.lease(request(match=match))).tasks)

            assert await lease(TaskMatch(names=())) == []
            assert await lease(TaskMatch(names=("render",))) == [1]
            assert await lease(TaskMatch(names=("render",), tags=("session-1", "x"))) == [3]
            assert await lease(TaskMatch()) == [2]
            assert await lease(TaskMatch(tags=("session-2",))) == [4]

    async def test_a_result_takes_the_task_and_reaches_the_unit(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order", tasks_added=[task(scenario, "order")])
            [leased] = await _lease(scenario)
            done = _done(scenario, leased)
            assert await scenario.post(done) == [Posted("accepted")]
            loaded = await scenario.load("order")
            assert loaded.tasks == []
            assert bodies_of(loaded.inbox) == [done.body]
            assert await scenario.post(done) == [Posted("duplicate")]

    async def test_a_second_result_has_lost_its_lease(self, store_factory: StoreFactory) -> None:
        # A worker that got no answer repeats its result, and so may a worker that was believed
        # dead.
        async with scene(store_factory) as scenario:
            await scenario.applied("order", tasks_added=[task(scenario, "order")])
            [leased] = await _lease(scenario)
            await scenario.accepted(_done(scenario, leased))
            assert await scenario.post(_done(scenario, leased)) == [Posted("lost_lease")]
            assert len(await scenario.inbox("order")) == 1

    async def test_a_result_needs_the_token_run_and_attempt(
        self, store_factory: StoreFactory
    ) -> None:
        # A late result must not complete the same call of another attempt, or of a later life of
        # the id.
        async with scene(store_factory) as scenario:
            await scenario.applied("order", tasks_added=[task(scenario, "order")])
            unleased = task(scenario, "order", token=b"guess")
            assert await scenario.post(_done(scenario, unleased)) == [Posted("lost_lease")]
            [leased] = await _lease(scenario)
            wrong = [
                _done(scenario, leased, token=b"another token"),
                _done(scenario, leased, run=b"another run"),
                _done(scenario, leased, execution=2),
                _done(scenario, leased, seq=2),
                _done(scenario, leased, attempt=2),
            ]
            assert await scenario.post(*wrong) == [Posted("lost_lease")] * len(wrong)
            loaded = await scenario.load("order")
            assert (loaded.tasks, loaded.inbox) == ([leased], [])

    async def test_a_late_result_counts_until_the_owner_settled_the_attempt(
        self, store_factory: StoreFactory
    ) -> None:
        # The work was done, and the lease is only a means to notice dead workers.
        async with scene(store_factory) as scenario:
            await scenario.applied(
                "order", tasks_added=[task(scenario, "order", 1), task(scenario, "order", 2)]
            )
            first, second = await _lease(scenario)
            # Only the owner decides whether there is another attempt.
            assert await _lease(scenario, at=NOW + 10 * LEASE_MS) == []
            assert await scenario.post(_done(scenario, first)) == [Posted("accepted")]
            await scenario.applied("order", 1, tasks_dropped=[key_of(second)])
            assert await scenario.post(_done(scenario, second)) == [Posted("lost_lease")]

    async def test_a_cancelled_task_is_gone(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            added = tasks_of(scenario, "order", 1, 2, 3, 4, 5)
            await scenario.applied("order", tasks_added=added)
            leased = (await _lease(scenario, 2))[0]
            # Dropping what is not there is fine.
            dropped = keys_of(tasks_of(scenario, "order", 1, 3, 4, 77))
            await scenario.applied("order", 1, tasks_dropped=dropped)
            assert seqs_of((await scenario.load("order")).tasks) == [2, 5]
            assert await scenario.post(_done(scenario, leased)) == [Posted("lost_lease")]
            assert seqs_of(await _lease(scenario)) == [5]

    async def test_tasks_of_other_runs_and_executions_stay(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            added = [
                task(scenario, "order", execution=1, run=b"a"),
                task(scenario, "order", execution=1, run=b"b"),
                task(scenario, "order", execution=2, run=b"a"),
                task(scenario, "order", execution=2, run=b"b"),
            ]
            await scenario.applied("order", tasks_added=added)
            await scenario.applied("order", 1, tasks_dropped=[key_of(added[2])])
            left = keys_of((await scenario.load("order")).tasks)
            assert left == [(b"a", 1, 1, 1), (b"b", 1, 1, 1), (b"b", 2, 1, 1)]
            leased = await _lease(scenario)
            assert keys_of(leased) == left
            for one in leased:
                assert await scenario.post(
                    _done(scenario, one, run=one.run, execution=one.execution)
                ) == [Posted("accepted")]
            assert (await scenario.load("order")).tasks == []

    async def test_what_a_commit_drops_and_adds_is_there_afterwards(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            old = task(scenario, "order", 1, name="old")
            await scenario.applied("order", tasks_added=[old])
            retry = [task(scenario, "order", 1, name="new"), task(scenario, "order", 2, attempt=2)]
            await scenario.applied(
                "order", 1, tasks_dropped=[key_of(old), key_of(retry[1])], tasks_added=retry
            )
            one, two = (await scenario.load("order")).tasks
            assert (one.seq, one.attempt, one.name) == (1, 1, "new")
            assert (two.seq, two.attempt, two.name) == (2, 2, "render")

    async def test_a_task_that_is_there_cannot_be_added_again(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order", tasks_added=[task(scenario, "order")])
            assert await scenario.apply(
                scenario.commit("order", 1, tasks_added=[task(scenario, "order")])
            ) == ["invalid"]

    async def test_a_renewal_extends_the_lease_and_keeps_details(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order", tasks_added=[task(scenario, "order")])
            [leased] = await _lease(scenario)
            assert leased.token is not None
            beat = Renewal("order", 1, 1, leased.token, LEASE_MS, b"half")
            assert await scenario.store.renew([beat], NOW + 600) == ["kept"]
            quiet = Renewal("order", 1, 1, leased.token, LEASE_MS)
            assert await scenario.store.renew([quiet], NOW + 900) == ["kept"]
            [kept] = (await scenario.load("order")).tasks
            assert (kept.expires_at, kept.details) == (NOW + 900 + LEASE_MS, b"half")
            assert await scenario.due(NOW + 600 + LEASE_MS) == {}

    async def test_a_renewal_of_what_is_gone_is_lost(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order", tasks_added=tasks_of(scenario, "order", 1, 2, 3))
            tokens = {one.seq: _token_of(one) for one in await _lease(scenario)}
            await scenario.accepted(_done(scenario, (await scenario.load("order")).tasks[0]))
            await scenario.applied("order", 1, tasks_dropped=[key_of(task(scenario, "order", 2))])
            renewals = [Renewal("order", seq, 1, tokens[seq], LEASE_MS) for seq in (1, 2, 3)]
            renewals += [
                Renewal("order", 3, 1, b"wrong", LEASE_MS),
                Renewal("nobody", 1, 1, b"t", LEASE_MS),
            ]
            assert await scenario.store.renew(renewals, NOW) == [
                "lost",
                "lost",
                "kept",
                "lost",
                "lost",
            ]

    async def test_an_expired_lease_can_be_renewed_while_its_row_is_there(
        self, store_factory: StoreFactory
    ) -> None:
        # A worker that was cut off for a moment goes on, if no decision was made meanwhile.
        async with scene(store_factory) as scenario:
            await scenario.applied("order", tasks_added=[task(scenario, "order")])
            [leased] = await _lease(scenario)
            renewal = Renewal("order", 1, 1, _token_of(leased), LEASE_MS)
            assert await scenario.store.renew([renewal], NOW + 5 * LEASE_MS) == ["kept"]
            assert await scenario.due(NOW + 5 * LEASE_MS) == {}

    async def test_a_deleted_or_replaced_run_has_no_tasks(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            for unit in ("deleted", "replaced"):
                await scenario.applied(unit, tasks_added=[task(scenario, unit)])
            leased = await _lease(scenario)
            await scenario.applied("deleted", 1, delete=NOW + 1_000)
            await scenario.applied(
                "deleted", row={"run": b"new"}, tasks_added=[task(scenario, "deleted", run=b"new")]
            )
            await scenario.applied("replaced", 1, {"run": b"new"})
            for one in leased:
                assert await scenario.post(_done(scenario, one)) == [Posted("lost_lease")]
            assert (await scenario.counts())["tasks"] == 1

    async def test_tasks_outlive_the_end_of_their_unit(self, store_factory: StoreFactory) -> None:
        # The commit that ends a unit names the tasks that it drops. Others stay.
        async with scene(store_factory) as scenario:
            await scenario.applied("order", tasks_added=[task(scenario, "order")])
            [leased] = await _lease(scenario)
            await scenario.applied("order", 1, {"status": "completed"})
            assert await scenario.store.renew(
                [Renewal("order", 1, 1, _token_of(leased), LEASE_MS)], NOW
            ) == ["kept"]
            assert await scenario.post(_done(scenario, leased)) == [Posted("accepted")]
