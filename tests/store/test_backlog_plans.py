"""Counting what needs a node walks the beginning of an index, however many instances sleep."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from perdure.store.sqlite import SQLiteStore
from perdure.store.statements import statements

SQL = statements("perdure.store.sqlite", "counts")


@pytest.mark.parametrize(
    ("name", "bound"), [("backlog_due", "wake_at>? AND wake_at<?"), ("backlog_busy", "wake_at=?")]
)
async def test_timers_of_the_future_are_not_read(tmp_path: Path, name: str, bound: str) -> None:
    path = tmp_path / "x.db"
    async with SQLiteStore(str(path)):
        pass
    connection = apsw.Connection(str(path))
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {SQL[name]}", (None, 1))]
    assert f"SEARCH units USING INDEX units_wake (scope=? AND {bound})" in plan, plan
    connection.close()
