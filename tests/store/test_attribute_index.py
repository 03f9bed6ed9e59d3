"""The index of search attributes: the plans of lists use it, and a store of the format before it gets it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from old_store import old_store

from perdure import Where
from perdure.errors import StoreFormat
from perdure.kernel.attributes import encode_attributes
from perdure.ports.store import Units
from perdure.store import open_store
from perdure.store.migrate import migrate, migrations, pending
from perdure.store.reads import units_sql
from perdure.store.sqlite import SQLiteStore
from perdure.testing.conformance import Scenario


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


# ---------------------------------------------------------------- a store of the format before


async def test_an_old_store_gets_the_index_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    old_store(path)
    async with open_store(f"sqlite:///{path}") as store:
        assert (store.info.id, store.info.format) == ("old", 2)
        assert pending(path) == []
        where = (Where("customer", "=", "c1"), Where("n", "<", 10))
        found = [view.row.id for view in (await store.query(Units(where=where))).items]
        assert found == ["u7", "u5", "u1"]
        everybody = Units(where=(Where("n", ">=", 0),), limit=2_000)
        assert len((await store.query(everybody)).items) == 800
        scenario = Scenario(store)
        await scenario.claim()
        await scenario.applied(
            "new", row={"attributes": encode_attributes({"n": 9.5}, removing=False)}
        )
        where = (Where("n", ">", 9), Where("n", "<", 10))
        assert [view.row.id for view in (await store.query(Units(where=where))).items] == ["new"]


async def test_an_old_store_is_migrated_once_and_only_when_it_may_be_written(
    tmp_path: Path,
) -> None:
    path = tmp_path / "old.db"
    old_store(path)
    later = [migration.name for migration in migrations()[1:]]
    assert pending(path) == later
    with pytest.raises(StoreFormat, match="needs the migration attributes"):
        async with open_store(f"sqlite:///{path}?read_only=true"):
            pass
    assert migrate(path) == later
    assert migrate(path) == []
    async with open_store(f"sqlite:///{path}?read_only=true") as store:
        assert store.info.format == 2


async def test_the_release_before_refuses_the_new_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new.db"
    async with open_store(f"sqlite:///{path}"):
        pass
    old = migrations()[:1]
    monkeypatch.setattr("perdure.store.migrate.migrations", lambda: old)
    with pytest.raises(
        StoreFormat,
        match=r"has the schema 2 \(attributes\), which this release does not know; upgrade",
    ):
        pending(path)
