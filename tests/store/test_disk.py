"""When the disk misbehaves: nothing acknowledged is lost, and the error says what to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest

from perdure.errors import StoreUnavailable
from perdure.ports.store import Counts
from perdure.store import open_store
from perdure.testing.conformance import Scenario

USUAL = apsw.vfs_names()[0]


class Faults:
    """What goes wrong with write-ahead logs from now on. `room` is the number of writes that still fit."""

    def __init__(self) -> None:
        self.room: int | None = None
        self.sync_fails = False

    def write(self) -> None:
        if self.room is not None:
            if self.room <= 0:
                raise apsw.FullError("injected: no space")
            self.room -= 1

    def sync(self) -> None:
        if self.sync_fails:
            raise apsw.IOError("injected: fsync failed")


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
