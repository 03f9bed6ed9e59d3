"""Guarantee 4, second part: a commit is `invalid` if `flaw_of` finds a flaw, and never else."""

# ruff: noqa: D102 - the name of a test says what it proves

from __future__ import annotations

from typing import Any

from perdure.kernel.data.commit import (
    Commit,
    ExecutionRow,
    Owned,
    RunRow,
    StatePart,
    Stored,
    flaw_of,
)
from perdure.testing.conformance.scenario import (
    Scenario,
    StoreFactory,
    chunk,
    key_of,
    keys_of,
    scene,
    task,
)

CALL = b"call-1"

FLAWS: dict[str, dict[str, Any]] = {
    "an event again": {"journal": [chunk(3, execution=2)]},
    "a gap": {"journal": [chunk(5, execution=2)]},
    "an event twice": {"journal": [chunk(4, execution=2)] * 2},
    "no events": {"journal": [chunk(4, execution=2, count=0)]},
    "an earlier execution": {"journal": [chunk(execution=1)], "row": {"execution": 3}},
    "a step back": {"row": {"execution": 1, "journal_events": 0}},
    "events that are not counted": {
        "journal": [chunk(4, execution=2)],
        "row": {"journal_events": 3},
    },
    "events that are not there": {"row": {"journal_events": 4}},
    "an end again": {"ended": [ExecutionRow(1, "1.0.0", 1, 2, 3)]},
    "an end twice": {"ended": [ExecutionRow(2, "1.0.0", 1, 2, 3)] * 2},
    "two values": {"state": [StatePart("p", b"1"), StatePart("p", b"2")]},
    "events of no run": {"journal": [chunk(run=b"unknown")]},
    "events of a run again": {
        "runs": [RunRow(CALL, "add", journal_events=1)],
        "journal": [chunk(run=CALL)],
    },
    "a run twice": {"runs": [RunRow(CALL, "add", journal_events=1)] * 2},
    "a run dropped and kept": {
        "runs": [RunRow(CALL, "add", journal_events=1)],
        "runs_dropped": [CALL],
    },
    "its own run": {"runs": [RunRow(b"run of order", "add")]},
    "no run's name": {"runs_dropped": [b""]},
}


def _tasks(scenario: Scenario) -> dict[str, dict[str, Any]]:
    there = task(scenario, "order")
    return {
        "a task again": {"tasks_added": [there]},
        "a task twice": {"tasks_added": [task(scenario, "order", 2)] * 2},
        "another's task": {"tasks_added": [task(scenario, "other", 2)]},
        "no scope": {"post": [scenario.message("order", scope="")]},
        "another's row": {"row": {"id": "other"}},
    }


async def _stored(scenario: Scenario) -> Commit:
    """The unit that the flaws are about: its execution 2 has 3 events, its call 1."""
    return await scenario.applied(
        "order",
        row={"execution": 2},
        journal=[chunk(execution=2, count=3), chunk(run=CALL)],
        ended=[ExecutionRow(1, "1.0.0", 1, 2, 3)],
        runs=[RunRow(CALL, "add", journal_events=1)],
        tasks_added=[task(scenario, "order")],
    )


class Flaws:
    """Invalid commits."""

    async def test_each_flaw_is_invalid_and_leaves_nothing(
        self, store_factory: StoreFactory
    ) -> None:
        # The check is a pure function of rows and commit. A constraint of the database may be
        # missing in another store.
        async with scene(store_factory) as scenario:
            first = await _stored(scenario)
            row = first.row
            stored = Stored(1, first.id, row.scope, row.run, row.execution, row.journal_events)
            ended = [(one.run, one.execution) for one in first.ended]
            owned = Owned({CALL: (1, 1)}, ended, keys_of(first.tasks_added))
            before = await scenario.load("order")
            for name, parts in (FLAWS | _tasks(scenario)).items():
                given = dict(parts)
                changes = {"execution": 2} | given.pop("row", {})
                commit = scenario.commit("order", 1, changes, **given)
                assert flaw_of(commit, stored, owned) is not None, name
                neighbour = scenario.commit(f"beside {name}")
                assert await scenario.apply(commit, neighbour) == ["invalid", "applied"], name
                assert await scenario.load("order") == before, name
            assert await scenario.inbox("order") == []

    async def test_what_has_no_flaw_is_applied(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await _stored(scenario)
            await scenario.applied(
                "order",
                1,
                {"execution": 4},
                journal=[
                    chunk(4, execution=2),
                    chunk(execution=3, count=2),
                    chunk(execution=4),
                    chunk(2, execution=4),
                    chunk(2, run=CALL),
                ],
                runs=[RunRow(CALL, "add", journal_events=2)],
                ended=[ExecutionRow(2, "1.0.0", 1, 2, 3), ExecutionRow(3, "1.0.0", 1, 2, 3)],
                tasks_dropped=[key_of(task(scenario, "order"))],
                tasks_added=[task(scenario, "order"), task(scenario, "order", 2)],
            )

    async def test_a_new_run_begins_without_what_the_old_one_had(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            await _stored(scenario)
            new = {"run": b"another", "execution": 2, "journal_events": 3}
            await scenario.applied(
                "order",
                1,
                new,
                journal=[chunk(execution=2, count=3), chunk(run=CALL)],
                runs=[RunRow(CALL, "add", journal_events=1)],
                ended=[ExecutionRow(1, "1.0.0", 1, 2, 3)],
                tasks_added=[task(scenario, "order")],
            )
