"""Hints for workers cross processes, and `perdure show` and `stats` say what waits and what runs where."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from engine import postgres_world

from perdure.cli.showing import show
from perdure.cli.stats import stats
from perdure.cli.tasks import task_lines
from perdure.kernel.data.commit import Task
from perdure.ports.store import (
    Store,
)
from perdure.ports.tasks import TaskHint
from perdure.store import open_store
from perdure.testing.conformance import Scenario
from perdure.testing.conformance.scenario import NOW, request, task, tasks_of


@pytest.fixture(params=["sqlite", "postgres"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """A store that several processes can open."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/hints.db"
        return
    async with postgres_world() as world:
        yield str(world.store)


async def _heard(hints: AsyncIterator[TaskHint], tell: Store, hint: TaskHint) -> None:
    """Tell until it is heard: the line between two stores may not stand yet."""
    hears = asyncio.ensure_future(anext(hints))
    async with asyncio.timeout(30):
        while not hears.done():
            tell.tell_workers([hint])
            await asyncio.wait([hears], timeout=0.05)
    assert hears.result() == hint


async def test_workers_of_other_processes_hear_of_tasks(url: str) -> None:
    async with open_store(url) as owner, open_store(url) as worker, open_store(url) as other:
        await Scenario(owner).claim()
        for teller, hearer, queue in (
            (owner, worker, "from the owner"),
            (worker, owner, "from a worker to the owner"),
            (worker, other, "from a worker to another"),
        ):
            await _heard(hearer.task_hints(), teller, TaskHint(queue))
        await _heard(other.task_hints(), owner, TaskHint("gpu", is_drop=True))


async def test_a_worker_hears_the_next_owner_too(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/hints.db"
    async with open_store(url) as worker:
        hints = worker.task_hints()
        for queue in ("first", "second"):
            async with open_store(url) as owner:
                await Scenario(owner).claim()
                await _heard(hints, owner, TaskHint(queue))


async def test_show_says_what_waits_and_what_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path}/show.db"
    async with open_store(url) as store:
        scenario = Scenario(store)
        await scenario.claim()
        await scenario.applied("order", tasks_added=tasks_of(scenario, "order", 1, 2))
        await store.lease(request(worker="gpu-1/ab", limit=1, lease_ms=10**15))
    assert await asyncio.to_thread(show, "order", url) == os.EX_OK
    text = capsys.readouterr().out
    assert "render, attempt 1: runs on gpu-1/ab since " in text
    assert "render, attempt 1: waits for queue gpu since " in text
    await asyncio.to_thread(show, "order", url, as_json=True)
    one, two = json.loads(capsys.readouterr().out)["tasks"]
    assert (one["seq"], one["worker"], one["queue"]) == (1, "gpu-1/ab", "gpu")
    assert (two["seq"], two["worker"], two["attempt"]) == (2, None, 1)
    await asyncio.to_thread(stats, url)
    table = capsys.readouterr().out
    assert "oldest" in table
    await asyncio.to_thread(stats, url, as_json=True)
    depth = json.loads(capsys.readouterr().out)["queues"]["gpu"]
    assert (depth["visible"], depth["leased"]) == (1, 1)
    assert depth["oldest_ms"] > 0


async def test_lines_about_tasks() -> None:
    async with open_store("memory://") as store:
        scenario = Scenario(store)
        made = [task(scenario, "order", seq, visible_at=NOW - 2_000) for seq in range(12)]
        lines = task_lines(made, NOW)
        assert lines[0] == "render, attempt 1: waits for queue gpu since 2 s"
        assert lines[10:] == ["and 2 others"]
        later: Task = task(scenario, "order", visible_at=NOW + 5_000)
        lost: Task = task(scenario, "order", worker="w", leased_at=NOW - 9_000, expires_at=NOW)
        assert task_lines([later, lost], NOW) == [
            "render, attempt 1: for queue gpu in 5 s",
            "render, attempt 1: its worker w was lost",
        ]
