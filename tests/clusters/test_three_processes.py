"""Three `perdure serve` on one PostgreSQL server, of which one is killed, stopped, or cut off."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from counted_steps import NOTES, steps
from engine import until
from postgres_server import new_server, server_url

from perdure import Client, Timeout
from perdure.client.workflow_handle import WorkflowHandle
from perdure.cluster.postgres import PostgresCluster
from perdure.kernel.data.events import ActivityCompleted
from perdure.kernel.data.placement import scope_of
from perdure.ports.store import Scopes
from perdure.store import open_store

APP = Path(__file__).with_name("counted_steps.py")
LEASE_MS = 2_000
INSTANCES = 60
DEADLINE_S = 60

Handles = list[WorkflowHandle[[str, int], int]]


class Served:
    """A process that serves the app."""

    def __init__(self, url: str, name: str, notes: Path, errors: Path) -> None:
        command = [sys.executable, "-m", "perdure", "serve", f"{APP}:app", "--store", url]
        environment = dict(os.environ) | {
            NOTES: str(notes),
            "PERDURE_LEASE_MS": str(LEASE_MS),
            "PERDURE_HANDOVER_MS": "1000",
        }
        self.name = name
        self.errors = errors
        with errors.open("w") as stderr:
            self.process = subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True
            )

    def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline(), self.errors.read_text()

    def end(self) -> int:
        """End it in order, if it lives."""
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.communicate(timeout=30)
        return self.process.returncode


class World:
    """A store, and processes that serve it."""

    def __init__(self, server: str, folder: Path) -> None:
        self.schema = f"three_{uuid.uuid4().hex[:12]}"
        self.server = server
        self.url = f"{server}?schema={self.schema}"
        self.notes = folder / "notes"
        self.notes.touch()
        self.served: list[Served] = []
        self._folder = folder

    def serve(self, count: int) -> None:
        new = [
            Served(self.url, f"node-{n}", self.notes, self._folder / f"errors-{n}")
            for n in range(len(self.served), len(self.served) + count)
        ]
        self.served += new
        for one in new:
            one.wait_until_ready()

    def steps_by(self, process: int) -> int:
        """The steps that a process has taken."""
        return sum(line.startswith(f"{process} ") for line in self._lines())

    def _lines(self) -> list[str]:
        return self.notes.read_text().splitlines()

    @contextmanager
    def ended(self) -> Iterator[None]:
        try:
            yield
        finally:
            for one in self.served:
                one.process.send_signal(signal.SIGCONT)
                one.process.kill()
                one.process.communicate()

    async def describe(self, client: Client, handles: Handles) -> str:
        """What has not ended, where, and what the processes have said."""
        lines = [f"members: {sorted(await self.members())}"]
        async with open_store(self.url) as store:
            for handle in handles:
                found = await handle.describe()
                if found.status != "completed":
                    scope = scope_of(handle.id, store.info.shards)
                    (claim,) = (await store.query(Scopes(scopes=(scope,)))).items
                    lines.append(f"{found}\n  {claim}")
        for one in self.served:
            lines.append(f"{one.name} ({one.process.pid}): {one.errors.read_text()}")
        return "\n".join(lines)

    async def members(self) -> set[str]:
        async with PostgresCluster(self.server, self.schema) as cluster:
            return {seen.member.incarnation.id for seen in (await cluster.view()).members}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(server_url(), tmp_path)
    with made.ended():
        yield made


@pytest.fixture
async def client(world: World) -> AsyncIterator[Client]:
    await asyncio.to_thread(world.serve, 3)
    async with Client.open(world.url) as opened:
        yield opened


async def started(client: Client, count: int) -> Handles:
    handles = [client.workflow(steps, id=f"w{n}") for n in range(INSTANCES)]
    await asyncio.gather(*(handle.start(handle.id, count) for handle in handles))
    return handles


async def check_all_ended(world: World, client: Client, handles: Handles, count: int) -> None:
    """Each has its result, and each of its steps was recorded once."""
    try:
        results = await asyncio.gather(*(handle.result(timeout=DEADLINE_S) for handle in handles))
    except Timeout:
        pytest.fail(await world.describe(client, handles))
    assert results == [count] * INSTANCES
    for handle in handles[::10]:
        events = [entry.event for entry in await handle.history()]
        assert sum(isinstance(event, ActivityCompleted) for event in events) == count


async def test_kill_9_of_one_of_three(world: World, client: Client) -> None:
    handles = await started(client, 60)
    victim = world.served[1].process

    async def has_worked() -> bool:
        return world.steps_by(victim.pid) > INSTANCES

    await until(has_worked, "steps of the process")
    victim.kill()
    victim.wait()
    await check_all_ended(world, client, handles, 60)
    assert [one.end() for one in (world.served[0], world.served[2])] == [0, 0]


@pytest.mark.long
async def test_one_that_was_stopped_for_three_leases_records_nothing_and_works_again(
    world: World, client: Client
) -> None:
    handles = await started(client, 150)
    zombie = world.served[1].process
    before = await world.members()

    async def has_worked() -> bool:
        return world.steps_by(zombie.pid) > INSTANCES

    await until(has_worked, "steps of the process")
    zombie.send_signal(signal.SIGSTOP)
    # This is the time in which nothing of it happens, and no condition.
    await asyncio.sleep(3 * LEASE_MS / 1000)
    zombie.send_signal(signal.SIGCONT)

    async def is_back() -> bool:
        now = await world.members()
        return len(now) == 3 and now != before

    await until(is_back, "its next incarnation")
    steps_before = world.steps_by(zombie.pid)
    await check_all_ended(world, client, handles, 150)
    assert world.steps_by(zombie.pid) > steps_before
    assert [one.end() for one in world.served] == [0, 0, 0]


@pytest.mark.long
async def test_the_server_stops_under_load(tmp_path: Path) -> None:
    server = new_server()
    server.start()
    world = World(server.url, tmp_path)
    with world.ended():
        await asyncio.to_thread(world.serve, 3)
        async with Client.open(world.url) as client:
            handles = await started(client, 100)

            async def has_worked() -> bool:
                return all(world.steps_by(one.process.pid) > INSTANCES for one in world.served)

            await until(has_worked, "steps of all processes")
            server.stop(signal.SIGQUIT)
            await asyncio.sleep(2 * LEASE_MS / 1000)
            server.start()
            await check_all_ended(world, client, handles, 100)
        assert [one.end() for one in world.served] == [0, 0, 0]
    server.remove()
