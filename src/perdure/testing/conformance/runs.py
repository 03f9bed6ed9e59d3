"""Runs of a unit beside its own, and the parts of its state."""

# ruff: noqa: D102 - the name of a test says what it proves

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from perdure.errors import Failure
from perdure.kernel.data.commit import ExecutionRow, RunRow, StatePart
from perdure.ports.store import Executions, Journal
from perdure.testing.conformance.scenario import (
    NOW,
    StoreFactory,
    chunk,
    key_of,
    keys_of,
    scene,
    task,
)

CALL, OTHER = b"call-1", b"call-2"


class Runs:
    """Runs and state."""

    async def test_every_field_of_a_run_comes_back(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            run = RunRow(
                CALL,
                "Cart.pay ☃",
                2,
                7,
                "suspended",
                1,
                80,
                b"caller",
                b"",
                Failure("E", "m", "poison", False, "tb", (("C", "c"),), b"d"),
                NOW,
                NOW + 1,
            )
            await scenario.applied("cart", runs=[run], journal=[chunk(execution=2, run=CALL)])
            assert (await scenario.load("cart")).runs == [run]

    async def test_a_run_changes_alone(self, store_factory: StoreFactory) -> None:
        # A unit with thousands of calls must not write all of them for each.
        async with scene(store_factory) as scenario:
            runs = [RunRow(CALL, "add"), RunRow(OTHER, "pay")]
            await scenario.applied("cart", runs=runs)
            ended = replace(runs[1], status="completed", result=b"2", closed_at=NOW)
            await scenario.applied("cart", 1, runs=[ended])
            assert (await scenario.load("cart")).runs == [runs[0], ended]

    async def test_each_run_has_a_journal_of_its_own(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            runs = [RunRow(CALL, "add", journal_events=2), RunRow(OTHER, "pay", journal_events=1)]
            journal = [chunk(), chunk(run=CALL), chunk(2, run=CALL), chunk(run=OTHER)]
            await scenario.applied("cart", runs=runs, journal=journal)
            assert (await scenario.load("cart")).journal == journal
            assert await scenario.all(Journal(unit="cart")) == journal[:1]
            assert await scenario.all(Journal(unit="cart", run=CALL, limit=1)) == journal[1:3]
            assert await scenario.all(Journal(unit="cart", run=b"unknown")) == []

    async def test_only_the_current_execution_of_a_run_is_loaded(
        self, store_factory: StoreFactory
    ) -> None:
        # A call that continues as new often would make each load longer otherwise.
        async with scene(store_factory) as scenario:
            first = RunRow(CALL, "watch", journal_events=1)
            await scenario.applied("cart", runs=[first], journal=[chunk(run=CALL)])
            second = replace(first, execution=2)
            ended = [ExecutionRow(1, "1.0.0", 1, 2, 1, CALL), ExecutionRow(1, "1.0.0", 1, 2, 1)]
            later = chunk(execution=2, run=CALL)
            await scenario.applied("cart", 1, runs=[second], journal=[later], ended=ended)
            assert (await scenario.load("cart")).journal == [later]
            assert await scenario.all(Executions(unit="cart", run=CALL)) == ended[:1]
            assert await scenario.all(Executions(unit="cart")) == ended[1:]
            old = await scenario.all(Journal(unit="cart", execution=1, run=CALL))
            assert old == [chunk(run=CALL)]

    async def test_a_dropped_run_takes_all_that_is_its_own(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            runs = [RunRow(CALL, "add", journal_events=1), RunRow(OTHER, "add", journal_events=1)]
            tasks = [task(scenario, "cart", run=CALL), task(scenario, "cart", run=OTHER)]
            ended = [
                ExecutionRow(9, "1.0.0", 1, 2, 3, CALL),
                ExecutionRow(9, "1.0.0", 1, 2, 3, OTHER),
            ]
            journal = [chunk(run=CALL), chunk(run=OTHER)]
            await scenario.applied(
                "cart", runs=runs, journal=journal, tasks_added=tasks, ended=ended
            )
            await scenario.applied("cart", 1, runs_dropped=[CALL])
            loaded = await scenario.load("cart")
            assert (loaded.runs, loaded.journal) == (runs[1:], journal[1:])
            assert keys_of(loaded.tasks) == [key_of(tasks[1])]
            assert await scenario.all(Executions(unit="cart", run=CALL)) == []
            assert await scenario.all(Journal(unit="cart", execution=1, run=CALL)) == []
            await scenario.applied("cart", 2, runs=runs[:1], journal=journal[:1])

    async def test_state_is_kept_by_part_with_its_version(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            parts = [StatePart("address", b"", 2), StatePart("cart ☃", b"x" * 300_000)]
            await scenario.applied("cart", state=parts)
            assert (await scenario.load("cart")).state == parts
            await scenario.applied("cart", 1, state=[StatePart("address", b"new", 3)])
            assert (await scenario.load("cart")).state == [
                StatePart("address", b"new", 3),
                parts[1],
            ]
            await scenario.applied("cart", 2, state=[StatePart("address", None)])
            assert (await scenario.load("cart")).state == parts[1:]

    async def test_a_new_life_of_the_unit_has_neither(self, store_factory: StoreFactory) -> None:
        # A reused id must not join calls of an earlier life.
        async with scene(store_factory) as scenario:
            parts: dict[str, Any] = {
                "runs": [RunRow(CALL, "add", journal_events=1)],
                "journal": [chunk(run=CALL)],
                "state": [StatePart("cart", b"1")],
            }
            await scenario.applied("replaced", **parts)
            await scenario.applied("deleted", **parts)
            await scenario.applied("replaced", 1, {"run": b"next"})
            await scenario.applied("deleted", 1, delete=0)
            await scenario.applied("deleted")
            for loaded in await scenario.store.load(["replaced", "deleted"]):
                assert (loaded.runs, loaded.journal, loaded.state) == ([], [], [])
