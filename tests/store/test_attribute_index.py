"""The index of search attributes: the plans of lists use it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from perdure import Where
from perdure.kernel.data.attributes import encode_attributes
from perdure.ports.store import Units
from perdure.store.sqlite import SQLiteStore
from perdure.store.sqlite.reads import units_sql
from perdure.testing.conformance import Scenario
from perdure.testing.conformance.scenario import NOW


async def plan(store: SQLiteStore, **filters: Any) -> str:
    sql, values = units_sql(Units(**filters))
    for value in values:
        sql = sql.replace("?", f"'{value}'" if isinstance(value, str) else str(value), 1)
    return "\n".join(
        row[3] for row in await store.inspect(f"EXPLAIN QUERY PLAN {sql.replace('?', '100')}")
    )


async def test_one_value_is_read_in_order_and_nothing_is_sorted() -> None:
    async with SQLiteStore(":memory:") as store:
        for where in ((Where("c", "=", "c1"),), (Where("c", "in", ["c1"]), Where("n", ">", 1))):
            found = await plan(store, where=where)
            assert (
                "USING COVERING INDEX attributes_value (name=? AND value_kind=? AND value=?)"
                in found
            )
            assert "SEARCH units USING PRIMARY KEY (id=?)" in found
            assert "TEMP B-TREE" not in found
        assert "USING PRIMARY KEY (unit=? AND name=? AND value_kind=? AND value>?)" in found


@pytest.mark.parametrize(
    ("condition", "columns"),
    [
        (Where("n", ">", 1), "value>?"),
        (Where("n", "<=", 1), "value<?"),
        (Where("n", "in", [1, 2]), "value=?"),
        (Where("n", "!=", 1), "value_kind=?"),
    ],
)
async def test_other_conditions_search_the_index(condition: Where, columns: str) -> None:
    async with SQLiteStore(":memory:") as store:
        found = await plan(store, where=(condition,), statuses=("running",))
        index = next(line for line in found.splitlines() if "attributes_value" in line)
        assert columns in index
        assert "SCAN units" not in found


async def rows_of(store: SQLiteStore) -> Sequence[tuple[Any, ...]]:
    return await store.inspect(
        "SELECT unit, name, value FROM attributes ORDER BY unit, name, value"
    )


async def test_a_unit_without_attributes_has_no_rows() -> None:
    async with SQLiteStore(":memory:") as store:
        scenario = Scenario(store)
        await scenario.claim()
        await scenario.applied("plain")
        await scenario.applied("plain", 1, {"status": "completed"})
        assert await rows_of(store) == []
        named = {"attributes": encode_attributes({"tags": ["b", "a"], "n": 1}, removing=False)}
        await scenario.applied("named", row=named)
        assert await rows_of(store) == [
            ("named", "n", 1),
            ("named", "tags", "a"),
            ("named", "tags", "b"),
        ]


async def test_a_new_run_with_the_attributes_of_the_one_before_has_a_time_of_its_own() -> None:
    """Lists go by the time in the index, the newest first."""
    named = {"attributes": encode_attributes({"n": 1}, removing=False)}
    async with SQLiteStore(":memory:") as store:
        scenario = Scenario(store)
        await scenario.claim()
        await scenario.applied("a", row={**named, "created_at": NOW})
        await scenario.applied("b", row={**named, "created_at": NOW + 1})
        await scenario.applied("a", 1, {**named, "created_at": NOW + 2, "run": b"2" * 16})
        found = await store.query(Units(where=(Where("n", "=", 1),)))
        assert [view.row.id for view in found.items] == ["a", "b"]
