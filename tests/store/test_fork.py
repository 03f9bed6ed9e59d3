"""A forked child has nothing of its parent's store: no lock, no connection, no socket."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from perdure.ports.store import Claim

sys.path.insert(0, str(Path(__file__).parent))

from others import Process, opened, running

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@asynccontextmanager
async def child_of(owner: Process) -> AsyncGenerator[str]:
    """A forked child, which lives on; what its parent's store said to it."""
    owner.tell("fork")
    said = sorted(
        [await owner.line(), await owner.line()]
    )  # the parent and the child speak at once
    child = next(int(line.split()[1]) for line in said if line.startswith("child "))
    try:
        yield next(line for line in said if not line.startswith("child "))
    finally:
        os.kill(child, signal.SIGKILL)


async def test_the_lock_of_a_dead_owner_does_not_live_on_in_its_child(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with running(path) as owner, opened(path) as scenario:
        await owner.ask("claim")
        assert await owner.ask("commit order 0") == "applied"
        async with child_of(owner):
            owner.process.kill()
            await owner.process.wait()
            assert await scenario.claim() == {"default/0": Claim(2, clean=False)}
            await scenario.applied("order", 1)


async def test_the_child_of_a_living_owner_takes_nothing_from_it(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with running(path) as owner, opened(path) as client:
        await owner.ask("claim")
        async with child_of(owner):
            pass
        assert await owner.ask("commit order 0") == "applied"
        await client.accepted(client.message("order"))
        assert await owner.ask("hint") == "order"


async def test_a_child_is_told_to_open_the_store_anew(tmp_path: Path) -> None:
    async with running(tmp_path / "a.db") as owner:
        await owner.ask("claim")
        async with child_of(owner) as said:
            assert said.startswith("StoreUnavailable")
            assert "was opened before this process was forked; open it anew" in said


async def test_a_client_finds_the_next_owner_although_a_child_of_the_last_one_lives(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.db"
    async with running(path) as owner, opened(path) as client, opened(path) as successor:
        await owner.ask("claim")
        await client.accepted(client.start("early"))
        assert await owner.ask("hint") == "early"
        async with child_of(owner):
            owner.process.kill()
            await owner.process.wait()
            await successor.claim()
            hints = successor.store.hints()
            await client.accepted(client.start("order"))
            async with asyncio.timeout(20):
                assert (await anext(hints)).unit == "order"
