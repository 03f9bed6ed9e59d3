"""Counts of stored rows: those that wait now, and those that wait for their time."""

# ruff: noqa: D102 - the name of a test says what it proves

from __future__ import annotations

from typing import get_args

from msgspec.structs import astuple

from perdure.kernel.data.commit import ExecutionRow, Status, Task
from perdure.ports.store import Queues, Totals
from perdure.testing.conformance.scenario import (
    NOW,
    Scenario,
    StoreFactory,
    answer,
    chunk,
    request,
    scene,
    task,
    tasks_of,
)

NOTHING = {
    **dict.fromkeys(get_args(Status), 0),
    **dict.fromkeys(
        ("executions", "history_events", "history_bytes", "messages", "messages_delayed"), 0
    ),
    **dict.fromkeys(("tasks", "tasks_delayed", "tasks_leased", "tasks_expired"), 0),
    **dict.fromkeys(("answers", "tombstones", "dead_letters", "starts"), 0),
}


async def _totals(scenario: Scenario, at: int = NOW) -> dict[str, int]:
    """The numbers that are not 0."""
    found = dict((await scenario.store.query(Totals(at=at))).items)
    assert found.keys() == NOTHING.keys()
    return {name: count for name, count in found.items() if count}


class Counting:
    """Totals and queues."""

    async def test_an_empty_store_has_nothing(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            assert dict((await scenario.store.query(Totals(at=NOW))).items) == NOTHING
            assert (await scenario.store.query(Queues(at=NOW))).items == []

    async def test_executions_and_their_events_are_counted(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            long = {"execution": 3, "journal_events": 5, "journal_bytes": 50}
            ended = [ExecutionRow(1, "1.0.0", 1, 2, 100), ExecutionRow(2, "1.0.0", 1, 2, 100)]
            await scenario.applied(
                "long", row=long, ended=ended, journal=[chunk(execution=3, count=5)]
            )
            done = {"status": "completed", "journal_bytes": 8}
            await scenario.applied("done", row=done, journal=[chunk(count=2)])
            counted = {
                "running": 1,
                "completed": 1,
                "executions": 4,
                "history_events": 207,
                "history_bytes": 58,
            }
            assert await _totals(scenario) == counted
            await scenario.applied("long", 1, long, prune=[1])
            assert await _totals(scenario) == counted | {"executions": 3, "history_events": 107}

    async def test_what_is_not_visible_yet_does_not_wait(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            row = {"wake_at": NOW + 60_000}  # a timer, which is no message
            await scenario.applied(
                "order", row=row, tasks_added=[task(scenario, "order", 1, visible_at=NOW + 10)]
            )
            await scenario.post(
                scenario.message("order"), scenario.start("later", visible_at=NOW + 10)
            )
            there = {"running": 1, "executions": 1, "messages": 1, "starts": 1}
            assert await _totals(scenario) == there | {"messages_delayed": 1, "tasks_delayed": 1}
            assert await _totals(scenario, NOW + 10) == there | {"messages": 2, "tasks": 1}

    async def test_leased_tasks_do_not_wait_and_lost_ones_show(
        self, store_factory: StoreFactory
    ) -> None:
        # An expired lease is a sign of a dead worker, which an operator has to see.
        async with scene(store_factory) as scenario:
            added = tasks_of(scenario, "order", 1, 2)
            await scenario.applied("order", tasks_added=added)
            await scenario.store.lease(request(worker="worker", limit=1, lease_ms=100, at=NOW))
            there = {"running": 1, "executions": 1, "tasks": 1}
            assert await _totals(scenario, NOW + 99) == there | {"tasks_leased": 1}
            assert await _totals(scenario, NOW + 100) == there | {"tasks_expired": 1}

    async def test_what_is_left_of_the_past_is_counted(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory, undelivered_ms=10) as scenario:
            await scenario.applied("gone")
            await scenario.applied("gone", 1, delete=NOW + 1_000)
            message = scenario.message("order")
            await scenario.applied("order", answers=[answer(message)])
            await scenario.applied("order", 1, post=[scenario.message("nobody")])
            await scenario.sweep(NOW + 10, 10)
            counted = {
                "running": 1,
                "executions": 1,
                "answers": 1,
                "tombstones": 1,
                "dead_letters": 1,
            }
            assert await _totals(scenario) == counted

    async def test_queues_are_counted_apart_and_page(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            queues = ("gpu", "gpu", "mail", "mail", "mail", "")
            added: list[Task] = []
            for seq, queue in enumerate(queues):
                added.append(task(scenario, "order", seq, queue=queue))
            added.append(task(scenario, "order", 10, queue="gpu", visible_at=NOW + 5))
            await scenario.applied("order", tasks_added=added)
            await scenario.store.lease(request(queue="mail", limit=1, lease_ms=50))
            await scenario.store.lease(request(queue="mail", limit=1, lease_ms=5))
            for at, depths in (
                (NOW, [("", 1, 0, 0, 0), ("gpu", 2, 1, 0, 0), ("mail", 1, 0, 2, 0)]),
                (NOW + 5, [("", 1, 0, 0, 0), ("gpu", 3, 0, 0, 0), ("mail", 1, 0, 1, 1)]),
            ):
                for limit in (1, 2, 100):
                    found = await scenario.all(Queues(at=at, limit=limit))
                    assert [astuple(depth)[:5] for depth in found] == depths
