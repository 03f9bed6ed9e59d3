"""Hints: none is dropped while both ends live, however many there are and however slow the other end is."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from perdure.store import open_store
from perdure.store.sqlite.hint import socket_path
from perdure.store.sqlite.lock import is_owned
from perdure.testing.conformance import Scenario

sys.path.insert(0, str(Path(__file__).parent))

from others import opened, running

MANY = 12_000


async def test_a_slow_listener_hears_of_each_unit_once(tmp_path: Path) -> None:
    async with open_store("memory://") as memory, open_store("sqlite://") as file:
        for store in (memory, file):
            scenario = Scenario(store)
            hints = store.hints()
            units = [f"unit-{number}" for number in range(MANY)]
            for first in range(0, MANY, 1_000):
                some = units[first : first + 1_000]
                await scenario.post(*[scenario.start(unit) for unit in some])
                await scenario.post(scenario.message(some[0]))
            async with asyncio.timeout(60):
                assert [(await anext(hints)).unit for _ in units] == units


async def test_a_listener_of_another_event_loop_hears_too(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as scenario:
        hints = scenario.store.hints()

        async def post() -> None:
            await scenario.accepted(scenario.start("order"))

        hears = asyncio.ensure_future(anext(hints))
        await asyncio.to_thread(asyncio.run, post())
        async with asyncio.timeout(20):
            assert (await hears).unit == "order"


POST_AND_END = """
import asyncio, sys
from perdure.store import open_store
from perdure.testing.conformance import Scenario

async def main(url, count):
    async with open_store(url) as store:
        scenario = Scenario(store)
        await asyncio.gather(*(scenario.accepted(scenario.start(f"unit-{n}")) for n in range(count)))

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


async def test_what_a_process_posts_before_it_ends_is_heard_by_an_owner_that_stands_still(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.db"
    async with running(path) as owner:
        await owner.ask("claim")
        for version in range(2):  # with the second answer it has nothing left to do in the file
            assert await owner.ask(f"commit order {version}") == "applied"
        os.kill(owner.pid, signal.SIGSTOP)
        command = [sys.executable, "-c", POST_AND_END, f"sqlite:///{path}", "2000"]
        await asyncio.to_thread(subprocess.run, command, check=True, timeout=60)
        os.kill(owner.pid, signal.SIGCONT)
        assert await owner.ask("hints 2000") == "2000"


def answers(path: Path) -> bool:
    """Whether an owner listens."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(socket_path(str(path)))) == 0


async def test_hints_to_a_dead_owner_go_to_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with running(path) as first, running(path, "second") as second, opened(path) as client:
        await first.ask("claim")
        await client.accepted(client.start("early"))
        assert await first.ask("hint") == "early"
        first.process.kill()
        deadline = time.monotonic() + 20
        # This event loop must not see yet that its connection is closed. The socket closes before the locks do.
        while answers(path) or is_owned(str(path)):
            assert time.monotonic() < deadline
        second.tell("claim")
        while not answers(path):
            assert time.monotonic() < deadline
        for number in range(20):
            await client.accepted(client.start(f"unit-{number}"))
        assert (await second.line()).startswith("claimed")
        assert await second.ask("hints 20") == "20"


async def test_the_end_of_an_owner_with_unread_hints_is_no_fault_of_the_socket(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.db"
    async with running(path) as owner:
        await owner.ask("claim")
        async with opened(path) as scenario:
            await scenario.accepted(scenario.start("order"))
            change = asyncio.create_task(scenario.store.wait_change("order", 0, 1_000))
            await asyncio.sleep(0)
            os.kill(owner.pid, signal.SIGSTOP)
            # A kill with bytes unread resets the connection, and does not only end it.
            await scenario.accepted(scenario.message("order"))
            os.kill(owner.pid, signal.SIGKILL)
            await change
    assert caplog.messages == []
