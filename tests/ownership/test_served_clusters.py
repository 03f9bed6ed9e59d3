"""Three `perdure serve` processes on one PostgreSQL server, whose releases roll."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from served import Served, fresh_url

from perdure import Client

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
