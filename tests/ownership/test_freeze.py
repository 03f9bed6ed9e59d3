"""A node without its store freezes: it answers nothing, forgets nothing, and goes on when it can."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "chaos"))

from engine import until
from virtual_time import WallClock, run_virtually

from perdure import App, Node, NodeOptions, workflow
from perdure.errors import StoreUnavailable
from perdure.kernel.data.commit import Commit, Verdict
from perdure.kernel.data.message import Message
from perdure.ports.store import Loaded, Mail, Page, Posted, Query, Wake
from perdure.store.memory import MemoryStore

T = TypeVar("T")

OUTAGE_S = 60
"""How long the store is away."""

SOON_S = 5
"""How soon after that everything must go on."""

RETRY_MS = 2_000


class Away(MemoryStore):
    """A store that can be away: nothing is read and nothing is written."""

    away = False

    def _check(self) -> None:
        if self.away:
            raise StoreUnavailable("the store is away")

    async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        self._check()
        return await super().commit(batch)

    async def post(self, batch: Sequence[Message]) -> list[Posted]:
        self._check()
        return await super().post(batch)

    async def load(self, units: Sequence[str]) -> list[Loaded]:
        self._check()
        return await super().load(units)

    async def inbox(self, unit: str, after: str | None, limit: int) -> Mail:
        self._check()
        return await super().inbox(unit, after, limit)

    async def wakes(
        self, scopes: Sequence[str], until: int, after: str | None, limit: int
    ) -> Page[Wake]:
        self._check()
        return await super().wakes(scopes, until, after, limit)

    async def arrivals(self, scopes: Sequence[str], after: str | None, limit: int) -> Page[str]:
        self._check()
        return await super().arrivals(scopes, after, limit)

    async def query(self, query: Query[T]) -> Page[T]:
        self._check()
        return await super().query(query)


app = App("freeze")
counted: list[str] = []
gates: list[asyncio.Event] = []


@app.activity
async def count(name: str) -> str:
    counted.append(name)
    return name


@app.activity
async def wait_for_gate(name: str) -> str:
    counted.append(name)
    await gates[-1].wait()
    return name


@app.workflow(guard="off")
async def sleeps(name: str) -> str:
    await asyncio.sleep(30)
    return await count(name)


@app.workflow(guard="off")
async def calls(name: str) -> str:
    return await wait_for_gate(name)


@app.workflow(guard="off")
async def hears() -> list[int]:
    return [await workflow.receive("n", int) for _ in range(3)]


def freeze_for(main_s: float, *, residents: int) -> None:
    """Run instances of all kinds through an outage, and see that each goes on soon after it."""

    async def main(wall: WallClock) -> None:
        gates.append(asyncio.Event())
        counted.clear()
        options = NodeOptions(store_retry_ms=RETRY_MS, residents=residents, stop_ms=0)
        async with Away() as store, Node(app, store, options=options) as node:
            client = node.client
            await client.workflow(sleeps, id="sleeps").start("sleeps")
            await client.workflow(calls, id="calls").start("calls")
            hearing = client.workflow(hears, id="hears")
            await hearing.start()
            await hearing.send("n", 1)
            await until(lambda: counted == ["calls"], "the activity")
            store.away = True
            first = asyncio.ensure_future(hearing.send("n", 2))
            with pytest.raises(StoreUnavailable) as late:
                await first
            assert late.value.outcome == "unknown"
            assert set(node.scopes.values()) == {"frozen"}
            with pytest.raises(StoreUnavailable, match="nothing was done") as refused:
                await hearing.send("n", 99)
            assert refused.value.outcome == "none"
            gates[-1].set()  # its result arrives while the store is away
            await asyncio.sleep(main_s)
            assert counted == ["calls"], "a timer that came due did not start anything"
            store.away = False
            async with asyncio.timeout(SOON_S):
                assert await client.get("calls").result() == "calls"
                assert await client.get("sleeps").result() == "sleeps"
                await hearing.send("n", 3)
                assert await hearing.result() == [1, 2, 3]
            assert set(node.scopes.values()) == {"serving"}
            assert counted == ["calls", "sleeps"]

    run_virtually(main)


@pytest.mark.parametrize("residents", [1, 1_000])
def test_after_a_minute_everything_goes_on_within_five_seconds(
    residents: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "perdure.node"):
        freeze_for(OUTAGE_S, residents=residents)
    texts = [r.getMessage() for r in caplog.records if r.name == "perdure.node"]
    assert len([text for text in texts if "is frozen" in text]) == 1
    assert len([text for text in texts if "goes on" in text]) == 1
    assert len(texts) < 15, "an outage is not reported again and again"


def test_a_frozen_node_can_be_stopped_and_the_next_one_goes_on() -> None:
    async def main(wall: WallClock) -> None:
        options = NodeOptions(store_retry_ms=RETRY_MS, stop_ms=0)
        async with Away() as store:
            node = Node(app, store, options=options)
            await node.start()
            handle = node.client.workflow(hears, id="hears")
            await handle.start()
            await handle.send("n", 1)
            store.away = True
            sent = asyncio.ensure_future(handle.send("n", 2))
            await until(lambda: set(node.scopes.values()) == {"frozen"}, "the freeze")
            with pytest.raises(StoreUnavailable):
                await sent
            await asyncio.wait_for(node.stop(), RETRY_MS / 1000 + SOON_S)
            store.away = False
            async with Node(app, store, options=options) as after:
                for number in (2, 3):
                    await after.client.get("hears").send("n", number)
                assert await after.client.get("hears").result(timeout=5) == [1, 2, 3]

    run_virtually(main)
