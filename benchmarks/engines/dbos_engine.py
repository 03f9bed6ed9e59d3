"""DBOS on SQLite, or on the PostgreSQL server that is given. Run with the interpreter of its own environment.

DBOS sets neither journal mode nor synchronous, so the library's default is a rollback journal with synchronous=FULL.
For a comparison at equal durability and better speed, `DBOS_JOURNAL=WAL` (what the driver sets) forces WAL with
synchronous=FULL on each connection from outside.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
import sqlite3
from pathlib import Path

import sqlalchemy
from dbos import DBOS, DBOSConfig, SetWorkflowID
from sqlalchemy import event

from benchmarks.engine import CHANNEL, SLOW_MS, Calls, Result
from benchmarks.runner import main

SERVER = os.environ.get("BENCH_POSTGRES_URL")
JOURNAL = os.environ.get("DBOS_JOURNAL", "WAL")
NOTIFICATION_POLL_S = float(os.environ.get("DBOS_NOTIFICATION_POLL_S", "1"))
POLLING_INTERVAL_S = 0.05
FOREVER_S = 3600.0
CALLS = Calls()


@event.listens_for(sqlalchemy.Engine, "connect")
def set_durability(connection: sqlite3.Connection, _record: object) -> None:
    if JOURNAL == "WAL" and not SERVER:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")


@DBOS.step()
async def echo(payload: str) -> str:
    CALLS.note(payload)
    return payload


@DBOS.step()
async def slow(payload: str) -> str:
    CALLS.note(payload)
    await CALLS.pass_gate()
    await asyncio.sleep(SLOW_MS / 1000)
    return payload


@DBOS.workflow()
async def chain(n: int, payload: str) -> str:
    result = ""
    for _ in range(n):
        result = await echo(payload)
    return result


@DBOS.workflow()
async def fan(n: int, payload: str) -> int:
    return len(await asyncio.gather(*(echo(payload) for _ in range(n))))


@DBOS.workflow()
async def nap(seconds: float) -> str:
    await DBOS.sleep_async(seconds)
    return "slept"


@DBOS.workflow()
async def wait() -> str:
    return str(await DBOS.recv_async(CHANNEL, timeout_seconds=FOREVER_S))


@DBOS.workflow()
async def chain_wait(n: int, payload: str) -> str:
    for _ in range(n):
        await echo(payload)
    return str(await DBOS.recv_async(CHANNEL, timeout_seconds=FOREVER_S))


@DBOS.workflow()
async def slow_chain(n: int, payload: str) -> str:
    result = ""
    for _ in range(n):
        result = await slow(payload)
    return result


@DBOS.workflow()
async def slow_fan(n: int, payload: str) -> int:
    return len(await asyncio.gather(*(slow(payload) for _ in range(n))))


WORKFLOWS = {
    "chain": chain,
    "fan": fan,
    "nap": nap,
    "wait": wait,
    "chain_wait": chain_wait,
    "slow_chain": slow_chain,
    "slow_fan": slow_fan,
}


class DbosEngine:
    """DBOS in this process, its asynchronous API throughout."""

    def __init__(self) -> None:
        self.calls = CALLS
        self.lost: list[str] = []
        self.result_concurrency = 1000

    async def open(self, folder: Path) -> None:
        url = f"sqlite:///{folder / 'dbos.sqlite'}"
        if SERVER:
            # It makes the database. Both lives of a measurement have the same folder, and no other has it.
            url = f"{SERVER.rsplit('/', 1)[0]}/{folder.name.replace('-', '_').lower()}"
        config: DBOSConfig = {
            "name": "bench",
            "system_database_url": url,
            "application_version": "1",
            "executor_id": "bench",
            "log_level": "CRITICAL",
            "notification_listener_polling_interval_sec": NOTIFICATION_POLL_S,
        }
        DBOS(config=config)
        await asyncio.to_thread(DBOS.launch)
        if not SERVER:
            self.check_journal(folder / "dbos.sqlite")

    @staticmethod
    def check_journal(path: Path) -> None:
        """Measure what the report claims, or nothing."""
        connection = sqlite3.connect(path)
        found = connection.execute("PRAGMA journal_mode").fetchone()[0]
        connection.close()
        if found.upper() != JOURNAL:
            raise RuntimeError(f"DBOS runs with journal mode {found}, wanted {JOURNAL}")

    async def close(self) -> None:
        await asyncio.to_thread(DBOS.destroy)

    async def start(self, shape: str, id: str, *arguments: object) -> Result:
        with SetWorkflowID(id):
            handle = await DBOS.start_workflow_async(WORKFLOWS[shape], *arguments)
        result: Result = handle.get_result
        return result

    async def run(self, shape: str, id: str, *arguments: object) -> object:
        return await (await self.start(shape, id, *arguments))()

    def attach(self, shape: str, id: str) -> Result:
        async def result() -> object:
            # A recovered workflow has no task to wait for: its handle polls, and many pollers would starve the engine.
            self.result_concurrency = 1
            handle = await DBOS.retrieve_workflow_async(id)
            return await handle.get_result(polling_interval_sec=POLLING_INTERVAL_S)

        return result

    async def send(self, shape: str, id: str, value: str) -> None:
        await DBOS.send_async(id, value, CHANNEL)

    def about(self) -> dict[str, str]:
        journal = (
            "WAL, synchronous=FULL (forced from outside)"
            if JOURNAL == "WAL"
            else "rollback journal, synchronous=FULL"
        )
        about = {
            "engine": f"dbos {importlib.metadata.version('dbos')}",
            "python": platform.python_version(),
        }
        if SERVER:
            return about | {"durability": "PostgreSQL, fsync and synchronous_commit on"}
        return about | {
            "sqlite": sqlite3.sqlite_version,
            "durability": journal,
        }


if __name__ == "__main__":
    main("benchmarks.engines.dbos_engine", DbosEngine)
