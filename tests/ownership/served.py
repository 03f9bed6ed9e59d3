"""`perdure serve` processes of one cluster on PostgreSQL, with a supervisor that starts them again."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import uuid
from pathlib import Path

from postgres_server import server_url

LEASE_MS = 3_000
READY_S = 60


def fresh_url() -> str:
    return f"{server_url()}?schema=served_{uuid.uuid4().hex[:12]}&shards=32"


class Served:
    """A node in a process of its own."""

    def __init__(self, url: str, name: str, app: Path, *flags: str) -> None:
        self.url, self.name, self.app, self.flags = url, name, app, flags
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it, and wait until it says that it is ready."""
        environment = {
            **os.environ,
            "PERDURE_LEASE_MS": str(LEASE_MS),
            "PERDURE_STOP_MS": "0",
        }
        command = ["-m", "perdure", "serve", f"{self.app}:app", "--store", self.url]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            "--name",
            self.name,
            "--log-level",
            "error",
            *self.flags,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(READY_S):
            line = await self._process.stdout.readline()
        # A process may die of its work before it is ready.
        assert not line or line.startswith(b"ready"), line

    async def stop(self) -> None:
        """Stop it in order."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(READY_S):
            await self._process.wait()

    async def deploy(self, app: Path) -> None:
        """Stop it, and start it with other code."""
        await self.stop()
        self.app = app
        await self.start()

    async def end(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
