"""A node without its store freezes: it answers nothing, forgets nothing, and goes on when it can."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import TypeVar

import pytest
from engine import until

from perdure import App, Node, NodeOptions, workflow
from perdure.errors import NotFound, StoreUnavailable
from perdure.kernel.data.commit import Commit, Fence, Verdict
from perdure.kernel.data.message import Message
from perdure.ports.store import InboxPart, Loaded, Page, Posted, Query, Wake
from perdure.store.memory import MemoryStore
from perdure.testing.virtual_time import VirtualTime, run_virtually

T = TypeVar("T")

OUTAGE_S = 60
"""How long the store is away."""

SOON_S = 5
"""How soon after that everything must go on."""

RETRY_MS = 2_000

MANY_TRIES = 100_000
"""The node asks its store again long before these."""


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

    async def inbox(self, unit: str, after: str | None, limit: int) -> InboxPart:
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

    async def release(self, fences: Sequence[Fence]) -> list[str]:
        self._check()
        return await super().release(fences)

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

    async def main(virtual: VirtualTime) -> None:
        gates.append(asyncio.Event())
        counted.clear()
        options = NodeOptions(store_retry_ms=RETRY_MS, residents=residents, stop_ms=0)
        async with (
            Away() as store,
            Node(app, store, options=options, clock=virtual.clock()) as node,
        ):
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
    assert not [text for text in texts if " 0.0 s" in text], "no report names a time of zero"


def test_a_frozen_node_can_be_stopped_and_the_next_one_goes_on() -> None:
    async def main(virtual: VirtualTime) -> None:
        options = NodeOptions(store_retry_ms=RETRY_MS, stop_ms=0)
        async with Away() as store:
            node = Node(app, store, options=options, clock=virtual.clock())
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
            async with Node(app, store, options=options, clock=virtual.clock()) as after:
                for number in (2, 3):
                    await after.client.get("hears").send("n", number)
                assert await after.client.get("hears").result(timeout=5) == [1, 2, 3]

    run_virtually(main)


async def store_of_hearers(store: Away, ids: Sequence[str]) -> None:
    """Leave instances of `hears` in the store, none of them in memory."""
    async with Node(app, store, options=NodeOptions(stop_ms=0)) as node:
        for unit in ids:
            await node.client.workflow(hears, id=unit).start()


def test_a_start_that_a_frozen_node_refused_hides_no_instance() -> None:
    async def main(virtual: VirtualTime) -> None:
        options = NodeOptions(store_retry_ms=RETRY_MS, residents=1, stop_ms=0)
        async with Away() as store:
            await store_of_hearers(store, ["sent-to", "cancelled", "deleted"])
            async with Node(app, store, options=options, clock=virtual.clock()) as node:
                client = node.client
                for number in range(3):  # so that those three have left memory
                    await client.workflow(hears, id=f"other-{number}").start()
                store.away = True
                with pytest.raises(StoreUnavailable):
                    await client.workflow(hears, id="first").start()
                for unit in ("sent-to", "cancelled", "deleted", "new"):
                    with pytest.raises(StoreUnavailable, match="nothing was done"):
                        await client.workflow(hears, id=unit).start()
                store.away = False
                await until(lambda: set(node.scopes.values()) == {"serving"}, "the thaw")
                for number in (1, 2, 3):
                    await client.get("sent-to").send("n", number)
                assert await client.get("sent-to").result(timeout=5) == [1, 2, 3]
                await client.get("cancelled").cancel()
                assert (await client.get("cancelled").wait(timeout=5)).status == "cancelled"
                assert await client.get("deleted").delete(force=True) == 1
                with pytest.raises(NotFound):
                    await client.get("new").send("n", 1)

    run_virtually(main)


class Crowded(Away):
    """A store with senders at the worst moments: right before a failure, right after an answer."""

    def __init__(self) -> None:
        super().__init__()
        self.before_failure: Callable[[], Coroutine[object, object, None]] | None = None
        self.after_answer: Callable[[], Coroutine[object, object, None]] | None = None
        self.senders: list[asyncio.Task[None]] = []

    async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        if self.away and self.before_failure is not None:
            self.senders.append(asyncio.create_task(self.before_failure()))
            await asyncio.sleep(0)  # it has sent when this returns
        verdicts = await super().commit(batch)
        if self.after_answer is not None:
            self.senders.append(asyncio.create_task(self.after_answer()))
            self.after_answer = None
            await asyncio.sleep(0)  # it sends as soon as the node has the answer
        return verdicts


def test_a_start_that_the_freeze_found_waiting_hides_no_instance() -> None:
    """Its unit was taken to be new, and the store knew better."""

    async def main(virtual: VirtualTime) -> None:
        ids = [f"known-{number}" for number in range(20)]
        options = NodeOptions(store_retry_ms=RETRY_MS, residents=1, stop_ms=0)
        async with Crowded() as store:
            await store_of_hearers(store, ids)
            async with Node(app, store, options=options, clock=virtual.clock()) as node:
                client = node.client
                for number in range(3):  # so that the others have left memory
                    await client.workflow(hears, id=f"other-{number}").start()
                asked: list[str] = []
                refused: list[str] = []

                async def join() -> None:
                    unit = ids[len(asked)]
                    asked.append(unit)
                    with pytest.raises(StoreUnavailable) as error:
                        await client.workflow(hears, id=unit).start()
                    if error.value.outcome == "none":
                        refused.append(unit)

                async def send() -> None:
                    await asyncio.sleep(0)
                    for unit in refused:
                        await client.get(unit).send("n", 1)

                store.before_failure = join
                store.away = True
                with pytest.raises(StoreUnavailable):
                    await client.workflow(hears, id="first").start()
                await until(lambda: set(node.scopes.values()) == {"frozen"}, "the freeze")
                await asyncio.sleep(1)
                assert refused, "a start waited for its turn when the node froze"
                store.after_answer = send
                store.away = False
                await until(lambda: store.after_answer is None, "the answer")
                await asyncio.gather(*store.senders)

    run_virtually(main)


def test_a_sender_that_tries_again_at_once_does_not_keep_its_node_frozen() -> None:
    async def main(virtual: VirtualTime) -> None:
        options = NodeOptions(store_retry_ms=RETRY_MS, stop_ms=0)
        async with (
            Away() as store,
            Node(app, store, options=options, clock=virtual.clock()) as node,
        ):
            handle = node.client.workflow(hears, id="hears")
            await handle.start()
            store.away = True
            with pytest.raises(StoreUnavailable):
                await handle.send("n", 1)
            store.away = False
            for _ in range(MANY_TRIES):
                with suppress(StoreUnavailable):
                    await handle.send("n", 2)
                    break
            else:
                pytest.fail("the node never found that its store answers")
            await handle.send("n", 3)
            assert await handle.result(timeout=5) == [1, 2, 3]

    run_virtually(main)
