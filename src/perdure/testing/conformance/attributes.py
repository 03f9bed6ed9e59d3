"""Search attributes: lists are filtered by them, in pages, and follow each change."""

# ruff: noqa: D102 - the name of a test says what it proves

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from perdure.kernel.data.attributes import encode_attributes
from perdure.ports.store import Units
from perdure.ports.where import Op, Where
from perdure.testing.conformance.scenario import (
    NOW,
    Scenario,
    StoreFactory,
    scene,
    units_of,
)

SPRING, SUMMER = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC)


def _values(**values: Any) -> dict[str, Any]:
    return {"attributes": encode_attributes(values, removing=False)}


async def _found(scenario: Scenario, *where: Where, **filters: Any) -> list[str]:
    return units_of(await scenario.all(Units(where=where, **filters)))


class Attributes:
    """Search attributes."""

    async def test_each_operator_compares(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            for n, total in enumerate((10, 20.5, 30, -1)):
                await scenario.applied(f"order-{n}", row=_values(total=total) | {"created_at": n})
            await scenario.applied("plain")
            expected: list[tuple[Op, Any, list[str]]] = [
                ("=", 10, ["order-0"]),
                ("=", 10.0, ["order-0"]),
                ("=", 11, []),
                ("!=", 10, ["order-3", "order-2", "order-1"]),
                ("<", 10, ["order-3"]),
                ("<=", 10, ["order-3", "order-0"]),
                (">", 20.5, ["order-2"]),
                (">=", 20.5, ["order-2", "order-1"]),
                ("in", [30, 10, 99], ["order-2", "order-0"]),
                ("in", [30], ["order-2"]),
                ("in", [], []),
            ]
            for op, value, ids in expected:
                assert await _found(scenario, Where("total", op, value)) == ids, (op, value)

    async def test_only_values_of_one_kind_are_compared(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            kinds: dict[str, Any] = {"text": "1", "number": 1, "truth": True, "time": SPRING}
            for unit, value in kinds.items():
                await scenario.applied(unit, row=_values(v=value))
            for unit, value in kinds.items():
                for op in ("=", "<=", ">="):
                    assert await _found(scenario, Where("v", op, value)) == [unit]
                assert await _found(scenario, Where("v", "!=", value)) == []
                assert await _found(scenario, Where("other", "=", value)) == []
            assert await _found(scenario, Where("v", "!=", "2")) == ["text"]
            assert await _found(scenario, Where("v", ">", False)) == ["truth"]
            assert await _found(scenario, Where("v", "<", SUMMER)) == ["time"]

    async def test_a_list_fits_when_one_of_its_texts_does(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied(
                "both", row=_values(tags=["red", "big", "red"]) | {"created_at": 1}
            )
            await scenario.applied("one", row=_values(tags=["blue"]) | {"created_at": 2})
            await scenario.applied("none", row=_values(tags=[]) | {"created_at": 3})
            assert await _found(scenario, Where("tags", "=", "red")) == ["both"]
            assert await _found(scenario, Where("tags", "in", ("big", "red", "blue"))) == [
                "one",
                "both",
            ]
            assert await _found(scenario, Where("tags", ">", "a")) == ["one", "both"]
            assert await _found(scenario, Where("tags", "!=", "red")) == ["one"]

    async def test_text_is_ordered_by_code_points(self, store_factory: StoreFactory) -> None:
        # Collations differ from machine to machine. Code points are the same everywhere.
        async with scene(store_factory) as scenario:
            names = ["", "A", "a", "a b", "é", "\uffee", "\U0001f600"]
            for n, name in enumerate(names):
                await scenario.applied(f"u{n}", row=_values(name=name) | {"created_at": n})
            for n, name in enumerate(names):
                assert await _found(scenario, Where("name", "=", name)) == [f"u{n}"]
                assert len(await _found(scenario, Where("name", "<", name))) == n

    async def test_large_numbers_keep_their_order(self, store_factory: StoreFactory) -> None:
        # Beyond 2^53 a float cannot tell neighbouring integers apart.
        async with scene(store_factory) as scenario:
            numbers = [-(1 << 63), -1e300, -(1 << 53), (1 << 53) + 1, (1 << 63) - 1, 1e300]
            for n, number in enumerate(sorted(numbers)):
                await scenario.applied(f"u{n}", row=_values(n=number) | {"created_at": n})
            for n, number in enumerate(sorted(numbers)):
                assert await _found(scenario, Where("n", "=", number)) == [f"u{n}"]
                assert len(await _found(scenario, Where("n", "<", number))) == n

    async def test_conditions_and_filters_must_all_fit(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            for n in range(12):
                row = _values(customer=f"c{n % 2}", total=n, late=n % 3 == 0)
                status = "running"
                if n % 4 == 0:
                    status = "completed"
                await scenario.applied(f"u{n}", row=row | {"created_at": n, "status": status})
            first, large = Where("customer", "=", "c0"), Where("total", ">", 3)
            assert await _found(scenario, first, large) == ["u10", "u8", "u6", "u4"]
            assert await _found(scenario, large, first, Where("late", "=", True)) == ["u6"]
            assert await _found(scenario, large, Where("total", "<=", 5)) == ["u5", "u4"]
            assert await _found(scenario, large, Where("customer", "!=", "c0")) == [
                "u11",
                "u9",
                "u7",
                "u5",
            ]
            assert await _found(
                scenario, Where("customer", "!=", "c0"), Where("late", "!=", True)
            ) == [
                *("u11", "u7", "u5", "u1"),
            ]
            assert await _found(scenario, first, statuses=("completed",)) == ["u8", "u4", "u0"]
            assert await _found(scenario, first, created_after=2, created_before=8) == ["u6", "u4"]
            assert await _found(scenario, first, id_prefix="u1") == ["u10"]

    async def test_pages_join_up_while_others_are_added(self, store_factory: StoreFactory) -> None:
        # As in the lists, but by way of the index of attributes, which has another order.
        async with scene(store_factory) as scenario:
            for n in range(9):
                await scenario.applied(
                    f"u{n}", row=_values(customer="c", total=n) | {"created_at": n // 3}
                )
            conditions = (
                Where("customer", "=", "c"),
                Where("total", ">=", 0),
                Where("customer", "!=", "d"),
            )
            for number, where in enumerate(conditions):
                seen: list[str] = []
                query: Units | None = Units(where=(where,), limit=2)
                while query is not None:
                    page = await scenario.store.query(query)
                    late = _values(customer="c", total=1) | {"created_at": NOW}
                    await scenario.applied(f"late-{number}-{len(seen)}", row=late)
                    seen += units_of(page.items)
                    if page.next is not None:
                        query = replace(query, after=page.next)
                    else:
                        query = None
                assert [unit for unit in seen if not unit.startswith("late")] == [
                    *("u8", "u7", "u6", "u5", "u4", "u3", "u2", "u1", "u0"),
                ]
                assert len(set(seen)) == len(seen)

    async def test_a_change_is_followed(self, store_factory: StoreFactory) -> None:
        # The index stands beside the row. An entry of an old value that stays is found for ever.
        async with scene(store_factory) as scenario:
            old, new = Where("customer", "=", "old"), Where("customer", "=", "new")
            await scenario.applied("order")
            assert await _found(scenario, old) == []
            await scenario.applied("order", 1, _values(customer="old", gone=1))
            assert await _found(scenario, old) == ["order"]
            await scenario.applied(
                "order", 2, _values(customer="old", gone=1) | {"status": "completed"}
            )
            assert await _found(scenario, old, Where("gone", "=", 1)) == ["order"]
            await scenario.applied("order", 3, _values(customer="new"))
            assert (
                await _found(scenario, old) == await _found(scenario, Where("gone", "=", 1)) == []
            )
            assert await _found(scenario, new) == ["order"]
            await scenario.applied("order", 4)
            assert await _found(scenario, new) == []

    async def test_a_new_run_has_its_own(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("older", row=_values(customer="c") | {"created_at": 5})
            await scenario.applied("order", row=_values(customer="c") | {"created_at": 1})
            again = _values(customer="c") | {"created_at": 9, "run": b"another"}
            await scenario.applied("order", 1, again)
            assert await _found(scenario, Where("customer", "=", "c")) == ["order", "older"]
            await scenario.applied("order", 2, {"created_at": 9, "run": b"a third"})
            assert await _found(scenario, Where("customer", "=", "c")) == ["older"]

    async def test_a_deleted_unit_is_not_found(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order", row=_values(customer="c"))
            await scenario.applied("order", 1, _values(customer="c"), delete=NOW + 1)
            assert await _found(scenario, Where("customer", "=", "c")) == []
            await scenario.applied("order", row={"run": b"another"})
            assert await _found(scenario, Where("customer", "=", "c")) == []

    async def test_a_refused_commit_changes_none(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order", row=_values(customer="c"))
            late = scenario.commit("order", 0, _values(customer="d"))
            assert await scenario.apply(late) == ["stale"]
            assert await _found(scenario, Where("customer", "=", "c")) == ["order"]

    async def test_what_is_no_dict_of_values_is_kept_and_not_found(
        self, store_factory: StoreFactory
    ) -> None:
        # A newer release may write another format. The store keeps the bytes, and does not fail.
        async with scene(store_factory) as scenario:
            commit = await scenario.applied("order", row={"attributes": b"\xffno payload"})
            assert (await scenario.load("order")).row == commit.row
            assert await _found(scenario, Where("customer", "!=", "c")) == []
