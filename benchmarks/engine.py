"""What a workload needs from an engine, so that each workload is written once and is the same for all of them.

An engine defines seven workflow shapes over two activities. `echo` returns its argument at once, `slow` sleeps
`SLOW_MS` first. Both note each execution in `calls`, which is how the workloads see steps without asking the engine.

| shape | arguments | what it does |
|---|---|---|
| chain | n, payload | `echo(payload)` n times, one after the other; returns the last result |
| fan | n, payload | `echo(payload)` n times in parallel; returns the number of results |
| nap | seconds | one durable sleep; returns "slept" |
| wait | | receives one message; returns it |
| chain_wait | n, payload | a chain, then a wait |
| slow_chain | n, payload | like chain, with `slow` |
| slow_fan | n, payload | like fan, with `slow` |
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

SHAPES = ("chain", "fan", "nap", "wait", "chain_wait", "slow_chain", "slow_fan")
SLOW_MS = 10
CHANNEL = "go"
PAYLOAD = "payload-of-20-bytes!"

FAILED = object()
"""The result of a workflow that the engine itself lost; the engine notes why in `lost`, and the report says so."""

Result = Callable[[], Awaitable[object]]
"""Waits for one workflow and gives its result."""


class Calls:
    """The executions of activities in this process: when, and with which payload. Threads may share it."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.payloads: list[str] = []
        self.gate: asyncio.Event | None = None

    def hold(self) -> None:
        """From now on `slow` notes its call and waits for `release`, in engines whose activities need no thread."""
        self.gate = asyncio.Event()

    def release(self) -> None:
        if self.gate is not None:
            self.gate.set()

    async def pass_gate(self) -> None:
        if self.gate is not None:
            await self.gate.wait()

    def note(self, payload: str) -> None:
        self.times.append(time.perf_counter())
        self.payloads.append(payload)

    def clear(self) -> None:
        self.times.clear()
        self.payloads.clear()


class Engine(Protocol):
    """One engine, embedded in this process, with its data in one folder."""

    calls: Calls
    lost: list[str]
    """Workflows that ended as failed although their code cannot fail, and what the engine said."""
    result_concurrency: int
    """How many results the client should wait for at once: a client that polls slows its own engine down."""

    async def open(self, folder: Path) -> None:
        """Start a node over the data in `folder`; on return it accepts work."""
        ...

    async def close(self) -> None: ...

    async def start(self, shape: str, id: str, *arguments: object) -> Result:
        """Start a workflow durably."""
        ...

    async def run(self, shape: str, id: str, *arguments: object) -> object:
        """Start a workflow and wait for its result."""
        ...

    def attach(self, shape: str, id: str) -> Result:
        """A workflow that an earlier process started."""
        ...

    async def send(self, shape: str, id: str, value: str) -> None:
        """Send a message to a workflow on `CHANNEL`."""
        ...

    def about(self) -> dict[str, str]:
        """Versions and effective settings, for the report."""
        ...
