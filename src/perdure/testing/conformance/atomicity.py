"""Guarantee 1: a Commit is all or nothing.

A refused one leaves nothing and harms no neighbour in its batch.
"""

# ruff: noqa: D102 - the name of a test says what it proves

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from perdure.errors import Failure
from perdure.kernel.data.commit import Commit, ExecutionRow, KvEntry, RunRow, StatePart, Verdict
from perdure.ports.store import Counts, Executions, Posted
from perdure.testing.conformance.scenario import (
    NOW,
    Scenario,
    StoreFactory,
    answer,
    chunk,
    events_of,
    first_chunks,
    firsts_of,
    numbered,
    scene,
    task,
)


async def _rich_commit(scenario: Scenario, unit: str, expect: int) -> Commit:
    """A commit that writes to every table. Its unit has one message in its inbox."""
    return scenario.commit(
        unit,
        expect,
        {"execution": 2, "wake_at": NOW + 5},
        journal=[chunk(1, execution=2), chunk(2, execution=2), chunk(run=b"call")],
        runs=[RunRow(b"call", "add", journal_events=1)],
        state=[StatePart("cart", b"two apples", 3)],
        ended=[ExecutionRow(1, "1.0.0", NOW, NOW, 3)],
        kv=[KvEntry("key", b"value")],
        consume=await scenario.inbox(unit),
        answers=[replace(answer(scenario.message(unit)), data=b"2", failure=Failure("E", "m"))],
        post=[scenario.message("neighbour")],
        tasks_added=[task(scenario, unit)],
    )


async def _everything(scenario: Scenario) -> Any:
    units = await scenario.store.load(["order", "neighbour", "third"])
    return (
        units,
        (await scenario.store.query(Counts())).items,
        await scenario.all(Executions(unit="order")),
    )


class Atomicity:
    """Guarantee 1."""

    async def test_a_commit_writes_all_of_its_parts(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order", journal=[chunk(1)])
            consumed = await scenario.accepted(scenario.message("order"))
            commit = await _rich_commit(scenario, "order", 1)
            assert commit.consume == [consumed.id]
            assert await scenario.apply(commit) == ["applied"]
            loaded = await scenario.load("order")
            assert loaded.row == commit.row
            assert loaded.version == 2
            assert loaded.journal == commit.journal
            assert loaded.runs == commit.runs
            assert loaded.state == commit.state
            assert loaded.kv == commit.kv
            assert loaded.inbox == []
            assert loaded.tasks == commit.tasks_added
            assert await scenario.all(Executions(unit="order")) == commit.ended
            assert await scenario.inbox("neighbour") == [commit.post[0].id]
            again = scenario.message("order", id=commit.answers[0].message)
            known = commit.answers[0]
            assert await scenario.post(again) == [
                Posted("duplicate", known.outcome, known.data, known.failure)
            ]

    async def test_a_stale_commit_leaves_nothing(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order", journal=[chunk(1)])
            await scenario.accepted(scenario.message("order"))
            before = await _everything(scenario)
            assert await scenario.apply(await _rich_commit(scenario, "order", 7)) == ["stale"]
            assert await _everything(scenario) == before

    async def test_a_fenced_commit_leaves_nothing(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order", journal=[chunk(1)])
            await scenario.accepted(scenario.message("order"))
            commit = await _rich_commit(scenario, "order", 1)
            await scenario.claim()
            before = await _everything(scenario)
            assert await scenario.apply(commit) == ["fenced"]
            assert await _everything(scenario) == before

    async def test_an_invalid_commit_leaves_nothing(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied(
                "order", row={"execution": 2}, journal=[chunk(execution=2, count=2)]
            )
            await scenario.accepted(scenario.message("order"))
            before = await _everything(scenario)
            assert await scenario.apply(await _rich_commit(scenario, "order", 1)) == ["invalid"]
            assert await _everything(scenario) == before

    async def test_one_invalid_commit_among_many_harms_none(
        self, store_factory: StoreFactory
    ) -> None:
        # The store groups commits of strangers. It has to find the bad one by itself, without an
        # error for the others.
        async with scene(store_factory) as scenario:
            units = numbered("order", 40)
            for version in range(3):
                batch = [
                    scenario.commit(
                        unit,
                        version,
                        journal=[chunk(version + 1, events=f"{unit} {version}".encode())],
                    )
                    for unit in units
                ]
                if version == 2:
                    batch[21].journal = [chunk(1, events=b"there is one already")]
                verdicts = await scenario.apply(*batch)
                expected: list[Verdict] = ["applied"] * 40
                if version == 2:
                    expected[21] = "invalid"
                assert verdicts == expected
            for loaded in await scenario.store.load(units):
                versions = range(3)
                if loaded.id == "order-21":
                    versions = range(2)
                assert loaded.version == len(versions)
                assert events_of(loaded.journal) == [f"{loaded.id} {n}".encode() for n in versions]

    async def test_a_refused_commit_harms_no_neighbour(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order", journal=[chunk(1)])
            batch = [
                scenario.commit("first", journal=[chunk(1)]),
                scenario.commit("order", 1, journal=[chunk(1)]),  # this place is taken
                scenario.commit("second", 3),
                scenario.commit("third", journal=[chunk(1)]),
            ]
            assert await scenario.apply(*batch) == ["applied", "invalid", "stale", "applied"]
            assert await scenario.versions(["first", "order", "second", "third"]) == [1, 1, 0, 1]

    async def test_a_second_chunk_for_one_place_is_invalid(
        self, store_factory: StoreFactory
    ) -> None:
        # Two histories of one execution cannot both be replayed.
        async with scene(store_factory) as scenario:
            await scenario.applied("order", journal=[chunk(1, events=b"first")])
            assert await scenario.apply(
                scenario.commit("order", 1, journal=[chunk(1, events=b"second")])
            ) == ["invalid"]
            assert await scenario.apply(scenario.commit("twice", journal=[chunk(1), chunk(1)])) == [
                "invalid"
            ]
            assert (await scenario.load("order")).journal == [chunk(1, events=b"first")]

    async def test_an_execution_ends_once(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            ended = [ExecutionRow(1, "1.0.0", NOW, NOW, 3)]
            await scenario.applied("order", row={"execution": 2}, ended=ended)
            assert await scenario.apply(scenario.commit("order", 1, ended=ended)) == ["invalid"]

    async def test_a_row_with_another_id_is_invalid(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            commit = scenario.commit("order", row={"id": "other"})
            assert await scenario.apply(commit) == ["invalid"]
            assert await scenario.rows("order", "other") == [None, None]

    async def test_of_two_commits_for_one_version_one_is_applied(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order")
            first, second = (
                scenario.commit("order", 1, {"reason": "a"}),
                scenario.commit("order", 1, {"reason": "b"}),
            )
            assert await scenario.apply(first, second) == ["applied", "stale"]
            loaded = await scenario.load("order")
            assert loaded.row is not None
            assert (loaded.version, loaded.row.reason) == (2, "a")

    async def test_commits_of_one_unit_in_one_batch_follow_each_other(
        self, store_factory: StoreFactory
    ) -> None:
        # The port forbids it in one call, but a store may join several calls into one batch.
        async with scene(store_factory) as scenario:
            batch: list[Commit] = []
            for version, part in enumerate(first_chunks(5)):
                batch.append(scenario.commit("order", version, journal=[part]))
            assert await scenario.apply(*batch) == ["applied"] * 5
            loaded = await scenario.load("order")
            assert firsts_of(loaded.journal) == [1, 2, 3, 4, 5]
            assert loaded.version == 5

    async def test_an_empty_batch_is_fine(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            assert await scenario.apply() == []
            assert await scenario.post() == []
            assert await scenario.store.load([]) == []
