"""What the reading commands show of an instance of which a part cannot be read: the rest of it, and its neighbours."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

import pytest
from invocation import Cli

from perdure import Client
from perdure.store.sqlite.lock import OwnerLock

GARBAGE = b"\x93\xff\x00garbage\xc1\xc1"
READING = (
    "ls",
    "ls --json",
    "show bad",
    "show bad --json",
    "history bad",
    "history bad --json",
    "tree bad",
    "stats",
)


@pytest.fixture
def store(cli: Cli) -> None:
    """Two instances that wait."""
    for name in ("bad", "good"):
        assert (
            cli("run", "shop.py:approval", '["o"]', "--id", name, "-q", "--timeout", "0").code == 4
        )


def damage(change: str, *values: object) -> None:
    with closing(sqlite3.connect("perdure.db")) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        assert connection.execute(f"UPDATE {change}", values).rowcount > 0
        connection.commit()


DAMAGES = {
    "journal": ("journal SET events = ? WHERE unit = 'bad' AND first = 1", GARBAGE),
    "journal as text": ("journal SET events = 'abc' WHERE unit = 'bad' AND first = 1",),
    "failure": ("units SET failure = ? WHERE id = 'bad'", GARBAGE),
    "custom status": ("units SET custom_status = ? WHERE id = 'bad'", GARBAGE),
    "attributes": ("units SET attributes = ? WHERE id = 'bad'", GARBAGE),
    "parent": ("units SET parent = ? WHERE id = 'bad'", GARBAGE),
    "execution": ("units SET execution = 'x' WHERE id = 'bad'",),
    "run": ("units SET run = 'x' WHERE id = 'bad'",),
    "created": ("units SET created_at = 'x' WHERE id = 'bad'",),
    "created far away": ("units SET created_at = 9000000000000000000 WHERE id = 'bad'",),
    "wakes far away": ("units SET wake_at = 9223372036854775807 WHERE id = 'bad'",),
}


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("kind", DAMAGES)
def test_no_command_fails(cli: Cli, kind: str) -> None:
    damage(*DAMAGES[kind])
    for command in READING:
        ended = cli(*command.split())
        assert ended.code in (0, 7), f"{command}: {ended.stderr}"
        assert "internal error" not in ended.stderr
        assert "good" in ended.stdout or not command.startswith("ls")
    assert asyncio.run(described()) == {"bad", "good"}


async def described() -> set[str]:
    """The instances that a client lists, and describes one by one."""
    async with Client.open("sqlite:///perdure.db") as client:
        ids = {one.id for one in await client.list()}
        for name in ids:
            await client.get(name).describe()
            await client.get(name).tree()
        return ids


@pytest.mark.usefixtures("store")
def test_what_cannot_be_read_is_named(cli: Cli) -> None:
    whole = cli("history", "bad", "--json").json["events"]
    cli("send", "bad", "other", "1")
    damage(*DAMAGES["journal"])
    damage(*DAMAGES["execution"])
    shown = cli("show", "bad", "--json")
    assert shown.code == 7
    assert shown.json["type"] == "approval"
    assert "the column execution of 'bad' cannot be read" in shown.stderr
    assert f"events 1 to {len(whole)} of execution 1 of 'bad' cannot be read" in shown.stderr
    assert len(shown.json["unreadable"]) == 2
    history = cli("history", "bad", "--json")
    assert (history.code, history.json["events"], len(history.json["unreadable"])) == (7, [], 1)


def test_documents_that_are_printed_while_they_are_read_are_whole(cli: Cli) -> None:
    assert cli("run", "shop.py:double", "--id", "d-0", "-q").code == 0
    with closing(sqlite3.connect("perdure.db")) as connection:
        names = [row[1] for row in connection.execute("PRAGMA table_info(units)") if row[1] != "id"]
        columns = ", ".join(names)
        for n in range(1, 1_201):  # three pages
            sql = (
                f"INSERT INTO units (id, {columns}) SELECT ?, {columns} FROM units WHERE id = 'd-0'"
            )
            connection.execute(sql, (f"d-{n}",))
        connection.commit()
    listed = cli("ls", "--limit", "0", "--json").json
    assert len({one["id"] for one in listed["instances"]}) == 1_201
    assert listed["next"] is None
    assert len(cli("ls", "--limit", "0").stdout.splitlines()) == 1_202
    empty = cli("ls", "--json", "--type", "nothing")
    assert empty.json == {"instances": [], "next": None}


def test_a_start_that_a_running_node_has_not_taken_names_the_node(cli: Cli) -> None:
    assert cli("start", "double", "--id", "d").code == 0
    assert "no node has taken it yet; run one with `perdure serve`" in cli("show", "d").stdout
    lock = OwnerLock("perdure.db")
    asyncio.run(lock.acquire("node-1", standby=False))
    try:
        shown = cli("show", "d")
    finally:
        lock.release()
    assert shown.code == 0
    assert "perdure serve" not in shown.stdout
    assert "owns the store and has not taken it yet" in " ".join(shown.stdout.split())
