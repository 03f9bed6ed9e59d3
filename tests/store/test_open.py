"""Which store a URL names, and what is wrong with a file that cannot be opened."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw
import pytest

from perdure.errors import StoreError, StoreFormat, StoreLocked, StoreUnavailable, UsageError
from perdure.ports.store import Units
from perdure.store import open_store
from perdure.store.memory import MemoryStore
from perdure.store.sqlite import SQLiteStore, database
from perdure.store.sqlite.migrate import FORMAT, formats, migrate, pending
from perdure.testing.conformance import Scenario


def url_of(path: Path, options: str = "") -> str:
    return f"sqlite:///{path}{options}"


async def error_of(path: Path, options: str = "") -> StoreError:
    with pytest.raises(StoreError) as caught:
        async with open_store(url_of(path, options)):
            pass
    assert str(path) in str(caught.value)
    return caught.value


def execute(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


@contextmanager
def locked(path: Path, statement: str) -> Generator[None]:
    """Another program, which holds the file in a transaction."""
    code = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "connection.execute(sys.argv[2])\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(path), statement]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "locked\n"
        yield
        program.communicate(timeout=30)


async def created(path: Path) -> Path:
    async with open_store(url_of(path)) as store:
        scenario = Scenario(store)
        await scenario.claim()
        await scenario.applied("order")
    return path


# ---------------------------------------------------------------- URLs


async def test_urls_name_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert isinstance(open_store("memory://"), MemoryStore)
    for url, path in (
        ("sqlite://", ":memory:"),
        ("sqlite:///shop.db", "shop.db"),
        (f"sqlite:///{tmp_path}/my%20shop.db", f"{tmp_path}/my shop.db"),
        ("sqlite:///shop%231.db", "shop#1.db"),
        ("sqlite:///file:shop.db%3Fmode=ro", "file:shop.db?mode=ro"),
        ("sqlite:///100%25;x=1 %C3%A9.db", "100%;x=1 é.db"),
    ):
        store = open_store(url)
        assert isinstance(store, SQLiteStore)
        assert store.path == path
        async with store:
            assert store.info.shards == 1
    assert (tmp_path / "shop.db").exists()
    names = {"shop.db", "my shop.db", "shop#1.db", "file:shop.db?mode=ro", "100%;x=1 é.db"}
    assert {file.name for file in tmp_path.glob("*.db*")} - {
        f"{name}.lock" for name in names
    } == names


def test_a_store_is_returned_as_it_is() -> None:
    store = MemoryStore()
    assert open_store(store) is store


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (
            "mysql://host/db",
            ["mysql://host/db", "sqlite:///relative.db", "memory://", "postgresql://"],
        ),
        ("shop.db", ["shop.db", "sqlite:///relative.db"]),
        ("sqlite://shop.db", ["sqlite:///shop.db"]),
        ("memory://name", ["memory://name"]),
        ("sqlite:///a.db?sync=full", ["'sync'", "synchronous", "busy_ms"]),
        ("sqlite:///a.db?synchronous=sometimes", ["sometimes"]),
        ("sqlite:///a.db?shards=many", ["shards"]),
        ("sqlite:///a.db?shards=0", ["at least one shard"]),
        ("memory://?standby=true", ["'standby'", "shards"]),
        ("sqlite:///shop#1.db", ["'#'", "%23"]),
        ("sqlite:///shop.db?shards=2#1", ["'#'", "%23"]),
        ("sqlite:///shop.db#", ["'#'", "%23"]),
        ("sqlite:///shop.db?shards=2&shards=3", ["'shards'", "more than once"]),
        ("sqlite:///shop%00.db", ["NUL"]),
        ("sqlite:///shop\t.db", ["control character"]),
        ("sqlite:///shop%ff.db", ["UTF-8", "%25"]),
        ("sqlite:///shop.db?busy_ms=-1", ["busy_ms"]),
        ("sqlite:///", ["no file is named", "sqlite://"]),
        ("sqlite:/var/shop.db", ["sqlite:////absolute/path.db"]),
        ("sqlite:shop.db", ["sqlite:///relative.db"]),
        ("sqlite://[/shop.db", ["is no URL"]),
    ],
)
def test_a_wrong_url_says_what_would_be_right(url: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        open_store(url)
    for word in words:
        assert word in str(caught.value)


async def test_options_take_effect(tmp_path: Path) -> None:
    for level, number in (("full", 2), ("normal", 1), ("off", 0)):
        async with open_store(
            url_of(tmp_path / f"{level}.db", f"?synchronous={level}&shards=7")
        ) as store:
            assert store.info.shards == 7
            assert isinstance(store, SQLiteStore)
            [(found,)] = await store.inspect("PRAGMA synchronous")
            assert found == number


async def test_full_durability_is_the_default(tmp_path: Path) -> None:
    async with SQLiteStore(str(tmp_path / "a.db")) as store:
        assert await store.inspect("PRAGMA synchronous") == [(2,)]
        assert await store.inspect("PRAGMA journal_mode") == [("wal",)]


async def test_the_shard_count_never_changes(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with open_store(url_of(path, "?shards=4")) as store:
        assert store.info.shards == 4
    async with open_store(url_of(path)) as store:
        assert store.info.shards == 4
    with pytest.raises(UsageError, match="4 shards"):
        async with open_store(url_of(path, "?shards=5")):
            pass


# ---------------------------------------------------------------- files


async def test_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("these are my notes, and no database at all\n" * 100)
    error = await error_of(path)
    assert isinstance(error, StoreFormat)
    assert "not a SQLite database" in str(error)
    assert path.read_text().startswith("these are my notes")


async def test_a_damaged_header(tmp_path: Path) -> None:
    path = await created(tmp_path / "a.db")
    content = bytearray(path.read_bytes())
    content[:16] = b"damaged header!!"
    path.write_bytes(content)
    assert isinstance(await error_of(path), StoreFormat)


async def test_damaged_pages(tmp_path: Path) -> None:
    path = await created(tmp_path / "a.db")
    content = bytearray(path.read_bytes())
    content[100:3_000] = b"\xff" * 2_900
    path.write_bytes(content)
    error = await error_of(path)
    assert isinstance(error, StoreFormat)
    assert "backup" in str(error)


async def test_the_database_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    execute(path, "CREATE TABLE invoices (id)")
    before = path.read_bytes()
    error = await error_of(path)
    assert isinstance(error, StoreFormat)
    assert "invoices" in str(error)
    assert path.read_bytes() == before


async def test_a_newer_format(tmp_path: Path) -> None:
    path = await created(tmp_path / "a.db")
    execute(path, "UPDATE meta SET value = '999' WHERE key = 'format'")
    error = await error_of(path)
    assert isinstance(error, StoreFormat)
    assert "upgrade perdure" in str(error)


async def test_a_store_without_identity(tmp_path: Path) -> None:
    path = await created(tmp_path / "a.db")
    execute(path, "UPDATE meta SET value = 'seven' WHERE key = 'shards'")
    error = await error_of(path)
    assert isinstance(error, StoreFormat)
    assert "backup" in str(error)


async def test_a_folder(tmp_path: Path) -> None:
    assert "is a folder" in str(await error_of(tmp_path))


async def test_a_missing_folder(tmp_path: Path) -> None:
    error = await error_of(tmp_path / "missing" / "a.db")
    assert f"mkdir -p {tmp_path / 'missing'}" in str(error)


async def test_a_missing_file_is_not_created_when_it_is_only_to_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    error = await error_of(path, "?read_only=true")
    assert isinstance(error, StoreUnavailable)
    assert not path.exists()


async def test_a_file_locked_by_another_program(tmp_path: Path) -> None:
    path = await created(tmp_path / "a.db")
    async with open_store(url_of(path, "?busy_ms=20")) as store:
        with locked(path, "BEGIN IMMEDIATE"):
            with pytest.raises(StoreUnavailable) as caught:
                await store.post([Scenario(store).message("order")])
            assert caught.value.outcome == "none"
            assert "another program" in str(caught.value)
            assert str(path) in str(caught.value)
        assert (await store.post([Scenario(store).message("order")]))[0].outcome == "accepted"


async def test_a_standby_waits_for_a_file_that_another_program_holds_locked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = await created(tmp_path / "a.db")
    async with open_store(url_of(path, "?busy_ms=20")) as store:
        with locked(path, "BEGIN IMMEDIATE"), pytest.raises(StoreUnavailable):
            await Scenario(store).claim()
    async with open_store(url_of(path, "?busy_ms=20&standby=true")) as store:
        with locked(path, "BEGIN IMMEDIATE"):
            claiming = asyncio.ensure_future(Scenario(store).claim())
            async with asyncio.timeout(20):
                while "a standby waits" not in caplog.text:
                    await asyncio.sleep(0.01)
            assert not claiming.done()
        await asyncio.wait_for(claiming, 20)


async def test_a_standby_that_is_closed_waits_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = await created(tmp_path / "a.db")
    with locked(path, "BEGIN IMMEDIATE"):
        async with open_store(url_of(path, "?busy_ms=20&standby=true")) as store:
            claiming = asyncio.ensure_future(Scenario(store).claim())
            async with asyncio.timeout(20):
                while "a standby waits" not in caplog.text:
                    await asyncio.sleep(0.01)
        with pytest.raises(StoreUnavailable, match="closed"):
            await asyncio.wait_for(claiming, 20)


async def test_a_file_locked_exclusively(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    execute(path, "PRAGMA user_version = 1")
    with locked(path, "BEGIN EXCLUSIVE"):
        error = await error_of(path, "?busy_ms=20")
    assert isinstance(error, StoreLocked)
    assert "another program" in str(error)


async def test_reading_only(tmp_path: Path) -> None:
    path = await created(tmp_path / "a.db")
    async with (
        open_store(url_of(path)) as writer,
        open_store(url_of(path, "?read_only=true")) as store,
    ):
        scenario = Scenario(store)
        assert (await scenario.load("order")).version == 1
        assert [view.row.id for view in (await store.query(Units())).items] == ["order"]
        for call in (
            store.post([scenario.message("order")]),
            store.commit([scenario.commit("order")]),
            scenario.claim(),
        ):
            with pytest.raises(UsageError, match="read_only"):
                await call
        assert (await writer.post([scenario.message("order")]))[0].outcome == "accepted"
        assert len((await scenario.load("order")).inbox) == 1


READ_ONLY_USER = """
import asyncio, os, sys
from perdure.errors import StoreError
from perdure.store import open_store

async def main(url):
    try:
        async with open_store(url) as store:
            print("opened", store.info.shards)
    except StoreError as error:
        print(type(error).__name__, error)

if os.geteuid() == 0:  # permissions do not bind root
    asyncio.run(main("sqlite://"))  # imports what is imported late
    os.setgid(65534)
    os.setuid(65534)
asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize("what", ["a file", "a folder", "an unreadable folder"])
async def test_without_permission(what: str) -> None:
    folder = Path(tempfile.mkdtemp())  # pytest's own folders are closed to other users
    path = await created(folder / "a.db")
    path.chmod(0o444 if what == "a file" else 0o666)
    folder.chmod({"a file": 0o777, "a folder": 0o555, "an unreadable folder": 0o000}[what])
    try:
        command = [sys.executable, "-c", READ_ONLY_USER, url_of(path)]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)
    assert answer.returncode == 0, answer.stderr
    last = answer.stdout.splitlines()[-1]
    assert last.startswith("StoreUnavailable"), answer.stdout
    assert str(path) in last
    assert "access" in last or "writable" in last or "readable" in last


async def test_reading_without_the_right_to_write_needs_a_process_that_has_the_file_open() -> None:
    folder = Path(tempfile.mkdtemp())  # pytest's own folders are closed to other users
    path = await created(folder / "a.db")
    folder.chmod(0o755)
    command = [sys.executable, "-c", READ_ONLY_USER, url_of(path, "?read_only=true")]
    try:
        path.chmod(0o644)
        alone = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, timeout=30
        )
        async with open_store(url_of(path)):
            beside = await asyncio.to_thread(
                subprocess.run, command, capture_output=True, text=True, timeout=30
            )
    finally:
        shutil.rmtree(folder)
    answer = alone.stdout.splitlines()[-1]
    assert answer.startswith(f"StoreUnavailable {path} is open in no process")
    assert f"start a node on it, give this user write access to {folder}, or read a copy" in answer
    assert beside.stdout.splitlines()[-1] == "opened 1"


# ---------------------------------------------------------------- formats


@pytest.fixture
def next_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release with one format more, which has a new table."""
    later = formats() | {FORMAT + 1: "CREATE TABLE later (id TEXT)"}
    monkeypatch.setattr("perdure.store.sqlite.migrate.formats", lambda: later)


def test_formats_are_numbered_without_gaps() -> None:
    assert list(formats()) == list(range(min(formats()), FORMAT + 1))


def test_a_new_file_gets_all_formats_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    names = [f"format {number}" for number in formats()]
    assert pending(path) == names
    assert migrate(path) == names
    assert migrate(str(path)) == []
    assert pending(path) == []


async def test_an_older_format_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = await created(tmp_path / "a.db")
    execute(path, "UPDATE meta SET value = '2' WHERE key = 'format'")
    before = path.read_bytes()
    error = await error_of(path)
    assert isinstance(error, StoreFormat)
    assert str(error).startswith(f"{path} has the store format 2, which perdure wrote before its")
    assert "begin with a new file" in str(error)
    assert path.read_bytes() == before


async def test_the_next_release_raises_the_format_once(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = await created(tmp_path / "a.db")
    request.getfixturevalue("next_release")
    assert pending(path) == [f"format {FORMAT + 1}"]
    assert migrate(path) == [f"format {FORMAT + 1}"]
    assert migrate(path) == []
    async with open_store(f"sqlite:///{path}") as store:
        assert isinstance(store, SQLiteStore)
        assert store.info.format == FORMAT + 1
        assert await store.inspect("SELECT count(*) FROM later") == [(0,)]


async def test_this_release_refuses_what_the_next_one_raised(
    tmp_path: Path, next_release: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await created(tmp_path / "a.db")
    monkeypatch.undo()
    error = await error_of(path)
    assert f"has the store format {FORMAT + 1}; this release reads up to {FORMAT}" in str(error)


async def test_an_older_format_is_not_raised_by_what_only_reads(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = await created(tmp_path / "a.db")
    request.getfixturevalue("next_release")
    with pytest.raises(StoreFormat, match=f"format {FORMAT + 1}.*`perdure migrate sqlite:///"):
        async with open_store(f"sqlite:///{path}?read_only=true"):
            pass
    async with open_store(f"sqlite:///{path}") as store:
        assert store.info.format == FORMAT + 1


def test_migrate_refuses_the_database_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    execute(path, "CREATE TABLE invoices (id)")
    with pytest.raises(StoreFormat, match="invoices"):
        migrate(path)


async def test_two_processes_can_create_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    code = (
        "import asyncio, sys\nfrom perdure.store import open_store\n"
        "async def main():\n"
        "    async with open_store(sys.argv[1]) as store:\n"
        "        print(store.info.id)\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", code, url_of(path)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = {child.communicate(timeout=30)[0] for child in children}
    assert [child.returncode for child in children] == [0, 0, 0]
    assert len(answers) == 1


async def test_a_new_file_that_another_process_is_about_to_write_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite itself does not wait when a file gets its log while another connection will write it."""
    path = tmp_path / "a.db"
    with closing(apsw.Connection(str(path))) as other:  # locks of another library do not count here
        other.execute("BEGIN IMMEDIATE")
        pauses: list[float] = []

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            other.execute("ROLLBACK")

        monkeypatch.setattr(database, "sleep", pause)
        async with open_store(url_of(path)) as store:
            assert store.info.shards == 1
    assert len(pauses) == 1
