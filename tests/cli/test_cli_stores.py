"""Stores that cannot be read as they are: each command names the file and the remedy; `migrate` mends what it can."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import apsw
import pytest
from invocation import Cli, said_on_stdout

from perdure.store.sqlite.migrate import FORMAT, formats

READING = ("ls", "ls --limit 0 --json", "show a", "history a", "tree a", "stats", "wait a")
WRITING = (
    "send a c 1",
    "cancel a",
    "delete a",
    "prune a --keep-last 1",
    "start double",
    "run shop.py:double",
)


def refused(cli: Cli, commands: tuple[str, ...], url: str, *parts: str, code: int = 5) -> None:
    """Each of the commands says the same in one line."""
    wrong: list[str] = []
    for command in commands:
        ended = cli(*shlex.split(command), "--store", url)
        lines = [line for line in ended.stderr.splitlines() if line != "the module was imported"]
        missing = [part for part in parts if part not in ended.stderr]
        if ended.code != code or missing or len(lines) != 1 or said_on_stdout(command, ended):
            wrong.append(
                f"{command}\n  -> {ended.code}, lacks {missing}\n  {ended.stderr}{ended.stdout}"
            )
    assert not wrong, "\n".join(wrong)


@pytest.fixture
def store(cli: Cli) -> Path:
    """A store with an instance `a`."""
    assert cli("run", "shop.py:double", "--id", "a", "-q").code == 0
    return Path("perdure.db")


def execute(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


# ---------------------------------------------------------------- what is wrong


def test_a_newer_format(cli: Cli, store: Path) -> None:
    execute(store, "UPDATE meta SET value = '999' WHERE key = 'format'")
    refused(
        cli,
        (*READING, *WRITING, "migrate", "migrate --check"),
        "sqlite:///perdure.db",
        "perdure.db",
        "upgrade",
    )


def test_files_that_are_no_stores(cli: Cli, folder: Path) -> None:
    (folder / "empty.db").touch()
    (folder / "sub").mkdir()
    refused(
        cli, (*READING, "migrate"), "sqlite:///empty.db", "empty.db is an empty file", "perdure run"
    )
    refused(
        cli, (*READING, *WRITING, "migrate"), "sqlite:///sub", "sub is a folder", "sub/perdure.db"
    )
    refused(
        cli,
        (*READING, *WRITING, "migrate"),
        "sqlite:///shop.py",
        "shop.py is not a SQLite database",
        "another",
    )
    refused(cli, ("migrate",), "memory://", "lives in the memory of one process", code=2)


@pytest.mark.usefixtures("store")
def test_a_file_that_another_program_holds_locked(cli: Cli) -> None:
    holder = apsw.Connection("perdure.db")
    holder.execute("PRAGMA journal_mode = DELETE")
    holder.execute("BEGIN EXCLUSIVE")
    parts = ("another program holds ", "perdure.db locked", "end that")
    refused(cli, (*READING, *WRITING, "migrate"), "sqlite:///perdure.db?busy_ms=1", *parts)
    holder.execute("ROLLBACK")
    holder.close()


def test_a_damaged_file_while_it_is_listed(cli: Cli, store: Path) -> None:
    execute(store, "PRAGMA journal_mode = DELETE")
    connection = apsw.Connection(str(store))
    root = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'units'").get
    size = connection.execute("PRAGMA page_size").get
    connection.close()
    content = bytearray(store.read_bytes())
    content[(root - 1) * size : root * size] = b"\xff" * size
    store.write_bytes(content)
    refused(
        cli,
        READING,
        "sqlite:///perdure.db",
        "perdure.db is damaged",
        "restore the file from a backup",
    )


@pytest.mark.usefixtures("store")
def test_a_disk_that_is_full_while_it_is_listed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise apsw.FullError(
            "database or disk is full"
        )  # a sort that does not fit into memory writes a file

    monkeypatch.setattr("perdure.store.sqlite.reads.answer", full)
    parts = ("no space is left for ", "perdure.db", tempfile.gettempdir(), "free some")
    refused(cli, READING, "sqlite:///perdure.db", *parts)


AS_NOBODY = """
import os, sys
from perdure.cli import screen
from perdure.cli.program import app, program
if os.geteuid() == 0:  # permissions do not bind root
    app(sys.argv[1:], standalone_mode=False)  # imports what is imported late
    screen.error("as root")
    os.setgid(65534)
    os.setuid(65534)
program()
"""


@pytest.mark.parametrize(("mode", "of_folder"), [(0o000, 0o755), (0o666, 0o000)])
def test_without_permission(cli: Cli, mode: int, of_folder: int) -> None:
    folder = Path(tempfile.mkdtemp())  # pytest's own folders are closed to other users
    path = folder / "a.db"
    assert cli("start", "double", "--store", f"sqlite:///{path}").code == 0
    path.chmod(mode)
    folder.chmod(of_folder)
    try:
        for command in ("ls", "send a c 1", "migrate"):
            arguments = [
                sys.executable,
                "-c",
                AS_NOBODY,
                *shlex.split(command),
                "--store",
                f"sqlite:///{path}",
            ]
            ended = subprocess.run(
                arguments, capture_output=True, text=True, timeout=60, check=False, cwd="/"
            )
            assert ended.returncode == 5, ended.stderr
            assert f"{path} cannot be" in ended.stderr
            assert "must be readable and writable by this user" in ended.stderr
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


# ---------------------------------------------------------------- migrate


@pytest.fixture
def old(store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of this release, in the hands of a release with one format more."""
    later = formats() | {FORMAT + 1: "CREATE TABLE later (id TEXT)"}
    monkeypatch.setattr("perdure.store.sqlite.migrate.formats", lambda: later)
    return store


def test_an_old_store_is_only_changed_by_what_writes(cli: Cli, old: Path) -> None:
    before = old.read_bytes()
    parts = ("perdure.db is of an older format", "`perdure migrate sqlite:///", "perdure.db`")
    refused(cli, READING, "sqlite:///perdure.db", *parts)
    assert old.read_bytes() == before


@pytest.mark.usefixtures("old")
def test_migrate_says_what_it_would_do_and_does_it_once(cli: Cli) -> None:
    url, later = "sqlite:///perdure.db", [f"format {FORMAT + 1}"]
    looked = cli("migrate", url, "--check")
    said = f"perdure.db has the format {FORMAT} and needs: format {FORMAT + 1}\n"
    assert (looked.code, looked.stdout) == (5, said)
    assert "perdure migrate sqlite:///" in looked.stderr
    assert cli("migrate", "--store", url, "--check", "--json").json == {
        "store": url,
        "format": FORMAT,
        "applied": [],
        "pending": later,
    }
    done = cli("migrate", url, "--json")
    assert (done.code, done.json["format"], done.json["applied"]) == (0, FORMAT + 1, later)
    again = cli("migrate", "--check", env={"PERDURE_STORE": url})
    said = f"perdure.db has the format {FORMAT + 1}, which is that of this release\n"
    assert (again.code, again.stdout) == (0, said)


@pytest.mark.usefixtures("old")
def test_a_store_is_not_migrated_under_a_node_of_an_older_release(cli: Cli) -> None:
    with Path("perdure.db.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(f"{os.getpid()} old\n")
        lock.flush()
        needs = f"perdure.db has to be brought to the format {FORMAT + 1}"
        parts = (f"{needs}, and process {os.getpid()} (node old) has it", "stop that")
        commands = ("migrate", "send a c 1", "delete a", "start double", "run shop.py:double")
        refused(cli, commands, "sqlite:///perdure.db", *parts)
    assert cli("migrate", "sqlite:///perdure.db").code == 0
