"""The values of a unit come back as they were: its row, its journal, and its KV entries."""

# ruff: noqa: D102 - the name of a test says what it proves

from __future__ import annotations

from typing import Any, get_args, get_type_hints

from msgspec.structs import asdict, replace

from perdure.errors import Failure
from perdure.kernel.data.commit import ExecutionRow, KvEntry, UnitRow
from perdure.ports.store import Journal, KvEntries
from perdure.testing.conformance.scenario import (
    NOW,
    StoreFactory,
    chunk,
    events_of,
    numbered,
    scene,
)


def fields_of(kind: type) -> list[str]:
    """The fields of a row that hold values of a type, or None."""
    found: list[str] = []
    for name, hint in get_type_hints(UnitRow).items():
        # A field that may be None has a union of types.
        if kind in (hint, *get_args(hint)):
            found.append(name)
    return found


class Values:
    """Rows, journals, KV."""

    async def test_every_field_of_a_row_comes_back(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            row = {
                "kind": "process",
                "type": "Bestellung ☃",
                "type_version": "2.1.0",
                "run": bytes(range(16)),
                "execution": 3,
                "format": 2,
                "flags": 5,
                "status": "suspended",
                "reason": "no_version",
                "wake_at": NOW + 1,
                "paused": True,
                "input_digest": "abc",
                "parent": b"parent",
                "parent_unit": "root",
                "custom_status": b"",
                "custom_status_version": 4,
                "attributes": b"\x00attributes",
                "result": b"",
                "failure": Failure("E", "m", "poison", False, "tb", (("C", "c"),), b"d"),
                "suspect": 2,
                "journal_events": 7,
                "journal_bytes": 8,
                "created_at": 1,
                "started_at": 2,
                "updated_at": 3,
                "closed_at": 4,
            }
            first = await scenario.applied("order", row=row, journal=[chunk(execution=3, count=7)])
            assert (await scenario.load("order")).row == first.row
            second = await scenario.applied("order", 1, {"status": "completed"})
            assert (await scenario.load("order")).row == second.row
            completed = row | {"scope": "default/0", "status": "completed"}
            journal = [chunk(execution=3, count=7)]
            third = await scenario.applied("order", 2, completed, journal=journal)
            assert (await scenario.load("order")).row == third.row

    async def test_each_field_of_a_row_changes_alone(self, store_factory: StoreFactory) -> None:
        # A store may write only the columns that changed. Each has to be among them when it did.
        async with scene(store_factory) as scenario:
            commit = await scenario.applied(
                "order", row={"custom_status": b"a", "attributes": b"a"}
            )
            now = commit.row
            changes: dict[str, Any] = dict.fromkeys(fields_of(int), 77)
            changes |= dict.fromkeys(fields_of(str), "other") | dict.fromkeys(
                fields_of(bytes), b"other"
            )
            changes |= {"status": "suspended", "scope": scenario.scope("order"), "paused": True}
            changes |= {"failure": Failure("E", "m"), "custom_status": None}
            del changes["id"], changes["closed_at"]
            changes["closed_at"] = 77  # last: a store may treat closed units in another way
            for version, (field, value) in enumerate(changes.items(), start=1):
                now = replace(now, **{field: value})
                # The row must agree with the journal, and a new run begins with an empty one.
                writes = field in ("journal_events", "run")
                journal = []
                if writes:
                    journal = [chunk(execution=77, count=77)]
                await scenario.applied("order", version, asdict(now), journal=journal)
                assert (await scenario.load("order")).row == now, field

    async def test_what_was_loaded_belongs_to_the_caller(self, store_factory: StoreFactory) -> None:
        # A store in memory must not hand out its own objects.
        async with scene(store_factory) as scenario:
            await scenario.applied("order")
            loaded = await scenario.load("order")
            assert loaded.row is not None
            loaded.row.status, loaded.inbox, loaded.kv = "failed", [], []
            again = await scenario.load("order")
            assert again.row is not None
            assert again.row.status == "running"

    async def test_a_custom_status_is_set_kept_and_cleared(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            seen: list[tuple[bytes | None, int]] = []
            for version, (value, number) in enumerate(
                ((None, 0), (b"half", 1), (b"half", 1), (b"all", 2), (None, 3))
            ):
                await scenario.applied(
                    "order", version, {"custom_status": value, "custom_status_version": number}
                )
                row = (await scenario.load("order")).row
                assert row is not None
                seen.append((row.custom_status, row.custom_status_version))
            assert seen == [(None, 0), (b"half", 1), (b"half", 1), (b"all", 2), (None, 3)]

    async def test_a_journal_is_opaque_and_in_order(self, store_factory: StoreFactory) -> None:
        # The format of events belongs to the kernel, and a newer one must not need a new store.
        async with scene(store_factory) as scenario:
            parts = [b"", b"\xff not a journal", b"x" * 300_000]
            await scenario.applied(
                "order", journal=[chunk(n + 1, events=part) for n, part in enumerate(parts)]
            )
            await scenario.applied(
                "order", 1, journal=[chunk(4, events=b"four"), chunk(5, events=b"five")]
            )
            assert events_of((await scenario.load("order")).journal) == [
                *parts,
                b"four",
                b"five",
            ]

    async def test_load_gives_the_current_execution(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order", journal=[chunk(1, events=b"old")])
            ended = [ExecutionRow(1, "1.0.0", 1, 2, 1)]
            change = {"execution": 2, "type_version": "2.0.0", "format": 3}
            await scenario.applied("order", 1, change, ended=ended, journal=[chunk(1, 2, b"new")])
            loaded = await scenario.load("order")
            assert events_of(loaded.journal) == [b"new"]
            assert loaded.row is not None
            assert (loaded.row.execution, loaded.row.type_version, loaded.row.format) == (
                2,
                "2.0.0",
                3,
            )
            old = await scenario.all(Journal(unit="order", execution=1))
            assert events_of(old) == [b"old"]

    async def test_many_units_are_loaded_in_the_order_asked_for(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            names = numbered("unit", 30)
            await scenario.apply(*scenario.commits(names, journal=[chunk(1)]))
            wanted = [*reversed(names), "nobody", "unit-3"]
            loaded = await scenario.store.load(wanted)
            versions = [*([1] * 30), 0, 1]
            for name, version, unit in zip(wanted, versions, loaded, strict=True):
                assert (unit.id, unit.version) == (name, version)

    async def test_strange_ids_are_only_ids(self, store_factory: StoreFactory) -> None:
        # Ids are chosen by users, and end up in SQL, in LIKE patterns and in logs.
        async with scene(store_factory) as scenario:
            names = ["a'b", 'a"b', "a/b", "../etc", "%_", "é☃𝄞", "x" * 512, "null", "a\\b", "a b"]
            await scenario.apply(*scenario.commits(names, journal=[chunk(1)]))
            await scenario.post(*scenario.messages_to(names))
            loaded = await scenario.store.load(names)
            for name, unit in zip(names, loaded, strict=True):
                assert (unit.id, unit.version, len(unit.inbox)) == (name, 1, 1)

    # ------------------------------------------------------------ KV

    async def test_kv_entries_are_set_overwritten_and_removed(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            first = [KvEntry("a", b"1"), KvEntry("b", b"2"), KvEntry("c", b"")]
            await scenario.applied("order", kv=first)
            assert (await scenario.load("order")).kv == first
            await scenario.applied(
                "order", 1, kv=[KvEntry("a", b"10"), KvEntry("b", None), KvEntry("nobody", None)]
            )
            assert (await scenario.load("order")).kv == [KvEntry("a", b"10"), KvEntry("c", b"")]
            await scenario.applied("order", 2, kv=[KvEntry("b", b"again")])
            assert (await scenario.load("order")).kv == [
                KvEntry("a", b"10"),
                KvEntry("b", b"again"),
                KvEntry("c", b""),
            ]

    async def test_the_last_change_of_a_key_in_a_commit_counts(
        self, store_factory: StoreFactory
    ) -> None:
        # A turn may write a key several times. A statement that writes all entries at once may see
        # only one of them.
        async with scene(store_factory) as scenario:
            changes = [
                KvEntry("a", b"1"),
                KvEntry("a", None),
                KvEntry("b", b"1"),
                KvEntry("b", b"2"),
            ]
            await scenario.applied("order", kv=[*changes, KvEntry("c", None), KvEntry("c", b"3")])
            assert (await scenario.load("order")).kv == [KvEntry("b", b"2"), KvEntry("c", b"3")]

    async def test_the_value_at_the_start_of_the_execution_is_kept(
        self, store_factory: StoreFactory
    ) -> None:
        # Replay begins with the values at the start of the execution, so a deleted key keeps its
        # old value until the execution ends.
        async with scene(store_factory) as scenario:
            entries = [
                KvEntry("changed", b"new", b"old", 2),
                KvEntry("deleted", None, b"old", 2),
                KvEntry("n", b"", None, 2),
            ]
            await scenario.applied("order", kv=entries)
            assert (await scenario.load("order")).kv == entries
            assert await scenario.all(KvEntries(unit="order")) == [("changed", b"new"), ("n", b"")]
            await scenario.applied("order", 1, kv=[KvEntry("deleted", None)])
            changed, new = (await scenario.load("order")).kv
            assert (changed.key, new.key) == ("changed", "n")

    async def test_kv_belongs_to_its_unit(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("a", kv=[KvEntry("k", b"a")])
            await scenario.applied("b", kv=[KvEntry("k", b"b")])
            await scenario.applied("a", 1, kv=[KvEntry("k", None)])
            assert await scenario.all(KvEntries(unit="a")) == []
            assert await scenario.all(KvEntries(unit="b")) == [("k", b"b")]

    async def test_kv_outlives_its_execution_and_pruning(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied(
                "order", kv=[KvEntry("old", b"1", None, 1), KvEntry("both", b"1", None, 1)]
            )
            ended = [ExecutionRow(1, "1.0.0", 1, 2, 1)]
            both = [KvEntry("both", b"2", b"1", 2)]
            await scenario.applied("order", 1, {"execution": 2}, ended=ended, kv=both)
            await scenario.applied("order", 2, {"execution": 2}, prune=[1])
            assert await scenario.all(KvEntries(unit="order")) == [("both", b"2"), ("old", b"1")]

    async def test_kv_of_a_closed_unit_stays_readable(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order", kv=[KvEntry("k", b"v")])
            await scenario.applied("order", 1, {"status": "completed"})
            assert await scenario.all(KvEntries(unit="order")) == [("k", b"v")]

    async def test_kv_is_listed_by_key_in_pages(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            entries = [KvEntry(f"key {n:02} ☃'\"", bytes([n])) for n in range(10)]
            await scenario.applied("order", kv=list(reversed(entries)))
            expected = [(entry.key, entry.value) for entry in entries]
            assert await scenario.all(KvEntries(unit="order", limit=3)) == expected
            some = (entries[2].key, "nobody", entries[7].key)
            assert await scenario.all(KvEntries(unit="order", keys=some)) == [
                expected[2],
                expected[7],
            ]

    async def test_large_kv_values_survive(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order", kv=[KvEntry("k", b"x" * 2_000_000)])
            [(_, value)] = await scenario.all(KvEntries(unit="order"))
            assert len(value) == 2_000_000
