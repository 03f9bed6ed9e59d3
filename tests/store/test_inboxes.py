"""Inboxes in a SQLite file: what reading and posting costs."""

from __future__ import annotations

import pytest

from perdure.store.sqlite import SQLiteStore
from perdure.store.sqlite.apply import MESSAGES
from perdure.store.sqlite.database import MEMORY
from perdure.store.sqlite.reads import SQL


@pytest.mark.parametrize(
    ("sql", "values", "walks"),
    [
        (SQL["arrivals"], "(1, '[]')", "SEARCH inbox USING INTEGER PRIMARY KEY (rowid>?)"),
        (SQL["inbox"], "('a', 1, 1)", "SEARCH inbox USING INDEX inbox_unit (unit=? AND rowid>?)"),
        (MESSAGES["count_messages"], "('a')", "SEARCH inboxes USING PRIMARY KEY (unit=?)"),
        (MESSAGES["find_start"], "('a')", "SEARCH inbox USING COVERING INDEX inbox_start (unit=?)"),
    ],
)
async def test_no_statement_walks_a_whole_inbox(sql: str, values: str, walks: str) -> None:
    async with SQLiteStore(MEMORY) as store:
        asked = sql
        for value in values.strip("()").split(", "):
            asked = asked.replace("?", value, 1)
        plan = [str(row[3]) for row in await store.inspect(f"EXPLAIN QUERY PLAN {asked}")]
    assert walks in plan
    assert not [step for step in plan if "TEMP B-TREE" in step]
