"""Three `perdure serve` processes on one PostgreSQL server: releases that roll, and an instance that kills its node."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from served import Served, fresh_url

from perdure import Client

STALL_MAX_S = 60.0

RELEASE = """
from perdure import App, workflow

app = App("shop")

@app.activity
async def work(n: int) -> int:
    return n + 1

def define(version):
    @app.workflow(name="order", version=version)
    async def order(n: int) -> str:
        n = await work(n)
        n += await workflow.receive("go", int)
        return f"{version} {await work(n)}"

for version in VERSIONS:
    define(version)
"""

DEADLY = """
import asyncio
import ctypes
import os
import signal

from perdure import App, workflow

app = App("deadly")

@app.activity
async def patient() -> str:
    await asyncio.sleep(3600)
    return "never"

@app.workflow(guard="off")
async def segfault() -> None:
    ctypes.string_at(0)

@app.workflow(guard="off")
async def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)

@app.workflow
async def innocent() -> str:
    return await patient()

@app.workflow
async def good(n: int) -> int:
    await workflow.sleep(0.01)
    return n
"""


def release(folder: Path, *versions: str) -> Path:
    path = folder / f"release_{'_'.join(versions)}.py"
    path.write_text(RELEASE.replace("VERSIONS", repr(versions)))
    return path


@asynccontextmanager
async def three(url: str, app: Path) -> AsyncIterator[list[Served]]:
    nodes = [Served(url, name, app) for name in "abc"]
    try:
        await asyncio.gather(*(node.start() for node in nodes))
        yield nodes
    finally:
        await asyncio.gather(*(node.end() for node in nodes))


async def test_an_upgrade_and_a_rollback_of_three_processes_lose_nothing(tmp_path: Path) -> None:
    url = fresh_url()
    old, new = release(tmp_path, "1"), release(tmp_path, "1", "2")
    async with three(url, old) as nodes, Client.open(url) as client:
        ids: list[str] = []
        stop = asyncio.Event()

        async def load() -> None:
            while not stop.is_set():
                handle = client.workflow("order", id=f"o-{len(ids)}")
                await handle.start(1)
                ids.append(handle.id)
                await asyncio.sleep(0.02)

        loading = asyncio.create_task(load())
        for node in nodes:
            await node.deploy(new)
        pinned = [client.workflow("order", id=f"v2-{n}", version="2") for n in range(10)]
        for handle in pinned:
            await handle.start(1)
        # All but one go back. What needs the new version runs there.
        for node in nodes[:2]:
            await node.deploy(old)
        stop.set()
        await loading
        for handle in pinned:
            await handle.send("go", 1)
        results = [await handle.result(timeout=60, through_suspension=True) for handle in pinned]
        assert results == ["2 4"] * 10
        for id_ in ids:
            await client.get(id_).send("go", 1)
        ended = [await client.get(id_).result(timeout=60, through_suspension=True) for id_ in ids]
        versions = Counter(result.partition(" ")[0] for result in ended)
        assert set(versions) == {"1", "2"}
        assert {result.partition(" ")[2] for result in ended} == {"4"}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bad", ["segfault", "killed"])
async def test_an_instance_that_kills_its_node_is_set_aside_by_its_third_crash(
    tmp_path: Path, bad: str
) -> None:
    app = tmp_path / "deadly.py"
    app.write_text(DEADLY)
    url = fresh_url()
    async with three(url, app) as nodes, Client.open(url) as client:
        for n in range(12):
            await client.workflow("innocent", id=f"innocent-{n}").start()
        for node in nodes:
            node.keep()
        await client.workflow(bad, id="bad").start()
        longest_s = 0.0
        n = 0
        async with asyncio.timeout(240):
            while True:
                began_s = time.monotonic()
                await client.workflow("good", id=f"good-{n}").run(n)
                longest_s = max(longest_s, time.monotonic() - began_s)
                n += 1
                if (await client.get("bad").describe()).status == "suspended":
                    break
                await asyncio.sleep(0.05)
        assert (await client.get("bad").describe()).reason == "poison"
        assert sum(node.deaths for node in nodes) == 3
        suspended = await client.list(status="suspended")
        assert [one.id for one in suspended] == ["bad"]
        # Two leases, and the start of an interpreter on a busy machine.
        assert longest_s < STALL_MAX_S
