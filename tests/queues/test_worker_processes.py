"""Workers and owners as processes of their own: killed, stopped, continued and asked to end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from engine import postgres_world, until

from perdure import Client
from perdure.moving import move

PROGRAM = Path(__file__).with_name("rendering.py")
LONG_S = 90.0
WORKER = ("--queues", "gpu", "--no-shards")
OWNER = ("--queues", "")


class Place:
    """A store, the processes on it, and the notes of their activities."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.notes = folder / "notes.txt"
        self._logs = folder
        self.running: list[subprocess.Popen[bytes]] = []

    async def serve(self, name: str, *options: str) -> subprocess.Popen[bytes]:
        """A process that serves, once it is ready."""
        environment = os.environ | {
            "RENDERING_NOTES": str(self.notes),
            "PERDURE_TASK_LEASE_MS": "1500",
            "PERDURE_RESCAN_MS": "300",
            "PERDURE_LEASE_MS": "2000",
        }
        command = [sys.executable, "-m", "perdure", "serve", f"{PROGRAM}:app"]
        command += ["--store", self.url, "--name", name, *options]
        ready = self._logs / f"{name}.out"
        with ready.open("wb") as out, (self._logs / f"{name}.err").open("wb") as err:
            process = subprocess.Popen(command, stdout=out, stderr=err, env=environment)
        self.running.append(process)

        def has_begun() -> bool:
            return b"ready" in ready.read_bytes() or process.poll() is not None

        # An interpreter starts, and a store is made: that takes long on a busy machine.
        await until(has_begun, f"{name} is ready", LONG_S)
        assert process.poll() is None, self.log(name)
        return process

    def log(self, name: str) -> str:
        """What a process has logged."""
        return (self._logs / f"{name}.err").read_text()

    def noted(self) -> Counter[str]:
        """How often each thing was noted."""
        if not self.notes.exists():
            return Counter()
        return Counter(line.split()[0] for line in self.notes.read_text().splitlines())

    def end(self) -> None:
        """End all that still run."""
        for process in self.running:
            if process.poll() is None:
                process.kill()
                process.wait()


@pytest.fixture(params=["sqlite", "postgres"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    if request.param == "sqlite":
        made = Place(f"sqlite:///{tmp_path}/films.db", tmp_path)
        yield made
        made.end()
        return
    async with postgres_world() as world:
        made = Place(str(world.store), tmp_path)
        yield made
        made.end()


@pytest.mark.timeout(240)
async def test_killed_workers_lose_nothing_and_double_nothing(place: Place) -> None:
    await place.serve("owner", *OWNER)
    first = await place.serve("first", *WORKER)
    second = await place.serve("second", *WORKER)
    names = [f"film-{n}" for n in range(12)]
    async with Client.open(place.url) as client:
        handles = [client.workflow("film", id=name) for name in names]
        for name, handle in zip(names, handles, strict=True):
            await handle.start(name, 20)
        for victim, count in ((first, 40), (second, 120)):
            await until(lambda count=count: len(place.noted()) > count, "some frames")  # type: ignore[misc]
            victim.kill()
            await place.serve(f"after-{count}", *WORKER)
        for name, handle in zip(names, handles, strict=True):
            expected = [f"{name}/{frame}" for frame in range(20)]
            assert await handle.result(timeout=LONG_S) == expected
        noted = place.noted()
        assert len(noted) == 240
        # What a killed worker had runs again: at most 20 on each of the two.
        assert sum(noted.values()) <= 240 + 40
        assert await client.queues() == {}


@pytest.mark.timeout(240)
async def test_a_stopped_worker_loses_its_task_and_its_late_result(place: Place) -> None:
    await place.serve("owner", *OWNER)
    stopped = await place.serve("stopped", *WORKER)
    async with Client.open(place.url) as client:
        handle = client.workflow("long_take", id="take")
        await handle.start(1.0)
        await until(lambda: place.noted()["begun/1"] == 1, "the first attempt")
        stopped.send_signal(signal.SIGSTOP)
        other = await place.serve("other", *WORKER)
        assert await handle.result(timeout=LONG_S) == other.pid
        stopped.send_signal(signal.SIGCONT)

        def is_told() -> bool:
            log = place.log("stopped")
            return "was dropped" in log or "is not this node's any more" in log

        await until(is_told, "the log of the stopped worker")
        # It works again.
        other.kill()
        again = client.workflow("long_take", id="again")
        await again.start(0.0)
        assert await again.result(timeout=LONG_S) == stopped.pid
        assert place.noted()["begun/2"] == 1


@pytest.mark.timeout(240)
async def test_a_worker_that_is_asked_to_end_gives_its_task_back(place: Place) -> None:
    await place.serve("owner", *OWNER)
    ending = await place.serve("ending", *WORKER, "--grace", "0")
    async with Client.open(place.url) as client:
        handle = client.workflow("long_take", id="take")
        await handle.start(3.0)
        await until(lambda: place.noted()["begun/1"] == 1, "the attempt")
        ending.terminate()
        assert await asyncio.to_thread(ending.wait, 30) == 0
        other = await place.serve("other", *WORKER)
        assert await handle.result(timeout=LONG_S) == other.pid
        assert place.noted() == Counter({"begun/1": 2})


@pytest.mark.timeout(240)
async def test_a_killed_owner_finds_the_results_of_its_tasks(place: Place) -> None:
    owner = await place.serve("owner", *OWNER)
    worker = await place.serve("worker", *WORKER)
    async with Client.open(place.url) as client:
        handle = client.workflow("long_take", id="take")
        await handle.start(2.0)
        await until(lambda: place.noted()["begun/1"] == 1, "the attempt")
        owner.kill()
        owner.wait()
        await place.serve("next", *OWNER)
        assert await handle.result(timeout=LONG_S) == worker.pid
        assert place.noted() == Counter({"begun/1": 1})


@pytest.mark.timeout(240)
async def test_the_scale_counts_what_workers_run(place: Place) -> None:
    """They own nothing and are no members, so the store is the one that knows."""
    owner = await place.serve("owner", *OWNER)
    await place.serve("worker", *WORKER)
    async with Client.open(place.url) as client:
        handle = client.workflow("long_take", id="take")
        await handle.start(60.0)
        await until(lambda: place.noted()["begun/1"] == 1, "the task")
        asked = ["scale", "--json", "--store", place.url]
        found = await asyncio.to_thread(
            subprocess.check_output, [sys.executable, "-m", "perdure", *asked]
        )
        scale = json.loads(found)
        assert (scale["tasks"], scale["busy"], scale["load"]) == (0, 1, 1)
        queue = scale["queues"]["gpu"]
        assert (queue["backlog"], queue["busy"], queue["load"]) == (0, 1, 1)
        await handle.terminate()
    owner.terminate()


@pytest.mark.timeout(240)
async def test_a_worker_says_that_its_store_has_moved(tmp_path: Path) -> None:
    place = Place(f"sqlite:///{tmp_path}/films.db", tmp_path)
    try:
        owner = await place.serve("owner", *OWNER)
        await place.serve("worker", *WORKER)
        owner.terminate()
        await asyncio.to_thread(owner.wait)
        await move(place.url, f"sqlite:///{tmp_path}/new.db")

        def has_said() -> bool:
            # Lines of the log are folded where they are too long.
            log = "".join(place.log("worker").split())
            return f"hasmovedtosqlite:///{tmp_path}/new.db" in log

        await until(has_said, "its log")
    finally:
        place.end()
