"""Whoever kills the process from outside, however often and whenever, makes no instance guilty: all go on at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from poisonous import Process
from test_poison import set_aside

from perdure import App, Client, Node, NodeOptions, activity
from perdure.errors import StoreUnavailable
from perdure.node.ownership.blame import Blame
from perdure.ports.store import Incarnation, Loaded, Units
from perdure.store.memory import MemoryStore

INNOCENTS = 30


async def post_work(url: str) -> None:
    async with Client.open(url) as client:
        for n in range(INNOCENTS):
            await client.workflow("innocent", id=f"innocent-{n}").start()


def start_process(url: str) -> Process:
    process = Process(url, stays=True)
    assert process.lines.recv() == "ready"
    return process


def wait_for_all(process: Process, within_s: float) -> set[str]:
    """The instances whose activities have begun, once these are all."""
    began: set[str] = set()
    deadline = time.monotonic() + within_s
    while len(began) < INNOCENTS and process.lines.poll(max(0, deadline - time.monotonic())):
        began.add(process.lines.recv())
    return began


# Trials last 0.15 s here, and a time of control 0.2 s, then 0.6 s: these kill before, within, between and after them.
@pytest.mark.parametrize("lives_s", [(0.0,) * 6, (0.1,) * 8, (0.25,) * 8, (0.7, 0.05, 0.3) * 3])
def test_nobody_is_set_aside_for_kills_from_outside(
    tmp_path: Path, lives_s: tuple[float, ...]
) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    asyncio.run(post_work(url))
    for life_s in lives_s:
        process = start_process(url)
        time.sleep(life_s)  # the kill may come at any moment
        process.kill()
    process = start_process(url)
    began = wait_for_all(process, 60)
    process.kill()
    assert len(began) == INNOCENTS
    assert asyncio.run(set_aside(url)) == []


def test_all_begin_again_within_seconds_of_the_third_kill(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    asyncio.run(post_work(url))
    for _ in range(3):
        process = start_process(url)
        assert len(wait_for_all(process, 30)) == INNOCENTS
        process.kill()
    process = start_process(url)
    assert len(wait_for_all(process, 30)) == INNOCENTS  # it took minutes when each was tried alone
    process.kill()


# ---------------------------------------------------------------- while others are still counted


class NeverThrough(MemoryStore):
    """The load of `slow` takes as long as the node lives, so that not all are ever counted."""

    over = asyncio.Event()

    async def load(self, units: Sequence[str]) -> list[Loaded]:
        if "slow" in units:
            await self.over.wait()
            raise StoreUnavailable("the node is stopping", "none")
        return await super().load(units)


async def crashes(store: MemoryStore) -> int:
    return Blame.read(await suspect(store)).crashes


async def test_a_crash_before_its_trial_is_not_the_doing_of_one_that_is_held_back() -> None:
    began: list[str] = []
    app = make_app(began)
    options = NodeOptions(loads=1)
    async with NeverThrough() as store:
        async with Node(app, store, options=options) as node:
            for name in ("a", "slow"):
                await node.client.workflow("waits", id=name).start()
            await node.stop(0)

        async def life(*, runs: bool) -> None:
            await store.claim(["default/0"], Incarnation("dead", "00"))
            began.clear()
            store.over = asyncio.Event()
            async with Node(app, store, options=options) as node:
                try:
                    async with asyncio.timeout(30):
                        while not (began or (not runs and await crashes(store) == 3)):
                            await asyncio.sleep(0.001)
                finally:
                    store.over.set()
                await node.stop(0)

        for _ in range(2):
            await life(runs=True)
        await life(runs=False)
        assert began == [], "it has been at work at three crashes, and is to be tried"
        await life(runs=True)
        assert await suspect(store) == 0


# ---------------------------------------------------------------- a start that fails


async def suspect(store: MemoryStore) -> int:
    (view,) = (await store.query(Units(ids=("a",)))).items
    return view.row.suspect


def make_app(began: list[str] | None = None) -> App:
    app = App("kills")

    @app.activity
    async def patient() -> None:
        if began is not None:
            began.append(activity.info().instance)
        await asyncio.sleep(3600)

    @app.workflow
    async def waits() -> None:
        await patient()

    return app


async def test_a_start_that_fails_after_a_crash_does_not_make_it_forgotten(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with MemoryStore() as store:
        async with Node(make_app(), store) as node:
            await node.client.workflow("waits", id="a").start()
            await node.stop(0)
        await store.claim(["default/0"], Incarnation("dead", "00"))  # its owner has not released it
        failing = make_app()

        @failing.resources
        async def broken() -> AsyncIterator[None]:
            raise RuntimeError("the database of the resources is down")
            yield

        for _ in range(2):
            with pytest.raises(RuntimeError, match="is down"):
                await Node(failing, store).start()
            assert await suspect(store) == 0, "nothing has run"
        async with Node(make_app(), store) as node:
            async with asyncio.timeout(30):
                while not await suspect(store):
                    await asyncio.sleep(0.001)
            assert await crashes(store) == 1
            async with asyncio.timeout(30):
                while any(
                    task.get_name() in ("perdure-scan", "perdure-trials")
                    for task in asyncio.all_tasks()
                ):
                    await asyncio.sleep(0.001)
            await node.stop(0)
        async with Node(make_app(), store) as node:
            await node.stop(0)
        assert await suspect(store) == 1, "those lives ended in order"
    assert caplog.messages == []
