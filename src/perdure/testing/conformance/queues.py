"""Queues: the order of tasks, the limits of a queue, sessions, and leases that are given back."""

# ruff: noqa: D102 - the name of a test says what it proves

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from msgspec.structs import replace

from perdure.kernel.data.commit import Task
from perdure.kernel.data.message import ActivityDone
from perdure.kernel.data.queue import STEP_MS, QueueRules, rank_of
from perdure.ports.store import (
    Overdue,
    Posted,
    Queues,
    Tasks,
    Waiting,
)
from perdure.ports.tasks import Renewal, SessionHold, TaskHint, TaskMatch
from perdure.testing.conformance.scenario import (
    NOW,
    Scenario,
    StoreFactory,
    request,
    scene,
    seqs_of,
    task,
    tasks_of,
)


async def _lease(scenario: Scenario, **changes: Any) -> list[Task]:
    return (await scenario.store.lease(request(**changes))).tasks


async def _leased_seqs(scenario: Scenario, **changes: Any) -> list[int]:
    return seqs_of(await _lease(scenario, **changes))


async def _finish(scenario: Scenario, leased: Task) -> None:
    """The worker of a task posts its result."""
    body = ActivityDone(leased.run, leased.execution, leased.seq, leased.attempt, b"result")
    await scenario.accepted(scenario.message(leased.unit, body, token=leased.token))


def _renewal(leased: Task, lease_ms: int = 1_000, details: bytes | None = None) -> Renewal:
    assert leased.token is not None
    return Renewal(leased.unit, leased.seq, leased.attempt, leased.token, lease_ms, details)


async def _keyed(scenario: Scenario, *keys: str | None, **fields: Any) -> None:
    """Add a task for each key, numbered from 1 in the order of their ranks."""
    added = [
        task(scenario, "order", seq, key=key, rank=seq, **fields) for seq, key in enumerate(keys, 1)
    ]
    await scenario.applied("order", tasks_added=added)


async def _of_sessions(scenario: Scenario, *sessions: str | None) -> None:
    """Add a task for each session, numbered from 1 in the order of their ranks."""
    added = [
        task(scenario, "order", seq, session=session, rank=seq)
        for seq, session in enumerate(sessions, 1)
    ]
    await scenario.applied("order", tasks_added=added)


class InLine:
    """Queues."""

    # ------------------------------------------------------------ order

    async def test_tasks_go_by_rank(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            added = [
                task(scenario, "order", 1, visible_at=NOW, rank=rank_of(NOW, 5)),
                task(scenario, "order", 2, visible_at=NOW, rank=rank_of(NOW, 0)),
                # It has waited for an hour and a bit, which is worth one step.
                task(scenario, "order", 3, visible_at=1, rank=rank_of(NOW - STEP_MS - 1, 1)),
                task(scenario, "order", 4, visible_at=NOW + 9, rank=0),
            ]
            await scenario.applied("order", tasks_added=added)
            assert await _leased_seqs(scenario, limit=2) == [3, 2]
            assert await _leased_seqs(scenario) == [1]

    async def test_a_worker_learns_when_to_ask_again(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            added = [task(scenario, "order", n, visible_at=NOW + 10 * n) for n in (1, 2)]
            await scenario.applied("order", tasks_added=added)
            nothing = await scenario.store.lease(request())
            assert (nothing.tasks, nothing.again_at) == ([], NOW + 10)
            one = await scenario.store.lease(request(at=NOW + 10, limit=1))
            assert (seqs_of(one.tasks), one.again_at) == ([1], NOW + 10)
            last = await scenario.store.lease(request(at=NOW + 20))
            assert (seqs_of(last.tasks), last.again_at) == ([2], None)

    async def test_the_oldest_task_that_waits_has_an_age(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            added = [
                task(scenario, "order", 1, visible_at=NOW - 50),
                task(scenario, "order", 2, visible_at=NOW - 20),
                task(scenario, "order", 3, visible_at=NOW + 20),
            ]
            await scenario.applied("order", tasks_added=added)
            [depth] = await scenario.all(Queues(at=NOW))
            assert (depth.visible, depth.delayed, depth.oldest_ms) == (2, 1, 50)
            await _lease(scenario, limit=2)
            [depth] = await scenario.all(Queues(at=NOW))
            assert (depth.visible, depth.leased, depth.oldest_ms) == (0, 2, 0)

    async def test_a_worker_of_tags_can_leave_others_alone(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            added = [task(scenario, "order", 1), task(scenario, "order", 2, tag="fast")]
            await scenario.applied("order", tasks_added=added)
            only = TaskMatch(tags=("fast",), only_tagged=True)
            assert await _leased_seqs(scenario, match=only) == [2]
            assert await _leased_seqs(scenario) == [1]

    async def test_a_lease_says_since_when(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            added = [task(scenario, "order", ends_at=NOW + 9_000, call=b"call", key="k")]
            await scenario.applied("order", tasks_added=added)
            [leased] = await _lease(scenario, at=NOW + 5)
            assert (leased.leased_at, leased.ends_at) == (NOW + 5, NOW + 9_000)
            assert (leased.call, leased.key) == (b"call", "k")
            assert (await scenario.load("order")).tasks == [leased]

    # ------------------------------------------------------------ limits

    async def test_no_more_tasks_than_the_queue_allows(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order", tasks_added=tasks_of(scenario, "order", 1, 2, 3))
            rules = QueueRules(concurrency=2)
            one, _ = await _lease(scenario, rules=rules)
            # The limit is that of the queue, and not of a worker.
            blocked = await scenario.store.lease(request(rules=rules, worker="other"))
            assert blocked.tasks == []
            # Nothing tells it that another worker has finished a task.
            assert blocked.again_at == NOW + 1_000
            await _finish(scenario, one)
            assert await _leased_seqs(scenario, rules=rules, worker="other") == [3]

    async def test_workers_that_ask_at_once_keep_to_the_limit(
        self, store_factory: StoreFactory
    ) -> None:
        # Each sees the tasks that the others are taking at this moment, or waits for them.
        async with scene(store_factory) as scenario:
            await scenario.applied("order", tasks_added=tasks_of(scenario, "order", *range(40)))
            rules = QueueRules(concurrency=7)
            shares = await asyncio.gather(
                *[_lease(scenario, rules=rules, limit=3, worker=f"worker-{n}") for n in range(10)]
            )
            assert sum(map(len, shares)) == 7

    async def test_no_more_tasks_of_a_key_than_allowed(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            # Tasks without a key do not share one.
            await _keyed(scenario, "a", "a", "a", "b", None, None)
            rules = QueueRules(per_key=1)
            first, *others = await _lease(scenario, rules=rules)
            assert (first.seq, seqs_of(others)) == (1, [4, 5, 6])
            assert await _leased_seqs(scenario, rules=rules) == []
            await _finish(scenario, first)
            assert await _leased_seqs(scenario, rules=rules, limit=1) == [2]

    async def test_a_full_key_hides_no_other(self, store_factory: StoreFactory) -> None:
        # However many tasks of the key stand in front.
        async with scene(store_factory) as scenario:
            await _keyed(scenario, *["busy"] * 30, "calm")
            assert await _leased_seqs(scenario, rules=QueueRules(per_key=2), limit=3) == [1, 2, 31]

    async def test_a_task_is_leased_once_beside_a_full_key(
        self, store_factory: StoreFactory
    ) -> None:
        # The search that goes on behind the full key does not come back to those in front of it.
        async with scene(store_factory) as scenario:
            await _keyed(scenario, None, "busy", "busy", "busy", None, None)
            rules = QueueRules(per_key=2)
            assert await _leased_seqs(scenario, rules=rules, limit=4) == [1, 2, 3, 5]
            assert await _leased_seqs(scenario, rules=rules, limit=4) == [6]

    async def test_a_task_is_leased_once_beside_a_session_without_room(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            await _of_sessions(scenario, None, "a", "b", "c", None, None)
            match = TaskMatch(sessions=1)
            assert await _leased_seqs(scenario, match=match, limit=4) == [1, 2, 5, 6]

    async def test_no_more_tasks_begin_than_the_rate_allows(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order", tasks_added=tasks_of(scenario, "order", *range(9)))
            rules = QueueRules(rate=3, rate_ms=1_000)
            first = await _lease(scenario, rules=rules, limit=2)
            for one in first:
                await _finish(scenario, one)  # what has ended has begun all the same
            assert len(await _lease(scenario, rules=rules, at=NOW + 500, worker="other")) == 1
            assert await _lease(scenario, rules=rules, at=NOW + 900) == []
            assert len(await _lease(scenario, rules=rules, at=NOW + 1_100)) == 2
            assert await _lease(scenario, rules=rules, at=NOW + 1_400) == []
            assert len(await _lease(scenario, rules=rules, at=NOW + 1_600)) == 1

    async def test_a_rate_holds_in_every_period(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order", tasks_added=tasks_of(scenario, "order", *range(60)))
            rules = QueueRules(rate=5, rate_ms=100)
            begun: list[int] = []
            for at in range(NOW, NOW + 700, 7):
                begun += [at] * len(await _lease(scenario, rules=rules, limit=2, at=at))
            assert max(sum(at <= b < at + 100 for b in begun) for at in begun) == 5
            assert len(begun) >= 30

    # ------------------------------------------------------------ sessions

    async def test_a_session_stays_with_its_worker(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await _of_sessions(scenario, "s", "s", None, "t")
            assert await _leased_seqs(scenario, limit=1, worker="one") == [1]
            assert await _leased_seqs(scenario, worker="two") == [3, 4]
            assert await _leased_seqs(scenario, worker="one") == [2]

    async def test_a_session_of_a_lost_worker_is_free(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await _of_sessions(scenario, "s", "s", "s")
            store = scenario.store
            await _lease(scenario, limit=1, worker="one")
            hold = SessionHold("gpu", "s", "one", 500)
            assert await store.hold_sessions([hold], NOW + 900) == [True]
            assert await _leased_seqs(scenario, worker="two", at=NOW + 1_399) == []
            assert await _leased_seqs(scenario, worker="two", limit=1, at=NOW + 1_400) == [2]
            assert await store.hold_sessions([hold], NOW + 1_401) == [False]
            assert await _leased_seqs(scenario, worker="one", at=NOW + 1_402) == []

    async def test_a_session_is_given_up(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await _of_sessions(scenario, "s", "s")
            store = scenario.store
            await _lease(scenario, limit=1, worker="one")
            foreign = SessionHold("gpu", "s", "two", 0)
            assert await store.hold_sessions([foreign], NOW) == [False]
            holds = [SessionHold("gpu", "s", "one", 0), SessionHold("cpu", "s", "one", 0)]
            assert await store.hold_sessions(holds, NOW) == [True, False]
            assert await _leased_seqs(scenario, worker="two") == [2]

    async def test_a_worker_has_no_more_sessions_than_it_may(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            await _of_sessions(scenario, "a", "b", "c", "a", None)
            match = TaskMatch(sessions=2)
            assert await _leased_seqs(scenario, match=match) == [1, 2, 4, 5]
            assert await _leased_seqs(scenario, match=TaskMatch(sessions=0), worker="two") == []
            assert await _leased_seqs(scenario, match=match, worker="two") == [3]

    async def test_two_workers_never_open_one_session(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            # Most of them find all five sessions without a worker.
            await _of_sessions(scenario, *[f"s-{n % 5}" for n in range(30)])
            shares = await asyncio.gather(
                *[_lease(scenario, limit=4, worker=f"worker-{n}") for n in range(8)]
            )
            workers: dict[str, set[str]] = {}
            for share in shares:
                for one in share:
                    workers.setdefault(str(one.session), set()).add(str(one.worker))
            assert workers
            assert all(len(found) == 1 for found in workers.values())

    # ------------------------------------------------------------ leases that end

    async def test_a_task_that_is_given_back_is_the_same_attempt(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            added = [task(scenario, "order", ends_at=NOW + 9_000)]
            await scenario.applied("order", tasks_added=added)
            [leased] = await _lease(scenario)
            back = _renewal(leased, details=b"half")
            assert await scenario.store.give_back([back]) == [TaskHint("gpu")]
            [free] = (await scenario.load("order")).tasks
            assert (free.worker, free.token, free.leased_at) == (None, None, None)
            assert (free.expires_at, free.details) == (NOW + 9_000, b"half")
            done = ActivityDone(leased.run, leased.execution, leased.seq, leased.attempt, b"late")
            late = scenario.message("order", done, token=leased.token)
            assert await scenario.post(late) == [Posted("lost_lease")]
            [again] = await _lease(scenario, worker="other")
            assert (again.seq, again.attempt, again.details) == (1, 1, b"half")
            # The lease is another one by now.
            assert await scenario.store.give_back([back]) == []
            # And what the old worker says of it has no effect.
            assert (await scenario.load("order")).tasks == [again]

    async def test_the_queues_that_have_something_to_do(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            added = [
                task(scenario, "order", 1, queue="b"),
                task(scenario, "order", 2, queue="a"),
                task(scenario, "order", 3, queue="later", visible_at=NOW + 5),
                task(scenario, "order", 4, queue="taken"),
                task(scenario, "order", 5, queue="a"),
                task(scenario, "order", 6, queue="not asked for"),
            ]
            await scenario.applied("order", tasks_added=added)
            await _lease(scenario, queue="taken")
            asked = ("taken", "b", "a", "later", "none")
            for limit in (1, 2, 10):
                query = Waiting(queues=asked, at=NOW, limit=limit)
                assert await scenario.all(query) == ["a", "b"]
            later = Waiting(queues=asked, at=NOW + 5)
            assert await scenario.all(later) == ["a", "b", "later"]
            assert await scenario.all(Waiting(queues=(), at=NOW)) == []

    async def test_the_tasks_of_a_unit_page(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            added = tasks_of(scenario, "order", 3, 1, 2)
            await scenario.applied("order", tasks_added=added)
            await scenario.applied("other", tasks_added=[task(scenario, "other")])
            [leased] = await _lease(scenario, limit=1)
            for limit in (1, 2, 10):
                found = await scenario.all(Tasks(unit="order", limit=limit))
                assert seqs_of(found) == [1, 2, 3]
                assert found[0] == replace(leased, input=b"")
            assert await scenario.all(Tasks(unit="nobody")) == []

    async def test_tasks_whose_time_has_passed_are_found(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            added = [
                task(scenario, "order", 1, rank=1),
                task(scenario, "order", 2, rank=2, expires_at=NOW + 500),
                task(scenario, "order", 3, rank=3),
                task(scenario, "order", 4, rank=4, expires_at=NOW + 400),
            ]
            await scenario.applied("order", tasks_added=added)
            [leased] = await _lease(scenario, limit=1)
            await scenario.store.renew([_renewal(leased, 450, b"half")], NOW)
            scope = (scenario.scope("order"),)
            expired = (await scenario.load("order")).tasks[0]
            for limit in (1, 2, 10):
                query = Overdue(scopes=scope, at=NOW + 500, limit=limit)
                four, one, two = await scenario.all(query)
                assert one == replace(expired, input=b"")
                assert (four.seq, four.worker, two.seq, two.worker) == (4, None, 2, None)
            assert (expired.seq, expired.worker, expired.details) == (1, "worker", b"half")
            assert seqs_of(await scenario.all(Overdue(scopes=scope, at=NOW + 449))) == [4]
            assert await scenario.all(Overdue(scopes=("elsewhere",), at=NOW + 500)) == []
            assert await scenario.all(Overdue(scopes=(), at=NOW + 500)) == []

    # ------------------------------------------------------------ hints

    async def test_workers_are_told(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            hints = scenario.store.task_hints()
            told = {TaskHint("gpu"), TaskHint("gpu", is_drop=True), TaskHint("cpu")}
            scenario.store.tell_workers(list(told))
            heard: set[TaskHint] = set()
            with suppress(TimeoutError):
                async with asyncio.timeout(5):
                    async for hint in hints:
                        heard.add(hint)
                        if heard == told:
                            break
            assert heard == told
