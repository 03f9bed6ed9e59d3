"""Database files that are wrong or go wrong under a node: named with the remedy, and what was acknowledged is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from perdure import App, Channel, Client, Node, NodeOptions
from perdure.errors import StoreError, StoreFormat, StoreLocked, StoreUnavailable, UsageError

app = App("shop")
approved = Channel[bool]("approved")


@app.activity
async def charge(cents: int) -> int:
    return cents


@app.workflow
async def order(cents: int) -> int:
    charged = await charge(cents)
    await approved.receive()
    return charged


def node_on(path: Path, query: str = "") -> Node:
    return app.node(f"sqlite:///{path}{query}", options=NodeOptions(store_retry_ms=500))


async def start_orders(node: Node, count: int, first: int = 0) -> None:
    for n in range(first, first + count):
        await node.client.workflow(order, id=f"o-{n}").start(n)


async def finish_orders(path: Path, ids: list[str]) -> None:
    """On a new node: every order that was acknowledged is there and completes."""
    async with node_on(path) as node:
        for name in ids:
            handle = node.client.get(name)
            await handle.send(approved, True)
            assert await handle.result(timeout=30) == int(name.removeprefix("o-"))


def execute(path: Path, *statements: str) -> None:
    with closing(apsw.Connection(str(path))) as connection:
        for statement in statements:
            connection.execute(statement)


# ---------------------------------------------------------------- files that a node cannot start on


def newer(path: Path) -> None:
    execute(path, "UPDATE meta SET value = '999' WHERE key = 'format'")


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100:3_000] = b"\xff" * 2_900
    path.write_bytes(content)


FILES: dict[str, tuple[Callable[[Path], Any], type[StoreError], str]] = {
    "text": (
        lambda p: p.write_text("my notes\n" * 100),
        StoreFormat,
        "is not a SQLite database; name another file",
    ),
    "foreign": (
        lambda p: (p.unlink(), execute(p, "CREATE TABLE invoices (id)")),
        StoreFormat,
        "invoices",
    ),
    "newer": (newer, StoreFormat, "upgrade perdure"),
    "damaged": (damaged, StoreFormat, "restore the file from a backup"),
    "folder": (
        lambda p: (p.unlink(), p.mkdir()),
        StoreUnavailable,
        "is a folder; name a file in it",
    ),
}


@pytest.mark.parametrize("name", FILES)
async def test_a_node_does_not_start_on_a_file_that_is_not_its_own(tmp_path: Path, name: str):
    spoil, kind, text = FILES[name]
    path = tmp_path / "shop.db"
    async with node_on(path):
        pass
    spoil(path)
    for make in (
        lambda: node_on(path).start(),
        lambda: Client.open(f"sqlite:///{path}").__aenter__(),
    ):
        with pytest.raises(kind) as caught:
            await make()
        assert str(path) in str(caught.value)
        assert text in str(caught.value)


async def test_a_node_does_not_start_on_a_file_that_is_only_to_be_read(tmp_path: Path):
    path = tmp_path / "shop.db"
    async with node_on(path) as node:
        await start_orders(node, 1)
    with pytest.raises(
        UsageError, match=r"shop.db was opened with read_only=true; open it without to write"
    ):
        await node_on(path, "?read_only=true").start()
    async with Client.open(f"sqlite:///{path}?read_only=true") as client:
        assert [d.id for d in await client.list()] == ["o-0"]
        with pytest.raises(UsageError, match="read_only=true; open it without"):
            await client.get("o-0").send(approved, True)
    await finish_orders(path, ["o-0"])


async def test_a_node_does_not_start_on_a_file_that_another_program_has_locked(tmp_path: Path):
    path = tmp_path / "shop.db"
    async with node_on(path) as node:
        await start_orders(node, 1)
    with closing(apsw.Connection(str(path))) as browser:
        browser.execute("BEGIN IMMEDIATE")
        with pytest.raises(
            (StoreLocked, StoreUnavailable),
            match=r"another program holds .*shop.db locked .*; end that",
        ):
            await node_on(path, "?busy_ms=20").start()
    await finish_orders(path, ["o-0"])


# ---------------------------------------------------------------- files that go wrong under a running node


async def test_a_node_without_work_stops_when_its_file_stays_away(tmp_path: Path):
    path, aside = tmp_path / "shop.db", tmp_path / "aside.db"
    options = NodeOptions(rescan_ms=5, store_retry_ms=200)
    async with Node(app, f"sqlite:///{path}", options=options) as node:
        path.rename(aside)
        with pytest.raises(StoreError, match=r"shop.db was moved or deleted"):
            async with asyncio.timeout(30):
                await node.wait_ended()


async def test_a_node_without_work_goes_on_when_its_file_is_put_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    path, aside = tmp_path / "shop.db", tmp_path / "aside.db"
    options = NodeOptions(rescan_ms=5, store_retry_ms=60_000)
    async with Node(app, f"sqlite:///{path}", options=options) as node:
        path.rename(aside)
        async with asyncio.timeout(30):
            while "the store cannot be read" not in caplog.text:
                await asyncio.sleep(0.005)
        aside.rename(path)
        await start_orders(node, 1)
    await finish_orders(path, ["o-0"])


async def test_a_file_that_is_deleted_stops_the_node_before_anything_is_acknowledged(
    tmp_path: Path,
):
    path, aside = tmp_path / "shop.db", tmp_path / "aside"
    node = node_on(path)
    await node.start()
    await start_orders(node, 3)
    aside.mkdir()
    for file in tmp_path.glob("shop.db*"):
        file.rename(aside / file.name)
    with pytest.raises(
        StoreUnavailable,
        match=r"shop.db was moved or deleted while the store was open.*put it back",
    ):
        await start_orders(node, 1, first=3)
    with pytest.raises(StoreError, match=r"shop.db was moved or deleted"):
        await node.wait_ended()
    await node.stop()
    for file in aside.glob("*"):
        file.rename(tmp_path / file.name)
    await finish_orders(path, ["o-0", "o-1", "o-2"])


class Disk(apsw.VFS):
    """The usual disk, with room for a number of writes to write-ahead logs."""

    def __init__(self) -> None:
        self.room: int | None = None
        super().__init__("small", apsw.vfs_names()[0], makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return File(self, name, flags)


class File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: Any, flags: list[int]) -> None:
        super().__init__(disk.usual, name, flags)
        self._disk = disk if flags[0] & apsw.SQLITE_OPEN_WAL else None

    def xWrite(self, data: bytes, offset: int) -> None:
        disk = self._disk
        if disk is not None and disk.room is not None:
            if disk.room <= 0:
                raise apsw.FullError("no space")
            disk.room -= 1
        super().xWrite(data, offset)


@pytest.fixture
def disk() -> Iterator[Disk]:
    usual = apsw.vfs_names()[0]
    Disk.usual = usual
    made = Disk()
    try:
        yield made
    finally:
        apsw.set_default_vfs(usual)
        made.unregister()


async def test_a_full_disk_loses_nothing_that_was_acknowledged(tmp_path: Path, disk: Disk):
    path = tmp_path / "shop.db"
    acknowledged: list[str] = []
    node = node_on(path)
    await node.start()
    disk.room = 60
    with pytest.raises(
        StoreUnavailable, match=r"no space is left for .*shop.db.*: free some on that disk"
    ):
        for n in range(200):
            async with asyncio.timeout(30):
                await node.client.workflow(order, id=f"o-{n}").start(n)
            acknowledged.append(f"o-{n}")
    assert acknowledged
    disk.room = None
    await node.stop()
    await finish_orders(path, acknowledged)


# ---------------------------------------------------------------- one instance that is damaged


async def test_a_journal_that_cannot_be_read_sets_its_instance_aside_and_stops_no_other(
    tmp_path: Path,
):
    path = tmp_path / "shop.db"
    async with node_on(path) as node:
        await start_orders(node, 3)
    with closing(apsw.Connection(str(path))) as tool:
        [good] = tool.execute(
            "SELECT events FROM journal WHERE unit = 'o-1' AND first = 1"
        ).fetchone()
        tool.execute("UPDATE journal SET events = x'00' WHERE unit = 'o-1' AND first = 1")
    async with node_on(path) as node:
        for name in ("o-0", "o-1", "o-2"):
            await node.client.get(name).send(approved, True)
        assert await node.client.get("o-0").result(timeout=30) == 0
        assert await node.client.get("o-2").result(timeout=30) == 2
        found = await node.client.get("o-1").describe()
        assert (found.status, found.reason) == ("suspended", "undecodable")
        assert found.failure is not None
        assert "the journal of 'o-1' cannot be read" in found.failure.message
        assert "restore the store from a backup" in found.failure.message
    with closing(apsw.Connection(str(path))) as tool:
        tool.execute("UPDATE journal SET events = ? WHERE unit = 'o-1' AND first = 1", (good,))
    async with node_on(path) as node:
        await node.client.get("o-1").retry()
        assert await node.client.get("o-1").result(timeout=30) == 1, "the message was kept, too"
