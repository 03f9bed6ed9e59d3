"""Processes that run `program.py`, ended with the test that started them."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from running import Running, Start

PROGRAM = Path(__file__).with_name("program.py")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/x.db"


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start a process: `await start(url, says="ready", HANG="1")`; it has said `says` then."""
    all_of_them: list[Running] = []

    async def start(url: str, *, says: str = "ready", **environment: str) -> Running:
        process = await asyncio.create_subprocess_exec(
            sys.executable, PROGRAM, url, stdin=PIPE, stdout=PIPE, env=os.environ | environment
        )
        running = Running(process)
        all_of_them.append(running)
        await running.says(says)
        return running

    yield start
    for running in all_of_them:
        await running.kill()
