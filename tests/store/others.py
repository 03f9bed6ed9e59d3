"""Other processes that have a store open, as a test sees them: they run `owner.py`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from perdure.store import open_store
from perdure.testing.conformance import Scenario

PROGRAM = Path(__file__).with_name("owner.py")


class Process:
    """The program `owner.py`, running."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @property
    def pid(self) -> int:
        return self.process.pid

    def tell(self, order: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{order}\n".encode())

    async def line(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            return (await self.process.stdout.readline()).decode().strip()

    async def ask(self, order: str) -> str:
        self.tell(order)
        return await self.line()

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def running(path: Path, node: str = "other", options: str = "") -> AsyncGenerator[Process]:
    url = f"sqlite:///{path}{options}"
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
    process = await asyncio.create_subprocess_exec(sys.executable, str(PROGRAM), url, node, **pipes)
    try:
        other = Process(process)
        assert await other.line() == "opened"
        yield other
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def opened(path: Path, options: str = "") -> AsyncGenerator[Scenario]:
    async with open_store(f"sqlite:///{path}{options}") as store:
        yield Scenario(store)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)
