"""One file has one owner, by whatever name it is opened, and whatever is removed beside it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from perdure.errors import StoreLocked, StoreUnavailable
from perdure.ports.store import Claim
from perdure.store import open_store
from perdure.store.sqlite import SQLiteStore, hint
from perdure.store.sqlite.hint import socket_path
from perdure.testing.conformance import Scenario

sys.path.insert(0, str(Path(__file__).parent))

from others import opened, running, until

TIMES = 50


# ---------------------------------------------------------------- names


async def test_a_symbolic_link_names_the_same_file(tmp_path: Path) -> None:
    path, link = tmp_path / "data" / "a.db", tmp_path / "link.db"
    path.parent.mkdir()
    link.symlink_to(path)
    async with opened(path) as first, opened(link) as second:
        await first.claim()
        with pytest.raises(StoreLocked, match=rf"link.db is owned by process {os.getpid()}"):
            await second.claim()
        hints = first.store.hints()
        await second.accepted(second.start("order"))
        async with asyncio.timeout(20):
            assert (await anext(hints)).unit == "order"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["data", "link.db"]


async def test_a_link_that_is_bent_to_another_file_stops_the_writing(tmp_path: Path) -> None:
    first, second, link = tmp_path / "1.db", tmp_path / "2.db", tmp_path / "link.db"
    async with opened(second):
        pass
    link.symlink_to(first)
    async with opened(link) as scenario:
        await scenario.claim()
        await scenario.applied("order")
        link.unlink()
        link.symlink_to(second)
        with pytest.raises(StoreUnavailable, match=r"link.db was replaced by another file"):
            await scenario.applied("order", 1)


@pytest.mark.parametrize("options", ["", "?read_only=true"])
async def test_a_file_with_two_hard_names_is_refused(tmp_path: Path, options: str) -> None:
    path, other = tmp_path / "a.db", tmp_path / "other.db"
    async with opened(path) as scenario:
        await scenario.claim()
        await scenario.applied("order")
        other.hardlink_to(path)
        with pytest.raises(
            StoreUnavailable, match=r"other.db has 2 names \(hard links\).*remove the others"
        ):
            async with opened(other, options):
                pass
        await scenario.applied("order", 1)  # who has it open already is not disturbed
    assert not Path(f"{other}-wal").exists()


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can mount")
async def test_a_file_that_is_mounted_by_itself_is_refused(tmp_path: Path) -> None:
    path, alone = tmp_path / "a.db", tmp_path / "a lone file.db"
    async with opened(path):
        pass
    alone.touch()
    if (
        subprocess.run(
            ["mount", "--bind", path, alone], check=False, capture_output=True
        ).returncode
        != 0
    ):
        pytest.skip("this container may not mount")
    try:
        with pytest.raises(StoreUnavailable, match=r"mounted as a single file.*mount its folder"):
            async with opened(alone):
                pass
    finally:
        subprocess.run(["umount", "--lazy", alone], check=True)


async def test_a_program_may_change_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with open_store("sqlite:///a.db") as store:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir("elsewhere")
        scenario = Scenario(store)
        await scenario.claim()
        await scenario.applied("order")
        assert (await scenario.load("order")).version == 1
    assert list((tmp_path / "elsewhere").iterdir()) == []


# ---------------------------------------------------------------- what is removed beside it


async def test_a_lock_file_that_is_removed_again_and_again_lets_nobody_in(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with running(path) as owner, opened(path, "?standby=true") as scenario:
        await owner.ask("claim")
        claim = asyncio.ensure_future(scenario.claim())
        for version in range(TIMES):
            Path(f"{path}.lock").unlink(missing_ok=True)
            await asyncio.sleep(0)
            assert await owner.ask(f"commit order {version}") == "applied"
        assert not claim.done()
        await owner.kill()
        assert await asyncio.wait_for(claim, 20) == {"default/0": Claim(2, clean=False)}
        assert (await scenario.load("order")).version == TIMES


async def test_without_its_lock_file_an_owner_still_refuses_others(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as first, opened(path) as second:
        await first.claim()
        Path(f"{path}.lock").unlink()
        assert isinstance(second.store, SQLiteStore)
        assert await second.store.owner() is not None
        with pytest.raises(StoreLocked, match="is owned by another process"):
            await second.claim()
        await first.applied("order")


async def test_of_many_that_claim_at_once_one_gets_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with AsyncExitStack() as stack:
        processes = [
            await stack.enter_async_context(running(path, f"node-{number}")) for number in range(5)
        ]
        for _ in range(3):
            Path(f"{path}.lock").unlink(missing_ok=True)
            for process in processes:
                process.tell("try")
            answers = [await process.line() for process in processes]
            assert answers.count("claimed") == 1
            assert all("is owned by" in answer for answer in answers if answer != "claimed")
            await processes.pop(answers.index("claimed")).kill()


async def test_whether_a_file_has_an_owner_can_be_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with open_store(f"sqlite:///{path}") as store:
        assert isinstance(store, SQLiteStore)
        assert await store.owner() is None
        async with running(path, "first") as other:
            assert await store.owner() is None
            await other.ask("claim")
            assert (await store.owner() or "").startswith(f"process {other.pid} ")
            await other.kill()
        assert await store.owner() is None


# ---------------------------------------------------------------- its socket


async def test_a_socket_that_is_removed_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hint, "LOOK_S", 0.01)
    path = tmp_path / "a.db"
    place = socket_path(str(path))
    async with opened(path) as owner, opened(path) as client:
        await owner.claim()
        hints = owner.store.hints()
        place.unlink()
        await until(place.exists)
        assert "a.db.sock was removed; it is made again" in caplog.text
        await client.accepted(client.start("order"))
        async with asyncio.timeout(20):
            assert (await anext(hints)).unit == "order"
    assert not place.exists()


async def test_an_owner_that_stops_leaves_a_socket_that_is_not_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    place = socket_path(str(path))
    async with opened(path) as owner:
        await owner.claim()
        place.unlink()
        with socket.socket(socket.AF_UNIX) as another:
            another.bind(str(place))
            await owner.store.release(owner.fences())
            assert place.exists()


async def test_a_socket_that_cannot_be_made_is_made_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hint, "LOOK_S", 0.01)
    path = tmp_path / "a.db"
    place = socket_path(str(path))
    place.mkdir()
    async with opened(path) as owner:
        await owner.claim()
        assert "are found late" in caplog.text
        shutil.rmtree(place)
        await until(place.is_socket)
    assert caplog.text.count("are found late") == 1


# ---------------------------------------------------------------- an owner that stands still


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells whether a process is stopped")
async def test_an_owner_that_is_stopped_inside_a_transaction_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with running(path) as owner, opened(path, "?busy_ms=20") as client:
        await owner.ask("claim")
        owner.tell("loop")
        async with asyncio.timeout(60):
            while True:
                os.kill(owner.pid, signal.SIGSTOP)
                await until(lambda: ") T " in Path(f"/proc/{owner.pid}/stat").read_text())
                try:
                    await client.post(client.message("inbox"))
                except StoreUnavailable as error:  # it was caught in the middle
                    assert f"process {owner.pid}" in str(error)  # noqa: PT017 - until it happens
                    assert f"kill -CONT {owner.pid}" in str(error)  # noqa: PT017
                    assert "browser" not in str(error)  # noqa: PT017
                    return
                os.kill(owner.pid, signal.SIGCONT)
                await owner.line()
