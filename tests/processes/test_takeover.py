"""Several processes on one SQLite file: one owns it, the others know whom to wait for, and one goes on when it dies."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

from perdure import Client, Node
from perdure.errors import StoreLocked, StoreUnavailable
from perdure.kernel.data.events import ActivityCompleted
from perdure.store.sqlite import SQLiteStore

sys.path.insert(0, str(Path(__file__).parent))

import program  # the same program that the other processes run
from running import Start, until_noted

MANY = 200


async def test_a_second_node_is_refused_and_told_who_owns_the_file(url: str, start: Start) -> None:
    owner = await start(url)
    with pytest.raises(StoreLocked, match=rf"owned by process {owner.pid} .*standby=true"):
        await Node(program.app, url).start()
    await owner.kill()
    async with program.app.node(url) as node:  # at once: the lock died with the process
        assert await node.client.workflow(program.steps, id="a").run(1) == 7


async def test_a_standby_takes_over_when_the_owner_is_killed(
    url: str, start: Start, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    owner = await start(url, HANG="1", LEDGER=str(ledger))
    async with Client.open(url) as client:
        handle = client.workflow(program.steps, id="a")
        await handle.start(1)
        await until_noted(ledger, "second", 1)
        standby = await start(
            f"{url}?standby=true", says=f"owned by process {owner.pid}", LEDGER=str(ledger)
        )
        await owner.kill()
        await standby.says("ready")
        assert await handle.result(timeout=20) == 7
    assert Counter(ledger.read_text().split()[::2]) == {"first": 1, "second": 2, "third": 1}


async def test_a_stopped_owner_is_named_as_such(url: str, start: Start) -> None:
    owner = await start(url)
    owner.signal(signal.SIGSTOP)
    await asyncio.to_thread(
        os.waitid, os.P_PID, owner.pid, os.WSTOPPED | os.WNOWAIT
    )  # it has arrived
    with pytest.raises(
        StoreLocked, match=rf"process {owner.pid} .*stopped.*kill -CONT {owner.pid}"
    ):
        await Node(program.app, url).start()
    standby = await start(f"{url}?standby=true", says=f"`kill -CONT {owner.pid}`")
    owner.signal(signal.SIGCONT)
    await owner.kill()
    await standby.says("ready")


async def test_a_node_that_stops_in_order_leaves_the_file_to_the_next(
    url: str, start: Start
) -> None:
    owner = await start(url)
    standby = await start(f"{url}?standby=true", says="owned by process")
    assert owner.process.stdin is not None
    owner.process.stdin.close()
    await standby.says("ready")
    assert await owner.process.wait() == 0


async def test_what_an_owner_writes_after_another_one_claimed_its_scopes_is_refused(
    url: str,
) -> None:
    async with SQLiteStore(url.removeprefix("sqlite:///")) as store:
        old, new = Node(program.app, store, name="old"), Node(program.app, store, name="new")
        await old.start()
        handle = old.client.workflow(program.add_up, id="a")
        await handle.start(2)
        await new.start()
        with pytest.raises(StoreUnavailable, match="another node owns its scope now"):
            await handle.send(program.numbers, 1)
        handle = new.client.workflow(program.add_up, id="a")
        await handle.send(program.numbers, 10)
        await handle.send(program.numbers, 20)
        assert await handle.result(timeout=20) == [10, 20]
        await new.stop()
        await old.stop()


async def test_200_workflows_resume_after_kill_9_and_no_recorded_step_is_repeated(
    url: str, start: Start, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    owner = await start(url, HANG="1", LEDGER=str(ledger))
    async with Client.open(url) as client:
        await asyncio.gather(
            *(client.workflow(program.steps, id=f"n-{n}").start(n) for n in range(MANY))
        )
        await until_noted(ledger, "second", MANY)
    await owner.kill()
    await start(url, LEDGER=str(ledger))
    async with Client.open(url) as client:
        results = await asyncio.gather(
            *(client.get(f"n-{n}").result(timeout=30) for n in range(MANY))
        )
        assert results == [(n + 1) * 2 + 3 for n in range(MANY)]
        history = await client.get("n-7").history()
        assert len([e for e in history if isinstance(e.event, ActivityCompleted)]) == 3
    lines = Counter(ledger.read_text().splitlines())
    for n in range(MANY):
        assert lines[f"first n-{n}"] == 1, "it was recorded before the kill"
        assert lines[f"second n-{n}"] == 2, "it was cut off, and ran again"
        assert lines[f"third n-{n}"] == 1
