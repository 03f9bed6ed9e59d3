"""Two served nodes on PostgreSQL, and a client without a store, whose node is killed."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from postgres_server import server_url
from postgres_stores import Schemas

import perdure

APP = """
import asyncio
from perdure import App, workflow

app = App("shop")

@app.activity
async def double(n: int) -> int:
    return 2 * n

@app.workflow
async def once(n: int) -> int:
    return await double(n)

@app.workflow
async def waits(n: int) -> int:
    return await double(n) + await workflow.receive("n", int)
"""


@pytest.fixture
def url() -> AsyncIterator[str]:
    schemas = Schemas()
    yield f"{server_url()}?schema={schemas.take()}"  # type: ignore[misc]
    schemas.give_back()


class Served:
    """A process of `perdure serve` that listens."""

    def __init__(self, folder: Path, url: str, name: str, lease_ms: int = 2_000) -> None:
        environment = {**os.environ, "PERDURE_TOKEN_FILE": str(folder / "token")}
        environment["PERDURE_LEASE_MS"] = str(lease_ms)
        command = [sys.executable, "-m", "perdure", "serve", "shop.py:app", "--store", url]
        command += ["--name", name, "--listen", "127.0.0.1:0", "--json", "--log-level", "error"]
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
        )
        self.address = ""

    async def ready(self) -> None:
        assert self.process.stdout is not None
        line = await asyncio.to_thread(self.process.stdout.readline)
        self.address = json.loads(line)["address"]

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@asynccontextmanager
async def served(folder: Path, url: str, *names: str) -> AsyncIterator[dict[str, Served]]:
    (folder / "shop.py").write_text(APP)
    (folder / "token").write_text("between us\n")
    nodes: dict[str, Served] = {}
    try:
        for name in names:
            nodes[name] = Served(folder, url, name)
            await nodes[name].ready()
        yield nodes
    finally:
        for node in nodes.values():
            node.end()


async def test_results_survive_the_death_of_the_node_that_was_asked(
    tmp_path: Path, url: str
) -> None:
    async with served(tmp_path, url, "a", "b") as nodes:
        addresses = ",".join(node.address for node in nodes.values())
        async with perdure.connect(f"perdure://{addresses}", token=b"between us") as client:
            assert await client.workflow("once", id="first").run(1) == 2
            handles = [client.workflow("waits", id=f"w{n}") for n in range(8)]
            for number, handle in enumerate(handles):
                await handle.start(number)
            waiting = [asyncio.ensure_future(handle.result(timeout=90)) for handle in handles]
            asked = client._gateway._route._link.peer.node.node  # type: ignore[attr-defined]
            nodes[asked].process.kill()
            for handle in handles:
                await handle.send("n", 100)
            assert await asyncio.gather(*waiting) == [100 + 2 * n for n in range(8)]
            assert await client.workflow("once", id="last").run(3) == 6


async def test_commands_ask_nodes_in_place_of_a_store(tmp_path: Path, url: str) -> None:
    async with served(tmp_path, url, "a") as nodes:
        store = f"perdure://{nodes['a'].address}"

        async def perdure_(*arguments: str, token: str = "token") -> tuple[int, str]:
            environment = {**os.environ, "PERDURE_TOKEN_FILE": str(tmp_path / token)}
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "perdure", *arguments, "--store", store),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=tmp_path,
                env=environment,
            )
            out, _ = await process.communicate()
            assert process.returncode is not None
            return process.returncode, out.decode()

        assert (await perdure_("start", "waits", "4", "--id", "x"))[0] == 0
        assert "x" in (await perdure_("ls"))[1]
        assert (await perdure_("send", "x", "n", "1"))[0] == 0
        assert (await perdure_("wait", "x"))[1].strip() == "9"
        assert "completed" in (await perdure_("show", "x"))[1]
        assert "double" in (await perdure_("history", "x"))[1]
        assert (await perdure_("delete", "x"))[0] == 0
        assert (await perdure_("show", "x"))[0] == 3
        (tmp_path / "wrong").write_text("another")
        code, text = await perdure_("ls", token="wrong")
        assert code == 5
        assert "different tokens" in text
        assert nodes["a"].address in text
