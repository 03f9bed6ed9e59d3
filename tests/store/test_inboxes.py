"""Inboxes in a SQLite file: what reading and posting costs, and what a file of an older release gets."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from perdure.kernel.message import Message, Send, Start
from perdure.store.apply import COUNT_LETTERS, FIND_START
from perdure.store.database import MEMORY
from perdure.store.migrate import migrations
from perdure.store.reads import ARRIVALS, MAIL
from perdure.store.sqlite import SQLiteStore


def old_file(path: Path, upto: int) -> None:
    """A file with the first migrations only."""
    connection = sqlite3.connect(path)
    connection.execute(
        "CREATE TABLE schema_migrations"
        " (version INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL) WITHOUT ROWID"
    )
    for migration in migrations()[:upto]:
        connection.executescript(migration.sql)
        row = (migration.version, migration.name, migration.checksum)
        connection.execute("INSERT INTO schema_migrations VALUES (?, ?, ?)", row)
    connection.executemany(
        "INSERT OR REPLACE INTO meta VALUES (?, ?)",
        [("format", "2"), ("id", "old"), ("shards", "1")],
    )
    connection.commit()
    connection.close()


async def test_the_order_of_what_waits_in_an_older_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    old_file(path, 4)
    assert migrations()[4].name == "places"
    connection = sqlite3.connect(path)
    body = b"\x93\x02\xa1c\xc4\x00"
    for unit in ("b", "a", "c"):
        for position in (3, 4, 9):  # the times run backwards: they are no order
            row = (unit, position, f"{unit}{position}".encode(), body, 100 - position)
            connection.execute(
                "INSERT INTO inbox (unit, position, message, scope, kind, body, at, visible_at, homeless)"
                " VALUES (?, ?, ?, 'default/0', 'Send', ?, ?, 0, 0)",
                row,
            )
    connection.commit()
    connection.close()
    async with SQLiteStore(str(path)) as store:
        for loaded in await store.load(["a", "b", "c"]):
            assert [message.id.decode() for message in loaded.inbox] == [
                f"{loaded.id}{n}" for n in (3, 4, 9)
            ]
            assert all(isinstance(message.body, Send) for message in loaded.inbox)
        arrived = (await store.arrivals(["default/0"], None, 10)).next
        place = (await store.load(["a"]))[0].place
        await store.post([Message(b"late", "a", Start("wf", None, b""), 1)])
        assert [message.id for message in (await store.inbox("a", place, 10)).messages] == [b"late"]
        assert (await store.arrivals(["default/0"], arrived, 10)).items == ["a"]
        assert await store.inspect("SELECT unit, messages FROM inboxes") == [
            ("a", 4),
            ("b", 3),
            ("c", 3),
        ]


@pytest.mark.parametrize(
    ("sql", "values", "walks"),
    [
        (ARRIVALS, "(1, '[]')", "SEARCH inbox USING INTEGER PRIMARY KEY (rowid>?)"),
        (MAIL, "('a', 1, 1)", "SEARCH inbox USING INDEX inbox_unit (unit=? AND rowid>?)"),
        (COUNT_LETTERS, "('a')", "SEARCH inboxes USING PRIMARY KEY (unit=?)"),
        (FIND_START, "('a')", "SEARCH inbox USING COVERING INDEX inbox_start (unit=?)"),
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
