"""A process that runs `program.py`, as a test sees it."""

from __future__ import annotations

import asyncio
import signal
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

PATIENCE_S = 30


class Running:
    """A process of the program, and what it says."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.pid = process.pid

    async def says(self, text: str) -> str:
        """Wait for a line with this text."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            while line := (await self.process.stdout.readline()).decode():
                if text in line:
                    return line
        raise AssertionError(f"process {self.pid} ended without saying {text!r}")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def kill(self) -> None:
        """Kill -9, and wait until it is dead."""
        with suppress(ProcessLookupError):  # it has ended by itself
            self.process.send_signal(signal.SIGKILL)
        await self.process.communicate()


async def until_noted(ledger: Path, step: str, times: int) -> None:
    """Wait until another process has begun a step so many times."""
    async with asyncio.timeout(PATIENCE_S):
        while (ledger.read_text() if ledger.exists() else "").count(step) < times:
            await asyncio.sleep(0.01)


Start = Callable[..., Awaitable[Running]]
