"""Perdure with its defaults: on a SQLite file (WAL, synchronous=FULL), or on the PostgreSQL server that is given."""

from __future__ import annotations

import asyncio
import os
import platform
from pathlib import Path
from typing import Any

import apsw

import perdure
from benchmarks.engine import CHANNEL, SLOW_MS, Calls, Result
from benchmarks.runner import main
from perdure import App, workflow

SERVER = os.environ.get("BENCH_POSTGRES_URL")
CALLS = Calls()
app = App("bench")
go = workflow.Channel[str](CHANNEL)


@app.activity
async def echo(payload: str) -> str:
    CALLS.note(payload)
    return payload


@app.activity
async def slow(payload: str) -> str:
    CALLS.note(payload)
    await CALLS.pass_gate()
    await asyncio.sleep(SLOW_MS / 1000)
    return payload


@app.workflow
async def chain(n: int, payload: str) -> str:
    result = ""
    for _ in range(n):
        result = await echo(payload)
    return result


@app.workflow
async def fan(n: int, payload: str) -> int:
    return len(await asyncio.gather(*(echo(payload) for _ in range(n))))


@app.workflow
async def nap(seconds: float) -> str:
    await workflow.sleep(seconds)
    return "slept"


@app.workflow
async def wait() -> str:
    return await go.receive()


@app.workflow
async def chain_wait(n: int, payload: str) -> str:
    for _ in range(n):
        await echo(payload)
    return await go.receive()


@app.workflow
async def slow_chain(n: int, payload: str) -> str:
    result = ""
    for _ in range(n):
        result = await slow(payload)
    return result


@app.workflow
async def slow_fan(n: int, payload: str) -> int:
    return len(await asyncio.gather(*(slow(payload) for _ in range(n))))


WORKFLOWS: dict[str, Any] = {
    "chain": chain,
    "fan": fan,
    "nap": nap,
    "wait": wait,
    "chain_wait": chain_wait,
    "slow_chain": slow_chain,
    "slow_fan": slow_fan,
}


class PerdureEngine:
    """One embedded node and its client."""

    def __init__(self) -> None:
        self.calls = CALLS
        self.lost: list[str] = []
        self.result_concurrency = 10_000
        self.node: Any = None

    async def open(self, folder: Path) -> None:
        url = f"sqlite:///{folder / 'perdure.db'}"
        if SERVER:
            # Both lives of a measurement have the same folder, and no other has it.
            url = f"{SERVER}?schema={folder.name}"
        self.node = app.node(url)
        await self.node.start()

    async def close(self) -> None:
        await self.node.stop()

    def handle(self, shape: str, id: str) -> Any:
        return self.node.client.workflow(WORKFLOWS[shape], id=id)

    async def start(self, shape: str, id: str, *arguments: object) -> Result:
        handle = self.handle(shape, id)
        await handle.start(*arguments)
        result: Result = handle.result
        return result

    async def run(self, shape: str, id: str, *arguments: object) -> object:
        result: object = await self.handle(shape, id).run(*arguments)
        return result

    def attach(self, shape: str, id: str) -> Result:
        result: Result = self.handle(shape, id).result
        return result

    async def send(self, shape: str, id: str, value: str) -> None:
        await self.handle(shape, id).send(go, value)

    def about(self) -> dict[str, str]:
        about = {
            "engine": f"perdure {perdure.__version__}",
            "python": platform.python_version(),
            "guard": "as it comes",
        }
        if SERVER:
            return about | {"durability": "PostgreSQL, fsync and synchronous_commit on"}
        return about | {
            "sqlite": apsw.sqlite_lib_version(),
            "durability": "WAL, synchronous=FULL",
        }


if __name__ == "__main__":
    main("benchmarks.engines.perdure_engine", PerdureEngine)
