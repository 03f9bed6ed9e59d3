"""`perdure move`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from invocation import Cli

from perdure import moving
from perdure.cli import moving as command
from perdure.moving import Progress
from perdure.store import open_store

if TYPE_CHECKING:
    from moved_stores import Places

OLD, NEW = "sqlite:///old.db", "sqlite:///new.db"
MOVE = ("move", "--from", OLD, "--to", NEW)


@pytest.fixture
def started(cli: Cli, folder: Path) -> Path:
    """A store with a start in it."""
    ended = cli("start", "shop.py:checkout", '{"card": "visa"}', "--id", "order-1", "--store", OLD)
    assert ended.code == 0, ended
    return folder


def interrupt(_: Progress) -> None:
    raise KeyboardInterrupt


def interrupted() -> None:
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(moving.move(OLD, NEW, report=interrupt))


def test_a_move_says_what_it_did_and_where_to_go_on(cli: Cli, started: Path) -> None:
    ended = cli(*MOVE)
    assert ended.code == 0
    assert ended.stdout.startswith(f"moved 1 row (0 instances) from sqlite:///{started}/old.db to ")
    assert f"start your nodes with --store sqlite:///{started}/new.db" in ended.stderr
    assert "copy inbox: 1 row\n" in ended.stderr
    assert "order-1" in cli("ls", "--store", NEW).stdout
    again = cli(*MOVE)
    assert again.code == 0
    assert "had moved to" in again.stdout


def test_the_old_store_names_the_new_one_in_each_command(cli: Cli, started: Path) -> None:
    cli(*MOVE)
    for args in (
        ("ls",),
        ("stats",),
        ("show", "order-1"),
        ("start", "shop.py:double", "1"),
        ("send", "order-1", "approved", "true"),
        ("serve", "shop.py:app"),
        ("run", "shop.py:double", "1"),
        ("delete", "order-1", "--yes"),
    ):
        ended = cli(*args, "--store", OLD)
        assert ended.code == 5, args
        assert "has moved to sqlite:///new.db, and takes no more work" in ended.stderr


def test_a_dry_run_changes_nothing(cli: Cli, started: Path) -> None:
    ended = cli(*MOVE, "--dry-run")
    assert ended.code == 0
    assert ended.stdout.startswith("would move 1 row from ")
    assert "  inbox: 1\n" in ended.stdout
    assert "units" not in ended.stdout
    assert not (started / "new.db").exists()
    assert cli("ls", "--store", OLD).code == 0
    interrupted()
    assert cli(*MOVE, "--dry-run").stdout.startswith("would go on moving 1 row from ")
    cli(*MOVE)
    assert cli(*MOVE, "--dry-run").stdout.startswith("has moved 1 row from ")


def test_a_program_can_read_the_answers(cli: Cli, started: Path) -> None:
    plan = cli(*MOVE, "--dry-run", "--json").json
    assert plan["step"] == "begin"
    assert plan["rows"]["inbox"] == 1
    moved = cli(*MOVE, "--json").json
    assert moved["rows"] == plan["rows"]
    assert moved["already"] is False
    assert moved["target"] == f"sqlite:///{started}/new.db"
    assert moved["seconds"] >= 0
    assert cli(*MOVE, "--json").json["already"] is True


def test_a_move_is_given_up(cli: Cli, started: Path) -> None:
    interrupted()
    assert cli("ls", "--store", OLD).code == 5
    ended = cli(*MOVE, "--give-up")
    assert ended.code == 0
    assert ended.stdout == f"{OLD} takes work again; {NEW} is empty\n"
    assert "order-1" in cli("ls", "--store", OLD).stdout
    again = cli(*MOVE, "--give-up")
    assert again.code == 2
    assert "is not being moved to" in again.stderr
    cli(*MOVE)
    refused = cli(*MOVE, "--give-up", "--json")
    assert refused.code == 2
    assert "cannot be given up" in refused.json["error"]["message"]


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (("--from", "sqlite:///no.db", "--to", NEW), 5, "there is no store no.db"),
        (("--from", OLD, "--to", OLD), 2, "are the same store"),
        (("--from", OLD, "--to", "memory://"), 2, "lives in the memory of one process"),
        (("--from", OLD, "--to", "mysql://x/y"), 2, "names no store that this release knows"),
        (
            ("--from", OLD, "--to", "sqlite:///no/new.db"),
            5,
            "the folder of no/new.db does not exist",
        ),
        (("--from", OLD), 2, "Missing option '--to'"),
        (("--from", OLD, "--to", NEW, "--dry-run", "--give-up"), 2, "exclude each other"),
        (("--from", OLD, "--to", "sqlite:///shop.py"), 5, "is not a SQLite database"),
    ],
)
def test_bad_input_is_refused_and_nothing_sealed(
    cli: Cli, args: tuple[str, ...], code: int, text: str
) -> None:
    for more in ((), ("--dry-run",)):
        if more and more[0] in args:
            continue
        ended = cli("move", *args, *more)
        assert (ended.code, text in ended.stderr) == (code, True), ended
    assert cli("ls", "--store", OLD).code == 0


def test_a_terminal_has_one_line_that_is_written_anew(
    cli: Cli, started: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_REDRAW_S", 0.0)
    ended = cli(*MOVE, columns=100)
    assert (
        "\r\x1b[2Kcopy inbox: 1 of 1 rows\r\x1b[2Kcompare inbox: 1 of 1 rows\r\x1b[2K"
        in ended.stderr
    )


async def test_postgres_is_shown_without_its_password(
    places: Places, cli: Cli, started: Path
) -> None:
    new = places.new("postgres", 3).replace("perdure@", "perdure:secret@")
    plan = await asyncio.to_thread(cli, "move", "--from", OLD, "--to", new, "--dry-run")
    assert plan.code == 0, plan
    ended = await asyncio.to_thread(cli, "move", "--from", OLD, "--to", new)
    assert ended.code == 0, ended
    for text in (plan.stdout, plan.stderr, ended.stdout, ended.stderr):
        assert "secret" not in text
    assert "@" not in ended.stdout
    assert "?schema=moved_" in ended.stdout


async def test_a_migration_makes_the_tables_of_the_cluster_too(places: Places, cli: Cli) -> None:
    # The nodes may have no right to make tables.
    from postgres_stores import administrator

    from perdure.store.postgres import PostgresStore

    url = places.new("postgres", 3)
    for more in ((), ("--check",)):
        ended = await asyncio.to_thread(cli, "migrate", url, *more)
        assert ended.code == 0, ended
        store = open_store(url)
        assert isinstance(store, PostgresStore)
        async with administrator(store.address.options.schema) as connection:
            found = await connection.fetchval(
                "SELECT count(*) FROM pg_tables WHERE schemaname = current_schema()"
                " AND tablename IN ('members', 'member_revisions')"
            )
        assert found == 2
