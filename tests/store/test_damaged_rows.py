"""One damaged row keeps no other from being read, and what cannot be read at all is an error of the store."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from perdure.errors import StoreFormat
from perdure.ports.store import KvEntries, Units
from perdure.store.sqlite import SQLiteStore
from perdure.testing.conformance import Scenario
from perdure.testing.conformance.scenario import NOW


async def filled(path: Path) -> None:
    async with SQLiteStore(str(path)) as store:
        scenario = Scenario(store)
        await scenario.claim()
        for n in range(6):
            await scenario.applied(f"order-{n}", row={"created_at": NOW + n})
            await scenario.accepted(scenario.message(f"order-{n}"))


def damage(path: Path, sql: str) -> None:
    connection = apsw.Connection(str(path))
    connection.execute(f"PRAGMA ignore_check_constraints = ON; {sql}")
    connection.close()


@pytest.mark.parametrize("value", ["'x'", "9e18", "-1", "1.5"])
async def test_a_time_that_is_none_hides_no_other_page(tmp_path: Path, value: str) -> None:
    path = tmp_path / "x.db"
    await filled(path)
    damage(path, f"UPDATE units SET created_at = {value} WHERE id = 'order-3'")
    async with SQLiteStore(str(path)) as store:
        for limit in (1, 2, 5, 100):
            found = [view.row.id for view in await Scenario(store).all(Units(limit=limit))]
            assert sorted(found) == [f"order-{n}" for n in range(6)]


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE units SET failure = x'93ff' WHERE id = 'order-3'",
        "UPDATE units SET failure = 'abc' WHERE id = 'order-3'",
        "UPDATE units SET execution = 'x' WHERE id = 'order-3'",
        "UPDATE inbox SET body = 'abc' WHERE unit = 'order-3'",
        "UPDATE inbox SET body = x'c1' WHERE unit = 'order-3'",
        "UPDATE units SET scope = 'zzz' WHERE id = 'order-3'",
    ],
)
async def test_units_beside_a_damaged_one_are_loaded(tmp_path: Path, sql: str) -> None:
    path = tmp_path / "x.db"
    await filled(path)
    damage(path, sql)
    async with SQLiteStore(str(path)) as store:
        loaded = await store.load([f"order-{n}" for n in range(6)])
        assert [(one.version, len(one.inbox)) for one in loaded] == [(1, 1)] * 6
        assert len((await store.query(Units())).items) == 6


async def test_what_cannot_be_read_is_an_error_of_the_store(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    await filled(path)
    damage(path, "INSERT INTO kv VALUES ('order-1', CAST(x'ff' AS TEXT), x'01', NULL, 1, 0, 0)")
    async with SQLiteStore(str(path)) as store:
        with pytest.raises(StoreFormat, match="holds a row that cannot be read"):
            await store.load(["order-1"])
        with pytest.raises(StoreFormat, match="holds a row that cannot be read"):
            await store.query(KvEntries(unit="order-1"))
        assert (await store.load(["order-2"]))[0].version == 1
