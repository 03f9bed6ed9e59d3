"""When the disk misbehaves: nothing acknowledged is lost, and the error says what to do."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import apsw
import pytest

from perdure.errors import StoreUnavailable
from perdure.ports.store import Counts
from perdure.store import open_store
from perdure.store.sqlite import hint, reader
from perdure.store.sqlite.writer import GROUP_OPERATIONS
from perdure.testing.conformance import Scenario

sys.path.insert(0, str(Path(__file__).parent))

from others import running

USUAL = apsw.vfs_names()[0]


class Faults:
    """What goes wrong with write-ahead logs from now on. `room` is the number of writes that still fit."""

    def __init__(self) -> None:
        self.room: int | None = None
        self.sync_fails = False
        self.synced: Callable[[], None] = lambda: None

    def write(self) -> None:
        if self.room is not None:
            if self.room <= 0:
                raise apsw.FullError("injected: no space")
            self.room -= 1

    def sync(self) -> None:
        if self.sync_fails:
            raise apsw.IOError("injected: fsync failed")
        self.synced()


class FaultyFile(apsw.VFSFile):
    def __init__(self, faults: Faults, name: Any, flags: list[int]) -> None:
        super().__init__(USUAL, name, flags)
        self.faults = faults if flags[0] & apsw.SQLITE_OPEN_WAL else Faults()

    def xWrite(self, data: bytes, offset: int) -> None:
        self.faults.write()
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        self.faults.sync()
        super().xSync(flags)


class FaultyDisk(apsw.VFS):
    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        super().__init__("faulty", USUAL, makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return FaultyFile(self.faults, name, flags)


@pytest.fixture
def faults() -> Generator[Faults]:
    faults = Faults()
    disk = FaultyDisk(faults)
    try:
        yield faults
    finally:
        apsw.set_default_vfs(USUAL)
        disk.unregister()


@asynccontextmanager
async def opened(path: Path) -> AsyncGenerator[Scenario]:
    async with open_store(f"sqlite:///{path}") as store:
        scenario = Scenario(store)
        await scenario.claim()
        yield scenario


async def test_a_full_disk_loses_nothing_and_the_store_goes_on_when_there_is_space(
    tmp_path: Path, faults: Faults
) -> None:
    path = tmp_path / "a.db"
    acknowledged: list[str] = []
    async with opened(path) as scenario:
        faults.room = 40
        with pytest.raises(StoreUnavailable) as caught:
            for n in range(100):
                await scenario.applied(f"unit-{n}")
                acknowledged.append(f"unit-{n}")
        assert "no space" in str(caught.value)
        assert str(path) in str(caught.value)
        assert caught.value.outcome == "unknown"  # until the identical commit is submitted again
        assert acknowledged
        commit = scenario.commit("waiting")
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="no space"):
                await scenario.apply(commit)
        faults.room = None
        assert await scenario.apply(commit) == ["applied"]
        loaded = await scenario.store.load([*acknowledged, "waiting"])
        assert [unit.version for unit in loaded] == [1] * len(loaded)
    async with opened(path) as scenario:
        loaded = await scenario.store.load([*acknowledged, "waiting"])
        assert [unit.version for unit in loaded] == [1] * len(loaded)


async def test_a_full_disk_fails_a_whole_group_alike(tmp_path: Path, faults: Faults) -> None:
    async with opened(tmp_path / "a.db") as scenario:
        commits = [scenario.commit(f"unit-{n}") for n in range(10)]
        faults.room = 1
        calls = [scenario.store.commit([commit]) for commit in commits]
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in errors} == {StoreUnavailable}
        assert dict((await scenario.store.query(Counts())).items)["running"] == 0
        faults.room = None
        assert await scenario.apply(*commits) == ["applied"] * 10


async def test_after_a_failed_fsync_nothing_more_is_written(tmp_path: Path, faults: Faults) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as scenario:
        await scenario.applied("before")
        faults.sync_fails = True
        with pytest.raises(StoreUnavailable) as caught:
            await scenario.applied("during")
        assert caught.value.outcome == "unknown"
        assert "restart the node" in str(caught.value)
        faults.sync_fails = False
        with pytest.raises(StoreUnavailable) as refused:
            await scenario.applied("after")
        assert refused.value.outcome == "none"
        with pytest.raises(StoreUnavailable):
            await scenario.post(scenario.start("after"))
        assert (await scenario.load("before")).version == 1
    async with opened(path) as scenario:
        assert (await scenario.load("before")).version == 1
        assert (await scenario.load("after")).version == 0


@pytest.mark.parametrize("what", ["deleted", "moved", "replaced"])
async def test_a_file_that_went_away_stops_the_writing(tmp_path: Path, what: str) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as scenario:
        await scenario.applied("order")
        aside = path.rename(tmp_path / "aside.db")
        if what == "replaced":
            path.write_bytes(b"")
        for call in (scenario.apply(scenario.commit("order", 1)), scenario.load("order")):
            with pytest.raises(StoreUnavailable) as caught:
                await call
            assert caught.value.outcome == "none"
            assert str(path) in str(caught.value)
            assert "put it back" in str(caught.value)
        if what == "moved":
            aside.rename(path)
            await scenario.applied("order", 1)
            assert (await scenario.load("order")).version == 2


async def test_the_log_of_commits_does_not_grow_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as scenario:
        for version in range(60):
            await scenario.applied("order", version, {"result": bytes(2_000_000)})
        assert Path(f"{path}-wal").stat().st_size < 80_000_000
    assert not Path(f"{path}-wal").exists()


# ---------------------------------------------------------------- the log and its index


@pytest.mark.parametrize("which", ["-wal", "-shm"])
@pytest.mark.parametrize("what", ["deleted", "moved", "replaced"])
async def test_a_file_beside_the_database_that_went_away_stops_the_writing(
    tmp_path: Path, which: str, what: str
) -> None:
    path = tmp_path / "a.db"
    beside, aside = Path(f"{path}{which}"), tmp_path / "aside"
    async with opened(path) as scenario:
        await scenario.applied("order")
        beside.rename(aside)
        if what == "replaced":
            beside.write_bytes(b"")
        said = "replaced by another file" if what == "replaced" else "moved or deleted"
        with pytest.raises(StoreUnavailable, match=rf"a.db{which} was {said}.*restart") as caught:
            await scenario.applied("order", 1)
        assert caught.value.outcome == "none"
        if what == "moved":
            aside.rename(beside)
            await scenario.applied("order", 1)


async def test_what_was_acknowledged_survives_a_log_that_is_removed_and_kill_9(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.db"
    async with running(path) as owner, running(path) as bystander:
        await owner.ask("claim")
        for version in range(20):
            assert await owner.ask(f"commit order {version}") == "applied"
        Path(f"{path}-wal").unlink()
        assert "a.db-wal was moved or deleted" in await owner.ask("commit order 20")
        await owner.kill()
        await bystander.kill()
    async with opened(path) as scenario:
        assert (await scenario.load("order")).version == 20


async def test_a_commit_to_a_log_that_is_removed_meanwhile_is_not_acknowledged(
    tmp_path: Path, faults: Faults
) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as scenario:
        await scenario.applied("order")
        faults.synced = lambda: Path(f"{path}-wal").unlink(missing_ok=True)
        with pytest.raises(StoreUnavailable, match=r"a.db-wal was moved or deleted") as caught:
            await scenario.applied("order", 1)
        assert caught.value.outcome == "unknown"


async def test_a_quiet_folder_is_still_watched(tmp_path: Path) -> None:
    """What nobody touched for long is looked at once, in the folder: a removal shows there, too."""
    path = tmp_path / "a.db"
    async with opened(path) as scenario:
        await scenario.applied("order")
        os.utime(tmp_path, (1_000_000_000, 1_000_000_000))
        await scenario.applied("order", 1)
        await scenario.applied("order", 2)
        Path(f"{path}-wal").unlink()
        with pytest.raises(StoreUnavailable, match=r"a.db-wal was moved or deleted"):
            await scenario.applied("order", 3)


async def test_a_folder_whose_times_are_coarse_is_looked_at_for_longer(tmp_path: Path) -> None:
    """Where a file system counts in seconds, the next change may leave the time as it is."""
    path = tmp_path / "a.db"
    async with opened(path) as scenario:
        await scenario.applied("order")
        coarse_ns = (time.time_ns() // 1_000_000_000 - 1) * 1_000_000_000
        os.utime(tmp_path, ns=(coarse_ns, coarse_ns))
        await scenario.applied("order", 1)
        Path(f"{path}-wal").unlink()
        os.utime(tmp_path, ns=(coarse_ns, coarse_ns))
        with pytest.raises(StoreUnavailable, match=r"a.db-wal was moved or deleted"):
            await scenario.applied("order", 2)


async def test_a_deleted_file_does_not_come_back_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleted in the moment between the look at it and the opening of a connection that reads."""
    path = tmp_path / "a.db"
    usual = reader.connect

    def connect_late(name: str, *given: Any, **options: Any) -> Any:
        path.unlink()
        return usual(name, *given, **options)

    async with opened(path) as scenario:
        monkeypatch.setattr(reader, "connect", connect_late)
        with pytest.raises(StoreUnavailable):
            await scenario.load("order")
        assert not path.exists()


# ---------------------------------------------------------------- disks that take nothing, or nothing more


def refuse(number: int) -> Callable[..., Any]:
    def call(*_: object, **__: object) -> Any:
        raise OSError(number, os.strerror(number))

    return call


async def test_a_lock_file_that_cannot_be_signed_keeps_nobody_from_working(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.db"
    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", refuse(errno.ENOSPC))
        async with opened(path) as scenario:
            await scenario.applied("order")
            assert "a.db.lock cannot be written (No space left on device)" in caplog.text


async def test_a_lock_file_that_cannot_be_made_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_store(f"sqlite:///{tmp_path}/a.db") as store:
        monkeypatch.setattr(os, "open", refuse(errno.ENOSPC))
        with pytest.raises(StoreUnavailable, match=r"a.db.lock.*No space left.*free some space"):
            await Scenario(store).claim()
        monkeypatch.undo()


async def test_a_store_on_a_disk_that_became_read_only_is_closed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.db"
    descriptors = len(os.listdir("/dev/fd"))
    async with opened(path) as scenario:
        await scenario.applied("order")
        monkeypatch.setattr(Path, "unlink", refuse(errno.EROFS))
        monkeypatch.setattr(os, "unlink", refuse(errno.EROFS))
        monkeypatch.setattr(os, "ftruncate", refuse(errno.EROFS))
    monkeypatch.undo()
    assert "a.db.sock stays behind" in caplog.text
    assert "a.db.lock still names this process" in caplog.text
    assert not [
        thread.name for thread in threading.enumerate() if thread.name.startswith("perdure-")
    ]
    assert len(os.listdir("/dev/fd")) <= descriptors
    async with opened(path) as scenario:
        assert (await scenario.load("order")).version == 1


async def test_each_part_of_a_store_is_closed_whatever_becomes_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.db"
    store = open_store(f"sqlite:///{path}")
    async with store:
        await Scenario(store).claim()
        await store.load(["order"])
        usual = hint.HintServer.close

        async def close(server: hint.HintServer) -> None:
            await usual(server)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as broken:
            broken.setattr(hint.HintServer, "close", close)
            with pytest.raises(OSError, match=os.strerror(errno.EIO)):
                await store.__aexit__(None, None, None)
    async with opened(path) as scenario:  # the lock is free
        assert (await scenario.load("order")).version == 0


@pytest.fixture
def tiny(tmp_path: Path) -> Generator[Path]:
    """A disk of 256 KiB."""
    disk = tmp_path / "tiny"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root can mount")
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("this container may not mount")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path) -> None:
    with suppress(OSError), (disk / "ballast").open("wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(4096))


async def test_a_disk_that_is_full_before_the_first_open_is_called_full(tiny: Path) -> None:
    fill(tiny)
    with pytest.raises(StoreUnavailable, match=r"no space is left for .*a.db"):
        async with opened(tiny / "a.db"):
            pass
    (tiny / "ballast").unlink()


async def test_a_start_on_a_full_disk_is_told_so_and_succeeds_when_there_is_room(
    tmp_path: Path, tiny: Path
) -> None:
    async with opened(tmp_path / "a.db") as scenario:
        await scenario.applied("order")
    shutil.copy(tmp_path / "a.db", tiny)
    fill(tiny)
    with pytest.raises(StoreUnavailable, match=r"no space is left for .*a.db"):
        async with opened(tiny / "a.db"):
            pass
    (tiny / "ballast").unlink()
    async with opened(tiny / "a.db") as scenario:
        assert (await scenario.load("order")).version == 1


# ---------------------------------------------------------------- groups


async def test_a_flood_is_written_in_groups_so_that_its_first_callers_are_answered_before_its_last(
    tmp_path: Path, faults: Faults
) -> None:
    path = tmp_path / "a.db"
    syncs = 0

    def count() -> None:
        nonlocal syncs
        syncs += 1

    async with opened(path) as scenario:
        await scenario.applied("before")
        await scenario.store.sweep([], 0, 1)  # the log is as long as it will be
        commits = [scenario.commit(f"unit-{number}") for number in range(2 * GROUP_OPERATIONS + 1)]
        with closing(apsw.Connection(str(path))) as other:
            other.execute("BEGIN IMMEDIATE")
            first = scenario.apply(scenario.commit("first"))
            waiting = asyncio.ensure_future(first)
            await asyncio.sleep(0)  # the writer has it, and waits for the lock
            faults.synced = count
            calls = [scenario.store.commit([commit]) for commit in commits]
            other.execute("ROLLBACK")
        await asyncio.gather(waiting, *calls)
        assert syncs in (3, 4), "the one that was first goes alone or with the first group"
