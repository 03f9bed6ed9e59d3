"""Lists: units newest first, filtered, in pages that stay stable while others are added."""

# ruff: noqa: D102 - the name of a test says what it proves

from __future__ import annotations

from typing import Any

from perdure.kernel.data.commit import Letter
from perdure.kernel.data.message import encode_body
from perdure.ports.store import NO_INSTANCE, Counts, DeadLetter, DeadLetters, Starts, Units
from perdure.testing.conformance.scenario import (
    NOW,
    Scenario,
    StoreFactory,
    scene,
    units_of,
)

STATUSES = ("pending", "running", "suspended", "completed", "failed", "cancelled")


async def _found(scenario: Scenario, **filters: Any) -> list[str]:
    return units_of(await scenario.all(Units(**filters)))


class Lists:
    """Lists and counts."""

    async def test_newest_first(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            assert await _found(scenario) == []
            for unit, created_at in (("b", 2), ("a", 2), ("old", 1), ("new", 3)):
                await scenario.applied(unit, row={"created_at": created_at})
            assert await _found(scenario) == ["new", "b", "a", "old"]

    async def test_a_view_is_the_row_and_its_version(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order")
            commit = await scenario.applied("order", 1, {"status": "completed", "result": b"r"})
            [view] = (await scenario.store.query(Units())).items
            assert (view.row, view.version) == (commit.row, 2)

    async def test_filters(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            rows: list[tuple[str, dict[str, Any]]] = [
                (
                    "shop/1",
                    {
                        "status": "completed",
                        "type": "checkout",
                        "closed_at": 10,
                        "type_version": "2.0.0",
                    },
                ),
                ("shop/2", {"status": "running", "type": "checkout", "reason": "timer"}),
                (
                    "shop_3",
                    {
                        "status": "failed",
                        "type": "refund",
                        "parent_unit": "shop/1",
                        "closed_at": 20,
                    },
                ),
                (
                    "SHOP/4",
                    {
                        "status": "running",
                        "type": "refund",
                        "parent_unit": "shop/1",
                        "reason": "activity",
                    },
                ),
            ]
            for n, (unit, row) in enumerate(rows):
                await scenario.applied(unit, row=row | {"created_at": 100 + n})
            one, two, three, four = (unit for unit, _ in rows)
            expected: list[tuple[dict[str, Any], list[str]]] = [
                ({}, [four, three, two, one]),
                ({"statuses": ("running",)}, [four, two]),
                ({"statuses": ("failed", "completed")}, [three, one]),
                ({"statuses": ("pending",)}, []),
                ({"types": ("refund",)}, [four, three]),
                ({"types": ("refund", "checkout"), "statuses": ("running",)}, [four, two]),
                ({"type_versions": ("2.0.0",)}, [one]),
                ({"id_prefix": "shop/"}, [two, one]),
                ({"id_prefix": "shop_"}, [three]),
                ({"id_prefix": "%"}, []),
                ({"parent": "shop/1"}, [four, three]),
                ({"parent": "shop/2"}, []),
                ({"ids": (one, four, "nobody")}, [four, one]),
                ({"reasons": ("timer", "activity")}, [four, two]),
                ({"created_after": 101}, [four, three]),
                ({"created_before": 101}, [one]),
                ({"created_after": 100, "created_before": 103}, [three, two]),
                ({"closed_before": 20}, [one]),
                ({"closed_before": 21, "types": ("refund",)}, [three]),
            ]
            for filters, units in expected:
                assert await _found(scenario, **filters) == units, filters

    async def test_pages_show_everything_once(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            names = [f"unit-{n:02}" for n in range(25)]
            for n, name in enumerate(names):
                await scenario.applied(name, row={"created_at": NOW + n // 4})
            expected = sorted(
                names, key=lambda name: (NOW + names.index(name) // 4, name), reverse=True
            )
            for limit in (1, 7, 25, 26):
                assert await _found(scenario, limit=limit) == expected
            page = await scenario.store.query(Units(limit=25))
            assert page.next is None

    async def test_pages_are_stable_while_units_come_and_go(
        self, store_factory: StoreFactory
    ) -> None:
        # A list is read while the node works. An offset would skip units or show them twice.
        async with scene(store_factory) as scenario:
            for n in range(6):
                await scenario.applied(f"unit-{n}", row={"created_at": NOW + n})
            first = await scenario.store.query(Units(limit=3))
            await scenario.applied("newer", row={"created_at": NOW + 100})
            await scenario.applied("unit-4", 1, {"created_at": NOW + 4}, delete=NOW)
            second = await scenario.store.query(Units(limit=10, after=first.next))
            assert units_of(first.items) == ["unit-5", "unit-4", "unit-3"]
            assert units_of(second.items) == ["unit-2", "unit-1", "unit-0"]

    async def test_a_status_changes_lists_at_once(self, store_factory: StoreFactory) -> None:
        # Open and closed units may be kept in different indexes.
        async with scene(store_factory) as scenario:
            for version, status in enumerate(STATUSES):
                await scenario.applied("order", version, {"status": status})
                assert [
                    found for found in STATUSES if await _found(scenario, statuses=(found,))
                ] == [status]

    async def test_counts(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            empty = [
                *dict.fromkeys(STATUSES, 0).items(),
                ("inbox", 0),
                ("tasks", 0),
                ("dead_letters", 0),
                ("starts", 0),
            ]
            assert (await scenario.store.query(Counts())).items == empty
            for n, status in enumerate(STATUSES):
                for m in range(n):
                    await scenario.applied(f"{status}-{m}", row={"status": status})
            await scenario.post(scenario.message("running-0"), scenario.start("new"))
            counts = await scenario.counts()
            for number, status in enumerate(STATUSES):
                assert counts[status] == number
            assert counts["inbox"] == 2

    async def test_counts_leave_out_what_is_not_visible_yet(
        self, store_factory: StoreFactory
    ) -> None:
        # A delayed start is no backlog.
        async with scene(store_factory) as scenario:
            await scenario.applied("order")
            await scenario.post(
                scenario.message("order"),
                scenario.message("order", visible_at=NOW + 10),
                scenario.start("later", visible_at=NOW + 20),
            )
            for at, visible in ((NOW, 1), (NOW + 10, 2), (NOW + 19, 2), (NOW + 20, 3), (None, 3)):
                counts = dict((await scenario.store.query(Counts(at=at))).items)
                assert counts["inbox"] == visible, at

    async def test_dead_letters_are_listed_by_unit(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory, undelivered_ms=10, dead_letter_ms=100) as scenario:
            lost = [
                scenario.message(unit, sender="a", at=NOW + n)
                for n, unit in enumerate(("y", "x", "y"))
            ]
            await scenario.applied("a", post=lost)
            assert await scenario.all(DeadLetters()) == []
            assert (await scenario.store.sweep(scenario.fences(), NOW + 50, 2)).buried == ["y", "x"]
            assert (await scenario.store.sweep(scenario.fences(), NOW + 50, 2)).buried == ["y"]
            places = ((1, "x"), (0, "y"), (2, "y"))
            expected: list[DeadLetter] = []
            for n, to in places:
                body = encode_body(lost[n].body)
                times = (NOW + n, NOW + 150)
                expected.append(DeadLetter(to, lost[n].id, "Send", "a", *times, NO_INSTANCE, body))
            for limit in (1, 2, 3, 100):
                assert await scenario.all(DeadLetters(limit=limit)) == expected
                assert await scenario.all(DeadLetters(unit="y", limit=limit)) == expected[1:]
            assert await scenario.all(DeadLetters(unit="nobody")) == []
            assert await scenario.all(DeadLetters(message=lost[1].id)) == expected[:1]

    async def test_a_refused_message_is_a_dead_letter_with_its_reason(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory, dead_letter_ms=100) as scenario:
            await scenario.applied("a")
            stored, direct = scenario.message("a"), scenario.message("a", sender="b")
            await scenario.accepted(stored)
            letters = [Letter(stored, "too long"), Letter(direct, "too short")]
            # Only the first one stood in the inbox.
            await scenario.applied("a", 1, consume=[stored.id], letters=letters)
            assert await scenario.inbox("a") == []
            found = {one.message: one for one in await scenario.all(DeadLetters(unit="a"))}
            assert {name: one.reason for name, one in found.items()} == {
                stored.id: "too long",
                direct.id: "too short",
            }
            assert [found[m.id].body for m in (stored, direct)] == [
                encode_body(stored.body),
                encode_body(direct.body),
            ]
            assert await scenario.sweep(NOW + 99) == 0
            assert await scenario.sweep(NOW + 100) == 2
            assert await scenario.all(DeadLetters()) == []

    async def test_dead_letters_can_be_dropped(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("a")
            messages = scenario.messages("a", 3)
            await scenario.applied("a", 1, letters=[Letter(m, "no") for m in messages])
            first, second, third = messages
            assert await scenario.store.drop_letters([first.id, third.id, b"none"]) == 2
            assert await scenario.store.drop_letters([first.id]) == 0
            left = await scenario.all(DeadLetters())
            assert [one.message for one in left] == [second.id]

    async def test_starts_without_a_unit_are_listed_newest_first(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("taken")
            for unit in ("taken", "a", "b", "c"):
                await scenario.post(scenario.start(unit))
            later = scenario.start("d", visible_at=NOW + 60_000)
            # The first start of an id makes its unit, and the others join it.
            await scenario.post(scenario.message("a"), scenario.start("a"), later)
            # The start of a child is a call of its parent.
            await scenario.applied("parent", post=[scenario.start("parent/1", sender="parent")])
            found = await scenario.all(Starts())
            assert [start.to for start in found] == ["d", "c", "b", "a"]
            assert found[0] == later
            first = await scenario.store.query(Starts(limit=3))
            rest = await scenario.store.query(Starts(limit=3, after=first.next))
            assert [start.to for start in (*first.items, *rest.items)] == ["d", "c", "b", "a"]
            assert rest.next is None
            chosen = await scenario.all(Starts(ids=("a", "taken", "c", "nobody")))
            assert [start.to for start in chosen] == ["c", "a"]
            counts = dict((await scenario.store.query(Counts())).items)
            assert counts["starts"] == 4
