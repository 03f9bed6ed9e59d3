"""duroxide on a SQLite file, through its Python package. Run with the interpreter of its own environment.

Its client blocks, so calls go through a pool of threads; its workflows are generators, its activities plain functions
on the runtime's worker threads. The store is WAL with, in effect, synchronous=NORMAL: less durable than the others.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from duroxide import Client, Runtime, RuntimeOptions, SqliteProvider

from benchmarks.engine import CHANNEL, FAILED, SLOW_MS, Calls, Result
from benchmarks.runner import main

ORCHESTRATION_SLOTS = int(os.environ.get("DUROXIDE_ORCHESTRATION_SLOTS", "4"))
WORKER_SLOTS = int(os.environ.get("DUROXIDE_WORKER_SLOTS", "8"))
POLL_MS = int(os.environ.get("DUROXIDE_POLL_MS", "10"))
CLIENT_THREADS = 100
RESULT_TIMEOUT_MS = 240_000
SHUTDOWN_MS = 100
CALLS = Calls()
Steps = Generator[Any, Any, object]


def echo(_context: object, payload: str) -> str:
    CALLS.note(payload)
    return payload


def slow(_context: object, payload: str) -> str:
    CALLS.note(payload)
    time.sleep(SLOW_MS / 1000)
    return payload


def sequence(activity: str) -> Callable[[Any, Any], Steps]:
    def workflow(context: Any, arguments: Any) -> Steps:
        n, payload = arguments
        result = ""
        for _ in range(n):
            result = yield context.schedule_activity(activity, payload)
        return result

    return workflow


def parallel(activity: str) -> Callable[[Any, Any], Steps]:
    def workflow(context: Any, arguments: Any) -> Steps:
        n, payload = arguments
        results = yield context.all(
            [context.schedule_activity(activity, payload) for _ in range(n)]
        )
        return sum(result == {"ok": payload} for result in results)

    return workflow


def nap(context: Any, arguments: Any) -> Steps:
    yield context.schedule_timer(int(1000 * arguments[0]))
    return "slept"


def wait(context: Any, _arguments: Any) -> Steps:
    return (yield context.dequeue_event(CHANNEL))


def chain_wait(context: Any, arguments: Any) -> Steps:
    n, payload = arguments
    for _ in range(n):
        yield context.schedule_activity("echo", payload)
    return (yield context.dequeue_event(CHANNEL))


WORKFLOWS = {
    "chain": sequence("echo"),
    "fan": parallel("echo"),
    "nap": nap,
    "wait": wait,
    "chain_wait": chain_wait,
    "slow_chain": sequence("slow"),
    "slow_fan": parallel("slow"),
}


class DuroxideEngine:
    """duroxide's runtime and client in this process."""

    def __init__(self) -> None:
        self.calls = CALLS
        self.lost: list[str] = []
        self.result_concurrency = 4
        self.pool = ThreadPoolExecutor(CLIENT_THREADS)
        self.client: Any = None
        self.runtime: Any = None

    async def blocking(self, function: Callable[..., Any], *arguments: object) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.pool, function, *arguments)

    async def open(self, folder: Path) -> None:
        path = folder / "duroxide.db"
        path.touch()
        provider = SqliteProvider.open(f"sqlite:{path}")
        self.client = Client(provider)
        options = RuntimeOptions(
            orchestration_concurrency=ORCHESTRATION_SLOTS,
            worker_concurrency=WORKER_SLOTS,
            dispatcher_poll_interval_ms=POLL_MS,
            log_level="error",
        )
        self.runtime = Runtime(provider, options)
        self.runtime.register_activity("echo", echo)
        self.runtime.register_activity("slow", slow)
        for shape, workflow in WORKFLOWS.items():
            self.runtime.register_orchestration(shape, workflow)
        await self.blocking(self.runtime.start)

    async def close(self) -> None:
        await self.blocking(self.runtime.shutdown, SHUTDOWN_MS)

    async def start(self, shape: str, id: str, *arguments: object) -> Result:
        await self.blocking(self.client.start_orchestration, id, shape, list(arguments))
        return self.attach(shape, id)

    async def run(self, shape: str, id: str, *arguments: object) -> object:
        return await (await self.start(shape, id, *arguments))()

    def attach(self, shape: str, id: str) -> Result:
        async def result() -> object:
            status = await self.blocking(self.client.wait_for_orchestration, id, RESULT_TIMEOUT_MS)
            if status.status != "Completed":
                self.lost.append(f"{id} ended as {status.status}: {status.error}")
                return FAILED
            return status.output

        return result

    async def send(self, shape: str, id: str, value: str) -> None:
        await self.blocking(self.client.enqueue_event, id, CHANNEL, value)

    def about(self) -> dict[str, str]:
        slots = f"{ORCHESTRATION_SLOTS} orchestration and {WORKER_SLOTS} worker slots, poll {POLL_MS} ms"
        return {
            "engine": f"duroxide {importlib.metadata.version('duroxide')}",
            "python": platform.python_version(),
            "durability": "WAL, in effect synchronous=NORMAL (the last commits can be lost with the power)",
            "slots": slots,
        }


if __name__ == "__main__":
    main("benchmarks.engines.duroxide_engine", DuroxideEngine)
