"""The write-ahead log is longer than what is in it, which nobody sees; and it is copied into the database in time."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import apsw
import pytest

from perdure.ports.store import Counts
from perdure.store import open_store
from perdure.store.sqlite import wal
from perdure.testing.conformance import Scenario


@asynccontextmanager
async def opened(path: Path) -> AsyncGenerator[Scenario]:
    async with open_store(f"sqlite:///{path}") as store:
        scenario = Scenario(store)
        await scenario.claim()
        yield scenario


async def settled(scenario: Scenario) -> None:
    """The writer has answered this, so it has tended the log after what came before."""
    await scenario.store.sweep([], 0, 1)


def log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal, "PIECE_BYTES", 64 << 10)
    monkeypatch.setattr(wal, "MARGIN_BYTES", 16 << 10)
    monkeypatch.setattr(wal, "CHECKPOINT_PAGES", 100)


async def test_commits_are_written_over_bytes_that_are_there_already(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    sizes: list[int] = []
    async with opened(path) as scenario:
        for n in range(60):
            await scenario.applied(f"unit-{n}")
            sizes.append(log_of(path).stat().st_size)
    assert sizes[0] >= wal.PIECE_BYTES
    assert len(set(sizes)) < 5, "it grew with each commit"


async def test_it_grows_when_it_is_nearly_full_and_ends_where_a_checkpoint_is_due(
    tmp_path: Path, small: None
) -> None:
    path = tmp_path / "a.db"
    sizes: list[int] = []
    async with opened(path) as scenario:
        for n in range(200):
            await scenario.applied(f"unit-{n}", 0, {"result": bytes(2_000)})
            # The writer tends the log behind its answers, and late on a busy machine.
            await settled(scenario)
            sizes.append(log_of(path).stat().st_size)
        end = log_of(path).stat().st_size
        connection = apsw.Connection(str(path))
        (in_database,) = connection.execute("PRAGMA page_count").fetchone() or (0,)
        connection.close()
        assert path.stat().st_size > 0.5 * in_database * 4096, "it was never copied"
    assert len(set(sizes)) < 8, "it grew with each commit"
    assert end <= 130 * 4120 + (32 << 10)


async def test_a_copy_as_a_power_cut_would_leave_it_has_everything(
    tmp_path: Path, small: None
) -> None:
    path, copy = tmp_path / "a.db", tmp_path / "copy.db"
    async with opened(path) as scenario:
        count = 5
        for n in range(count):
            await scenario.applied(f"unit-{n}")
        await settled(scenario)
        shutil.copy(path, copy)
        shutil.copy(log_of(path), log_of(copy))
    assert log_of(copy).read_bytes().endswith(bytes(4096)), (
        "there are no zeros, so this shows nothing"
    )
    async with opened(copy) as scenario:
        assert dict((await scenario.store.query(Counts())).items)["running"] == count
        await scenario.applied("one more")
    connection = apsw.Connection(str(copy))
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


async def test_two_writers_do_not_damage_each_others_frames(tmp_path: Path, small: None) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as owner, open_store(f"sqlite:///{path}") as store:
        other = Scenario(store, "two")
        await owner.applied("order")
        for n in range(150):
            await owner.applied(f"unit-{n}")
            await other.accepted(other.message("order"))
        assert len((await owner.load("order")).inbox) == 150
        assert dict((await owner.store.query(Counts())).items)["running"] == 151
    connection = apsw.Connection(str(path))
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


@pytest.mark.parametrize("call", ["pwrite", "fsync"])
async def test_a_disk_that_refuses_it_stops_nothing(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    refused = 0

    def refuse(*_: object) -> int:
        nonlocal refused
        refused += 1
        raise OSError(28, "No space left on device")

    async with opened(tmp_path / "a.db") as scenario:
        with monkeypatch.context() as patch:
            patch.setattr(os, call, refuse)
            for n in range(30):
                await scenario.applied(f"unit-{n}")
            await settled(scenario)
        assert 0 < refused < 15, "it was tried after each commit"
        assert dict((await scenario.store.query(Counts())).items)["running"] == 30


async def test_it_is_closed_with_the_store(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path):
        pass  # what a first store makes once for the process
    before = len(os.listdir("/dev/fd"))
    async with opened(path) as scenario:
        await scenario.applied("order")
        await settled(scenario)
        assert len(os.listdir("/dev/fd")) > before
    assert len(os.listdir("/dev/fd")) == before
    assert not log_of(path).exists()


async def test_a_store_with_little_in_it_stays_small_on_a_small_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.db"
    disk_bytes = 6 << 20

    def used() -> int:
        return path.stat().st_size + log_of(path).stat().st_size

    def room(_path: object) -> SimpleNamespace:
        return SimpleNamespace(f_bavail=disk_bytes - used(), f_frsize=1, f_files=0, f_ffree=0)

    async with opened(path) as scenario:
        monkeypatch.setattr(os, "statvfs", room)
        for n in range(250):
            await scenario.applied("unit", n, {"result": bytes([n]) * 30_000})
            assert used() < disk_bytes, f"the disk was full after {n} commits"
        await settled(scenario)
        assert path.stat().st_size > 4096, "the log was never copied"
