"""The life of an id: executions, pruning, deletion, tombstones, and a new run under the old id."""

# ruff: noqa: D102 - the name of a test says what it proves

from __future__ import annotations

from perdure.kernel.data.commit import ExecutionRow, KvEntry
from perdure.kernel.data.message import Cancel
from perdure.ports.store import Executions, Journal, Posted, Units
from perdure.testing.conformance.scenario import (
    NOW,
    Scenario,
    StoreFactory,
    answer,
    chunk,
    events_of,
    executions_of,
    first_chunks,
    ids,
    scene,
    task,
    units_of,
)


async def _grown(scenario: Scenario, unit: str, executions: int = 4) -> int:
    """Make a unit that continued as new a few times. Returns its version."""
    for number in range(1, executions + 1):
        ended = []
        if number > 1:
            ended = [ExecutionRow(number - 1, "1.0.0", number, number + 1, 1)]
        journal = [chunk(1, number, b"%d" % number)]
        await scenario.applied(
            unit, number - 1, {"execution": number}, ended=ended, journal=journal
        )
    return executions


class Life:
    """Executions, deletion, re-creation."""

    async def test_executions_are_listed_in_order_and_stay_readable(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            await _grown(scenario, "order")
            rows = await scenario.all(Executions(unit="order", limit=2))
            assert executions_of(rows) == [1, 2, 3]
            assert rows[1] == ExecutionRow(2, "1.0.0", 3, 4, 1)
            for number in (1, 2, 3, 4):
                journal = await scenario.all(Journal(unit="order", execution=number))
                assert events_of(journal) == [b"%d" % number]
            current = await scenario.all(Journal(unit="order"))
            assert executions_of(current) == [4]

    async def test_the_journal_is_listed_in_pages_of_one_execution(
        self, store_factory: StoreFactory
    ) -> None:
        # The second page is read after the unit has continued as new. It must not mix both
        # executions.
        async with scene(store_factory) as scenario:
            await scenario.applied("order", journal=first_chunks(7))
            first = await scenario.store.query(Journal(unit="order", limit=3))
            ended = [ExecutionRow(1, "1.0.0", 1, 2, 7)]
            await scenario.applied(
                "order", 1, {"execution": 2}, ended=ended, journal=[chunk(1, 2), chunk(2, 2)]
            )
            rest = await scenario.all(Journal(unit="order", limit=3, after=first.next))
            assert [*first.items, *rest] == first_chunks(7)

    async def test_pruning_removes_executions_but_never_the_current_one(
        self, store_factory: StoreFactory
    ) -> None:
        # The current execution is replayed at the next load. A commit that names it by mistake must
        # not cost the instance.
        async with scene(store_factory) as scenario:
            version = await _grown(scenario, "order")
            await scenario.applied("order", version, {"execution": 4}, prune=[1, 3, 4, 77])
            ended = await scenario.all(Executions(unit="order"))
            assert executions_of(ended) == [2]
            for number, left in ((1, 0), (2, 1), (3, 0), (4, 1)):
                assert len(await scenario.all(Journal(unit="order", execution=number))) == left

    async def test_a_commit_can_prune_what_it_ends(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order", journal=[chunk(1)])
            ended = [ExecutionRow(1, "1.0.0", 1, 2, 1)]
            await scenario.applied(
                "order", 1, {"execution": 2}, ended=ended, journal=[chunk(1, 2)], prune=[1]
            )
            assert await scenario.all(Executions(unit="order")) == []
            assert executions_of((await scenario.load("order")).journal) == [2]

    async def test_pruning_leaves_other_units_alone(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await _grown(scenario, "a")
            version = await _grown(scenario, "b")
            await scenario.applied("b", version, {"execution": 4}, prune=[1, 2, 3])
            assert len(await scenario.all(Executions(unit="a"))) == 3
            assert len(await scenario.all(Journal(unit="a", execution=1))) == 1

    async def test_a_deletion_removes_everything_the_unit_owns(
        self, store_factory: StoreFactory
    ) -> None:
        # Rows that stayed would turn up in the next unit of the same id.
        async with scene(store_factory) as scenario:
            version = await _grown(scenario, "order")
            known = scenario.message("order")
            owned = {
                "kv": [KvEntry("k", b"v")],
                "tasks_added": [task(scenario, "order")],
                "answers": [answer(known)],
            }
            await scenario.applied("order", version, {"execution": 4, "wake_at": 0}, **owned)
            await scenario.accepted(scenario.message("order"))
            await scenario.applied("other", journal=[chunk(1)], kv=[KvEntry("k", b"v")])
            await scenario.applied("order", version + 1, delete=NOW + 1_000)
            loaded = await scenario.load("order")
            assert (loaded.row, loaded.version, loaded.journal) == (None, 0, [])
            assert (loaded.kv, loaded.inbox, loaded.tasks) == ([], [], [])
            assert await scenario.all(Executions(unit="order")) == []
            assert await scenario.all(Journal(unit="order", execution=2)) == []
            counts = await scenario.counts()
            assert (counts["running"], counts["inbox"], counts["tasks"]) == (1, 0, 0)
            assert await scenario.due() == {}
            assert await scenario.post(known) == [Posted("missing")]
            assert len((await scenario.load("other")).journal) == 1

    async def test_an_id_can_be_used_again(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied(
                "order", journal=[chunk(1, events=b"old")], kv=[KvEntry("k", b"old")]
            )
            await scenario.applied("order", 1, delete=NOW + 1_000)
            again = await scenario.applied(
                "order", 0, {"run": b"second"}, journal=[chunk(1, events=b"new")]
            )
            loaded = await scenario.load("order")
            assert (loaded.row, loaded.version, loaded.kv) == (again.row, 1, [])
            assert events_of(loaded.journal) == [b"new"]

    async def test_a_commit_of_a_deleted_run_cannot_bring_it_back(
        self, store_factory: StoreFactory
    ) -> None:
        # A commit that was submitted before the deletion may arrive after it, and after a new run
        # of the id has reached the same version.
        async with scene(store_factory) as scenario:
            await scenario.applied("order", journal=[chunk(1)])
            late = scenario.commit("order", 1, journal=[chunk(2)])
            await scenario.applied("order", 1, delete=NOW + 1_000)
            assert await scenario.apply(late) == ["stale"]
            await scenario.applied("order", 0, {"run": b"second"})
            await scenario.applied("order", 1, {"run": b"second"})
            assert await scenario.apply(late) == ["stale"]

    async def test_a_deletion_needs_the_right_version(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order")
            assert await scenario.apply(scenario.commit("order", 2, delete=NOW)) == ["stale"]
            assert await scenario.apply(scenario.commit("nobody", 1, delete=NOW)) == ["stale"]
            assert (await scenario.load("order")).version == 1

    async def test_several_units_are_deleted_in_one_batch(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            for unit, parent in (
                ("root", None),
                ("child", "root"),
                ("grandchild", "child"),
                ("other", None),
            ):
                await scenario.applied(unit, row={"parent_unit": parent}, kv=[KvEntry("k", b"v")])
            tree = scenario.commits(["grandchild", "child", "root"], 1, delete=NOW + 1_000)
            assert await scenario.apply(*tree) == ["applied"] * 3
            assert units_of(await scenario.all(Units())) == ["other"]

    async def test_a_waiting_start_survives_the_deletion_of_the_run_before(
        self, store_factory: StoreFactory
    ) -> None:
        # The start was accepted and promises a run. What came before it was for the run that is
        # gone, and what came behind it is for the run that it promises.
        async with scene(store_factory) as scenario:
            await scenario.applied("order")
            seen = await scenario.accepted(scenario.start("order"))
            await scenario.accepted(scenario.message("order", Cancel()))
            waiting = await scenario.accepted(scenario.start("order"))
            behind = await scenario.accepted(scenario.message("order"))
            other = await scenario.accepted(scenario.start("order"))
            await scenario.applied("order", 1, delete=NOW + 1_000, consume=[seen.id])
            assert await scenario.inbox("order") == [waiting.id, behind.id, other.id]
            assert await scenario.due() == {"order": (0, True)}

    async def test_a_deletion_can_answer_and_write(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order")
            asked = await scenario.accepted(scenario.message("order"))
            note = scenario.message("parent")
            await scenario.applied(
                "order",
                1,
                delete=NOW + 1_000,
                consume=[asked.id],
                answers=[answer(asked, "deleted")],
                post=[note],
            )
            assert await scenario.post(asked) == [Posted("duplicate", "deleted")]
            assert await scenario.inbox("parent") == [note.id]

    async def test_forgetting_lets_the_same_start_run_again(
        self, store_factory: StoreFactory
    ) -> None:
        # A tombstone keeps a start that is delivered again from running again. Deleting with
        # `forget` leaves none.
        async with scene(store_factory) as scenario:
            start = scenario.start("order")
            for deleted_at in (NOW + 1_000, 0):
                version = (await scenario.load("order")).version
                await scenario.applied("order", version, {"run": start.id})
                await scenario.applied("order", version + 1, {"run": start.id}, delete=deleted_at)
            assert await scenario.post(start) == [Posted("accepted")]

    async def test_every_deleted_run_is_remembered(self, store_factory: StoreFactory) -> None:
        # Each of the starts may still be delivered again, not only the last one.
        async with scene(store_factory) as scenario:
            starts = scenario.starts(["order"] * 3)
            for start in starts:
                await scenario.applied("order", 0, {"run": start.id})
                await scenario.applied("order", 1, {"run": start.id}, delete=NOW + 1_000)
            assert await scenario.post(*starts) == [Posted("duplicate")] * 3

    async def test_a_new_run_replaces_what_the_old_one_left(
        self, store_factory: StoreFactory
    ) -> None:
        # A start with `if_exists="replace"` writes the new run over the old one in a single commit.
        async with scene(store_factory) as scenario:
            version = await _grown(scenario, "order")
            owned = {"kv": [KvEntry("k", b"old")], "tasks_added": [task(scenario, "order")]}
            await scenario.applied(
                "order", version, {"execution": 4, "status": "completed"}, **owned
            )
            start = await scenario.accepted(scenario.start("order"))
            waiting = await scenario.accepted(scenario.start("order"))
            journal, kv = [chunk(1, events=b"new")], [KvEntry("n", b"new")]
            await scenario.applied(
                "order", version + 1, {"run": start.id}, journal=journal, kv=kv, consume=[start.id]
            )
            loaded = await scenario.load("order")
            assert (loaded.journal, loaded.kv, loaded.tasks) == (journal, kv, [])
            assert loaded.version == version + 2
            assert ids(loaded.inbox) == [waiting.id]
            assert await scenario.all(Executions(unit="order")) == []
            assert await scenario.all(Journal(unit="order", execution=2)) == []

    async def test_messages_can_be_dropped_without_creating_their_unit(
        self, store_factory: StoreFactory
    ) -> None:
        # An owner answers messages to an id that has no instance. It must not make a row for that.
        async with scene(store_factory) as scenario:
            message = scenario.message("nobody")
            await scenario.applied("a", post=[message])
            await scenario.applied("nobody", consume=[message.id], delete=0)
            loaded = await scenario.load("nobody")
            assert (loaded.row, loaded.inbox) == (None, [])
