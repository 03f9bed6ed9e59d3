"""Several processes on one SQLite file: one owns it, others post and wait; the next one takes over when it dies."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import re
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import apsw
import pytest

from perdure.errors import StoreLocked, StoreUnavailable
from perdure.ports.store import Claim, Inbox
from perdure.store.sqlite import SQLiteStore
from perdure.store.sqlite.hint import socket_path

sys.path.insert(0, str(Path(__file__).parent))

from others import opened, running, until

# ---------------------------------------------------------------- kill -9


async def test_everything_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    acknowledged: dict[str, int] = {}
    for life in range(3):
        async with running(path, f"life-{life}") as owner:
            assert (await owner.ask("claim")).startswith("claimed")
            owner.tell("loop")
            for _ in range(200):
                _, unit, version = (await owner.line()).split()
                acknowledged[unit] = int(version)
            owner.process.kill()
            rest, _ = await owner.process.communicate()
        for line in rest.decode().splitlines():
            match line.split():
                case ["applied", unit, version]:  # the last line may have been cut off
                    acknowledged[unit] = int(version)
        async with opened(path) as scenario:
            loaded = await scenario.store.load(list(acknowledged))
            assert [unit.version >= acknowledged[unit.id] for unit in loaded] == [True] * len(
                loaded
            )
            # Each commit posted one message: it is there with its commit, or neither is.
            assert len(await scenario.all(Inbox(unit="inbox", limit=1_000))) == sum(
                unit.version for unit in loaded
            )
            assert await scenario.apply(scenario.commit("late")) == ["fenced"]


# ---------------------------------------------------------------- one owner


async def test_a_second_owner_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with running(path, "first") as owner, opened(path) as scenario:
        assert await owner.ask("claim") == "claimed 1 True"
        with pytest.raises(StoreLocked) as caught:
            await scenario.claim()
        for word in (str(path), f"process {owner.pid}", "first", "standby=true"):
            assert word in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells whether a process is stopped")
async def test_a_stopped_owner_is_named_as_stopped(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with running(path) as owner, opened(path) as scenario:
        await owner.ask("claim")
        os.kill(owner.pid, signal.SIGSTOP)
        await until(lambda: ") T " in Path(f"/proc/{owner.pid}/stat").read_text())
        with pytest.raises(StoreLocked, match=f"stopped.*kill -CONT {owner.pid}"):
            await scenario.claim()


async def test_two_stores_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as first, opened(path) as second:
        await first.claim()
        with pytest.raises(StoreLocked, match=f"process {os.getpid()}"):
            await second.claim()
        await first.store.release(first.fences())
        assert await second.claim() == {"default/0": Claim(2, clean=True)}
        with pytest.raises(StoreLocked):
            await first.claim()


async def test_a_lock_that_only_changes_hands_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as scenario:
        passing = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(
            passing, fcntl.LOCK_EX
        )  # as a standby does that was closed while it waited: it never signs
        claim = asyncio.ensure_future(scenario.claim())
        asyncio.get_running_loop().call_later(0.02, os.close, passing)
        assert await claim == {"default/0": Claim(1, clean=True)}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells whether a process is ending")
async def test_an_owner_that_is_ending_is_waited_for(tmp_path: Path) -> None:
    """A process that was killed still holds its locks while the kernel takes its memory back."""
    path = tmp_path / "a.db"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(
        os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT
    )  # it is there until it is asked for its exit code
    async with opened(path) as scenario:
        held = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        os.write(held, f"{ended.pid} killed-1\n".encode())
        fcntl.flock(held, fcntl.LOCK_EX)
        claim = asyncio.ensure_future(scenario.claim())
        asyncio.get_running_loop().call_later(0.02, os.close, held)
        assert await claim == {"default/0": Claim(1, clean=True)}
    assert ended.wait() == 0


async def test_a_closed_store_gives_its_file_up(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as scenario:
        await scenario.claim()
    async with opened(path) as scenario:
        assert await scenario.claim() == {"default/0": Claim(2, clean=False)}


async def test_a_dead_owner_is_followed_at_once_and_fenced(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with running(path, "first") as owner, opened(path) as scenario:
        await owner.ask("claim")
        assert await owner.ask("commit order 0") == "applied"
        await owner.kill()
        assert await scenario.claim() == {"default/0": Claim(2, clean=False)}
        await scenario.applied("order", 1)


async def test_a_standby_waits_for_the_owner_and_says_for_whom(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.db"
    caplog.set_level(logging.WARNING, "perdure.store")
    async with running(path, "first") as owner, opened(path, "?standby=true") as scenario:
        await owner.ask("claim")
        await owner.ask("commit order 0")
        claim = asyncio.ensure_future(scenario.claim())
        await until(lambda: f"process {owner.pid}" in caplog.text)
        assert not claim.done()
        await owner.kill()
        assert await claim == {"default/0": Claim(2, clean=False)}
        assert (await scenario.load("order")).version == 1


async def test_a_standby_can_be_closed_while_it_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as owner:
        await owner.claim()
        async with opened(path, "?standby=true") as scenario:
            claim = asyncio.ensure_future(scenario.claim())
            await until(lambda: "waiting for it" in caplog.text)
        with pytest.raises(StoreUnavailable, match="closed"):
            await claim
    async with opened(path) as scenario:  # the lock that the closed standby wanted is free
        assert await scenario.claim() == {"default/0": Claim(2, clean=False)}


# ---------------------------------------------------------------- mail and changes across processes


async def test_the_owner_hears_of_mail_from_another_process(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with running(path) as other, opened(path) as scenario:
        await scenario.claim()
        hints = scenario.store.hints()
        for unit in ("order-1", "order-2"):
            assert await other.ask(f"post {unit}") == "accepted"
            assert (await anext(hints)).unit == unit
            assert len(await scenario.inbox(unit)) == 1


async def test_another_process_posts_and_reads_but_cannot_commit(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with running(path) as owner, opened(path) as scenario:
        await owner.ask("claim")
        assert (await scenario.post(scenario.start("order")))[0].outcome == "accepted"
        assert await owner.ask("hint") == "order"
        assert await owner.ask("commit order 0") == "applied"
        assert (await scenario.load("order")).version == 1
        assert await scenario.apply(scenario.commit("order", 1)) == ["fenced"]


async def test_posts_wait_for_a_node_that_starts_later(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as client:
        await client.accepted(client.start("order"))
    async with opened(path) as scenario:
        await scenario.claim()
        assert await scenario.due() == {"order": (0, True)}


async def test_another_process_is_woken_by_a_change(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with running(path) as owner, opened(path) as scenario:
        await owner.ask("claim")
        for version in range(3):
            wait = asyncio.ensure_future(scenario.store.wait_change("order", version, 20_000))
            assert await owner.ask(f"commit order {version}") == "applied"
            assert await wait == version + 1


async def test_a_wait_survives_the_death_of_the_owner(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with running(path, "first") as owner, opened(path) as scenario:
        await owner.ask("claim")
        await owner.ask("commit order 0")
        wait = asyncio.ensure_future(scenario.store.wait_change("order", 1, 20_000))
        assert await scenario.store.wait_change("order", 0, 20_000) == 1
        await owner.kill()
        async with running(path, "second") as heir:
            assert await heir.ask("claim") == "claimed 2 False"
            assert await heir.ask("commit order 1") == "applied"
            assert await wait == 2


async def test_a_change_is_seen_although_nobody_owns_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as first, opened(path) as second:
        wait = asyncio.ensure_future(second.store.wait_change("order", 0, 20_000))
        await asyncio.sleep(0)
        await first.claim()
        await first.applied("order")
        assert await wait == 1


# ---------------------------------------------------------------- the socket


async def test_the_socket_is_private_and_goes_with_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as scenario:
        await scenario.claim()
        assert socket_path(str(path)).stat().st_mode & 0o777 == 0o600
        assert Path(f"{path}.lock").stat().st_mode & 0o777 == 0o600
    assert not socket_path(str(path)).exists()


async def test_a_store_in_a_deep_folder_hears_of_mail_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path.joinpath(*["twenty-characters-xx"] * 10)
    folder.mkdir(parents=True)
    path = folder / "a.db"
    caplog.set_level(logging.WARNING, "perdure.store")
    waits: list[float] = []
    async with running(path) as other, opened(path) as scenario:
        await scenario.claim()
        socket = socket_path(str(path))
        assert socket.parent != folder
        assert socket.stat().st_mode & 0o777 == 0o600
        assert socket.parent.stat().st_mode & 0o777 == 0o700
        hints = scenario.store.hints()
        for number in range(10):
            began = asyncio.get_running_loop().time()
            assert await other.ask(f"post order-{number}") == "accepted"
            assert (await anext(hints)).unit == f"order-{number}"
            waits.append(asyncio.get_running_loop().time() - began)
    assert min(waits) < 0.1  # the best of them: others may be busy on this machine
    assert caplog.text == ""
    assert not socket.exists()


async def test_a_folder_of_sockets_that_others_may_write_is_shunned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.db"
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read())
        writer.close()

    with TemporaryDirectory() as folder:
        socket = Path(folder) / "a.sock"
        socket.parent.chmod(0o777)
        monkeypatch.setattr("perdure.store.sqlite.hint.socket_path", lambda database: socket)
        server = await asyncio.start_unix_server(listen, str(socket))
        async with opened(path) as client:
            await client.accepted(client.start("order"))
        async with opened(path) as scenario:
            await scenario.claim()
        assert socket.exists()
        server.close()
        await server.wait_closed()
    assert heard == []
    assert "not a private folder" in caplog.text


async def test_the_socket_of_a_dead_owner_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with running(path, "first") as owner:
        await owner.ask("claim")
        await owner.kill()
    assert socket_path(str(path)).exists()
    async with running(path) as other, opened(path) as scenario:
        assert await other.ask("post early") == "accepted"  # nobody answers at the old socket
        await scenario.claim()
        hints = scenario.store.hints()
        assert await other.ask("post order") == "accepted"
        assert (await anext(hints)).unit == "order"


async def test_nonsense_at_the_socket_harms_nobody(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as scenario:
        await scenario.claim()
        hints = scenario.store.hints()
        for nonsense in (
            b"mail {\n",
            b"\xff\xfe\n",
            b"watch 7\n",
            b"x" * 100_000 + b"\n",
            b"hello\n",
            b"",
        ):
            _, writer = await asyncio.open_unix_connection(str(socket_path(str(path))))
            writer.write(nonsense)
            writer.close()
            await writer.wait_closed()
        async with opened(path) as client:
            await client.accepted(client.start("order"))
            assert (await anext(hints)).unit == "order"
        assert isinstance(scenario.store, SQLiteStore)


async def test_nobody_is_told_to_end_an_owner_whose_disk_is_slow(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with running(path) as owner, opened(path, "?busy_ms=1") as client:
        await owner.ask("claim")
        with closing(apsw.Connection(str(path))) as busy:
            busy.set_busy_timeout(20_000)
            busy.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable) as refused:
                await client.post(client.start("order"))
    assert refused.value.outcome == "none"
    said = re.search(r"a.db locked. If its owner, process (\d+) .*, try again", str(refused.value))
    assert said is not None
    assert said[1] == str(owner.pid)
