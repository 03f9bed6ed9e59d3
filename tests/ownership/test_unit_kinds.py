"""Units of other kinds than workflows: the node asks a registry, and knows none of them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from logging import LogRecord
from typing import Any

import msgspec
import pytest
from engine import until

from perdure import App, Node, NodeOptions
from perdure.errors import Failure, StoreUnavailable
from perdure.kernel.data.commit import Commit, Fence, StatePart, UnitRow, Verdict
from perdure.kernel.data.loaded import Loaded
from perdure.kernel.data.message import Message, Raise, Send
from perdure.kernel.data.placement import scope_of
from perdure.kernel.unit.budget import Budget
from perdure.kernel.unit.kinds import Kinds, Unit
from perdure.kernel.unit.mailbox import Mailbox
from perdure.kernel.unit.turn import Turn
from perdure.node.ownership.ownership import Ownership
from perdure.node.queues.routes import Routes
from perdure.ports.store import Inbox, Store, Units
from perdure.store.memory import MemoryStore


class Sums:
    """A unit that adds up what is sent to it, each in a turn with work before its commit."""

    kind = "sum"
    held: Failure | None = None
    lacks = ""
    idle = True
    only_sleeps = False
    is_poison = False
    keeps_messages = False

    def __init__(self, unit: str, gate: asyncio.Event, log: list[str]) -> None:
        self.id = unit
        self.version = 0
        self.row: UnitRow | None = None
        self.total = 0
        self.gate, self.log = gate, log

    def load(self, found: Loaded, *, released: bool = False) -> None:
        self.version, self.row = found.version, found.row
        for part in found.state:
            self.total = int(part.data or b"0")

    def advance(
        self,
        mailbox: Mailbox,
        now: int,
        fence: Fence,
        commit_id: bytes,
        is_spent: Callable[[], bool],
    ) -> Turn | Working:
        turn = Turn(self.id, now, Budget(100, 1_000_000, is_spent), 1, fence.scope)
        if not mailbox.queue:
            return turn
        if self.row is None:
            scope = scope_of(self.id, 1)
            self.row = UnitRow(
                self.id, scope, "sum", "sum", "1.0.0", os.urandom(16), created_at=now
            )
            self.row.begin("1.0.0", now)
            self.row.become("running", None, None, None)
        return Working(self, turn, mailbox, fence, commit_id)

    def follow(self, commit: Commit) -> None:
        self.version = commit.expect + 1

    def hold(self, why: Failure) -> None:
        self.held = why

    def suspect_of(self, crashes: int) -> None:
        assert self.row is not None
        self.row.suspect_of(crashes)

    def close_memory(self) -> None:
        self.log.append("closed")

    def take_logs(self) -> Sequence[LogRecord]:
        return ()

    def where(self) -> str | None:
        return None


@dataclass
class Working:
    unit: Sums
    turn: Turn
    mailbox: Mailbox
    fence: Fence
    commit_id: bytes

    async def finish(self) -> Turn:
        self.unit.log.append("works")
        await self.unit.gate.wait()
        row = self.unit.row
        assert row is not None
        while self.mailbox.queue:
            entry = self.mailbox.next()
            assert isinstance(entry.message.body, Send | Raise)
            value = int(entry.message.body.value)
            if value < 0:
                raise ValueError(value)
            self.unit.total += value
            self.turn.consume(entry)
        self.turn.touch()
        self.turn.pack(row, self.unit.version, self.fence, self.commit_id, 1_000)
        assert self.turn.commit is not None
        self.turn.commit.state = [StatePart("total", b"%d" % self.unit.total)]
        self.unit.version += 1
        return self.turn


class SumNode(Node):
    """A node that knows one more kind."""

    gate: asyncio.Event
    log: list[str]

    def _kinds(self, store: Store, routes: Routes, ownership: Ownership) -> Kinds:
        known = super()._kinds(store, routes, ownership)
        return Kinds(
            {
                "workflow": lambda unit: known.make("workflow", unit),
                "sum": lambda unit: Sums(unit, self.gate, self.log),
            },
            {Send: "sum"},
        )


def sum_node(app: App, store: Store, **options: Any) -> SumNode:
    node = SumNode(app, store, options=NodeOptions(stop_ms=0, **options))
    node.gate, node.log = asyncio.Event(), []
    return node


def send(unit: str, value: int) -> Message:
    return Message(os.urandom(16), unit, Send("n", b"%d" % value), 0)


async def test_a_turn_works_before_its_commit_and_the_next_one_waits_for_it(app: App) -> None:
    async with MemoryStore() as store, sum_node(app, store) as node:
        first = asyncio.ensure_future(node.gateway.send(send("s", 1)))
        await until(lambda: node.log == ["works"], "the work of the first turn")
        second = asyncio.ensure_future(node.gateway.send(send("s", 2)))
        await asyncio.sleep(0)
        assert not first.done()
        assert (await store.query(Units(ids=("s",)))).items == [], "nothing is stored before"
        node.gate.set()
        assert await first == await second == "ok"
        (found,) = await store.load(["s"])
        assert [part.data for part in found.state] == [b"3"]
        assert found.row is not None
        assert found.row.kind == "sum"


async def test_its_state_is_loaded_by_the_next_node(app: App) -> None:
    async with MemoryStore() as store:
        for value in (1, 2, 3):
            async with sum_node(app, store) as node:
                node.gate.set()
                assert await node.gateway.send(send("s", value)) == "ok"
        (found,) = await store.load(["s"])
        assert [part.data for part in found.state] == [b"6"]


async def test_work_that_fails_discards_its_turn(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    async with MemoryStore() as store, sum_node(app, store, turn_failures=1_000) as node:
        node.gate.set()
        assert await node.gateway.send(send("s", 1)) == "ok"
        sent = asyncio.ensure_future(node.gateway.send(send("s", -1)))
        await until(lambda: node.metrics.turn_failures >= 2, "turns that fail")
        assert not sent.done()
        (found,) = await store.load(["s"])
        assert [part.data for part in found.state] == [b"1"]
    assert "the work of a turn failed" in caplog.text


class Away(MemoryStore):
    """A store that can be away: it takes no commit then."""

    away = False

    async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        if self.away:
            raise StoreUnavailable("the store is away")
        return await super().commit(batch)


async def test_work_that_ends_while_the_node_is_frozen_is_committed_after_the_thaw(
    app: App,
) -> None:
    async with Away() as store, sum_node(app, store, store_retry_ms=0) as node:
        node.gate.set()
        assert await node.gateway.send(send("s", 1)) == "ok"
        node.gate.clear()
        message = send("s", 2)
        message.scope = scope_of("s", 1)
        await store.post([message])
        await until(lambda: node.log == ["works"] * 2, "the work of the second turn")
        store.away = True
        with pytest.raises(StoreUnavailable):
            await node.client.workflow("absent", id="other").start()
        assert set(node.scopes.values()) == {"frozen"}
        node.gate.set()
        await until(lambda: not _works(), "the end of the work")
        assert _total(store) == b"1"
        store.away = False
        await until(lambda: _total(store) == b"3", "the commit of the second turn")
        assert node.log == ["works"] * 2, "the unit stayed, and its work was done once"


async def test_a_stop_gives_the_work_of_a_turn_up(app: App) -> None:
    async with MemoryStore() as store:
        async with sum_node(app, store) as node:
            sent = asyncio.ensure_future(node.gateway.send(send("s", 1)))
            await until(lambda: node.log == ["works"], "the work of the turn")
        assert isinstance(await asyncio.gather(sent, return_exceptions=True), list)
        assert (await store.query(Units(ids=("s",)))).items == []


async def test_a_kind_that_this_release_does_not_know_is_held_and_loses_nothing(app: App) -> None:
    async with MemoryStore() as store:
        async with sum_node(app, store) as node:
            node.gate.set()
            assert await node.gateway.send(send("s", 1)) == "ok"
        async with Node(app, store, options=NodeOptions(stop_ms=0)) as old:
            assert await old.gateway.send(send("s", 5)) == "ok"
            assert await old.gateway.send(send("s", 6)) == "ok"
            found = await old.client.get("s").describe()
            assert (found.status, found.reason) == ("suspended", "not_registered")
            assert found.failure is not None
            assert "kind 'sum'" in found.failure.message
            waiting = (await store.query(Inbox(unit="s"))).items
            assert [msgspec.convert(m.body.value, bytes) for m in waiting] == [b"5", b"6"]  # type: ignore[union-attr]
        async with sum_node(app, store) as node:
            node.gate.set()
            await until(lambda: _total(store) == b"12", "the messages that waited")


def _works() -> bool:
    return any(task.get_name() == "perdure-stage" for task in asyncio.all_tasks())


def unknown(**row: Any) -> Unit:
    """A unit of a kind that nobody has registered, with a row of its own."""
    unit = Kinds({}, {}).make("sum", "s")
    stored = UnitRow("s", scope_of("s", 1), "sum", "sum", "1.0.0", b"run", **row)
    unit.load(Loaded("s", 3, stored))
    return unit


def advanced(unit: Unit, *values: int) -> Turn:
    mailbox = Mailbox()
    for value in values:
        mailbox.put(send("s", value), stored=False)
    turn = unit.advance(mailbox, 5, Fence(scope_of("s", 1), 1, "node"), b"commit", lambda: False)
    assert isinstance(turn, Turn)
    return turn


def test_a_unit_of_an_unknown_kind_that_is_not_stored_writes_nothing() -> None:
    unit = Kinds({}, {}).make("sum", "s")
    turn = advanced(unit, 1)
    assert (unit.version, unit.row, turn.commit) == (0, None, None)


def test_a_crash_is_counted_in_the_row_of_an_unknown_kind_once() -> None:
    unit = unknown()
    assert advanced(unit).commit is not None, "that it is held"
    assert advanced(unit).commit is None, "nothing has changed"
    unit.suspect_of(2)
    counted = advanced(unit).commit
    assert counted is not None
    assert counted.row.suspect == 2
    assert (counted.expect, unit.version) == (4, 5)
    assert advanced(unit).commit is None


def test_a_follower_of_an_unknown_kind_takes_the_row_over() -> None:
    leader, copy = unknown(), unknown()
    commit = advanced(leader, 1).commit
    assert commit is not None
    copy.follow(commit)
    assert (copy.row, copy.version) == (commit.row, leader.version)
    assert copy.row is not commit.row, "the leader's row lives on"
    assert advanced(copy).commit is None, "the row says already why nothing goes on"
    copy.follow(msgspec.structs.replace(commit, delete=0))
    assert (copy.row, copy.version) == (None, 0)


def test_an_ended_unit_of_an_unknown_kind_stays_as_it_is() -> None:
    unit = unknown(status="completed")
    turn = advanced(unit)
    assert turn.closed
    assert turn.commit is None


def _total(store: MemoryStore) -> bytes | None:
    unit = store._tables.units["s"]
    return unit.state["total"].data
