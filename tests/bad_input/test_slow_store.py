"""A store that cannot take a batch is asked again, with the same commits, for as long as the option says."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from engine import until

from perdure import App, Node, NodeOptions
from perdure.errors import StoreUnavailable
from perdure.kernel.data.commit import Commit, Verdict
from perdure.store.memory import MemoryStore

app = App("slow")


@app.workflow
async def plain(n: int) -> int:
    return n


class Refusing(MemoryStore):
    """Refuses the first batches ("none"), or loses the answers to them ("unknown")."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[list[bytes]] = []
        self.refused: list[str | None] = []
        self.takes_s = 0.0
        self.permanent = False

    def commit(self, batch: Sequence[Commit]) -> asyncio.Future[list[Verdict]]:
        return asyncio.ensure_future(self._commit(batch))

    async def _commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        self.given.append([commit.id for commit in batch])
        outcome = self.refused.pop(0) if self.refused else None
        if outcome is None:
            return await super().commit(batch)
        await asyncio.sleep(self.takes_s)
        if outcome == "unknown":
            await super().commit(batch)
            raise StoreUnavailable("the answer was lost", "unknown", permanent=self.permanent)
        raise StoreUnavailable("it is locked", "none", permanent=self.permanent)


def options(retry_ms: int) -> NodeOptions:
    return NodeOptions(store_retry_ms=retry_ms)


async def refused(store: Refusing, retry_ms: int) -> StoreUnavailable:
    """What the sender is told whose message the store does not take."""
    async with Node(app, store, options=options(retry_ms)) as node:
        with pytest.raises(StoreUnavailable) as caught:
            await node.client.workflow(plain, id="a").run(1)
        store.refused.clear()
        await until(lambda: set(node.scopes.values()) == {"serving"}, "the node goes on")
        assert await node.client.get("a").result(timeout=30) == 1
    return caught.value


async def test_the_time_of_a_try_counts() -> None:
    async with Refusing() as store:
        store.refused, store.takes_s = ["none"] * 20, 0.3
        await refused(store, 200)
        assert len(store.given) <= 4, "the sender was told after the first try, which took too long"


async def test_a_lost_answer_is_settled_by_the_identical_commit() -> None:
    async with Refusing() as store:
        store.refused = ["unknown", "none", "none"]
        async with Node(app, store, options=options(20_000)) as node:
            assert await node.client.workflow(plain, id="a").run(1) == 1
        assert store.given[0] == store.given[1] == store.given[2] == store.given[3]


async def test_a_sender_who_is_told_late_is_told_that_the_outcome_is_unknown() -> None:
    """The commit is still on its way: it may be recorded when the store answers."""
    async with Refusing() as store:
        store.refused = ["none"] * 20
        assert (await refused(store, 100)).outcome == "unknown"


async def stopped_by(store: Refusing) -> StoreUnavailable:
    """What a node stops with whose store says that it will never answer."""
    node = Node(app, store, options=options(100))
    await node.start()
    with pytest.raises(StoreUnavailable):
        await node.client.workflow(plain, id="a").run(1)
    with pytest.raises(StoreUnavailable) as caught:
        await node.wait_ended()
    return caught.value


async def test_a_lost_answer_stays_unknown_when_later_tries_are_refused_for_sure() -> None:
    async with Refusing() as store:
        store.refused, store.permanent = ["unknown", *["none"] * 20], True
        assert (await stopped_by(store)).outcome == "unknown"


async def test_what_was_never_taken_is_known_not_to_be() -> None:
    async with Refusing() as store:
        store.refused, store.permanent = ["none"] * 20, True
        assert (await stopped_by(store)).outcome == "none"
