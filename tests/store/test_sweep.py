"""A sweep removes what has expired and nothing that is still needed, and costs what it removes."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.kernel.data.commit import Answer
from perdure.kernel.data.message import Send, Start
from perdure.kernel.data.placement import scope_of
from perdure.store.limits import StoreLimits
from perdure.store.memory import MemoryStore
from perdure.store.sqlite import SQLiteStore, sweeping
from perdure.store.sqlite.database import MEMORY, Options
from perdure.testing.conformance import Scenario

LIMITS = StoreLimits(undelivered_ms=40, dead_letter_ms=60, dedupe_ms=45, forgotten_ms=30)
UNITS = tuple("abcdef")
SCOPES = ("default/0", "default/1")
EXPIRING = {"answers": (2, 4), "tombstones": (1, 2), "deletions": (2, 3), "dead_letters": (2, 7)}
"""Tables whose rows expire: where their scope and their time stand."""

Rows = dict[str, list[tuple[Any, ...]]]


class Life:
    """Units that come and go, and messages for them."""

    def __init__(self, store: MemoryStore | SQLiteStore, random: Random) -> None:
        self.store = store
        self.scenario = Scenario(store)
        self.random = random
        self.now = 1_000
        self.versions = dict.fromkeys(UNITS, 0)

    async def step(self) -> None:
        random, unit = self.random, self.random.choice(UNITS)
        self.now += random.randrange(12)
        if random.random() < 0.5:
            body = random.choice((Start("wf", None, b""), Send("news", b"")))
            later = random.choice((0, 0, self.now + 50))
            sender = random.choice(UNITS)
            letter = self.scenario.message(unit, body, at=self.now, visible_at=later, sender=sender)
            if random.random() < 0.5:
                await self.store.post([letter])
            else:
                await self.commit(sender, post=[letter])
            return
        delete = random.choice((None, None, 0, self.now + 40)) if self.versions[unit] else None
        answers = [
            Answer(self.scenario.new_id(), "ok", self.now + random.randrange(60)) for _ in range(2)
        ]
        inbox = await self.scenario.inbox(unit)
        await self.commit(
            unit, delete=delete, answers=answers, consume=inbox[: random.randrange(3)]
        )

    async def commit(self, unit: str, **parts: Any) -> None:
        row = {
            "run": self.scenario.new_id(),
            "scope": scope_of(unit, 2),
            "created_at": self.now - 5,
        }
        commit = self.scenario.commit(unit, self.versions[unit], row, at=self.now, **parts)
        assert await self.scenario.apply(commit) == ["applied"]
        self.versions[unit] = 0 if parts.get("delete") is not None else self.versions[unit] + 1

    async def sweep(self) -> None:
        scopes = self.random.choice((SCOPES, SCOPES[:1], SCOPES[1:]))
        limit = self.random.choice((1, 3, 1_000))
        before: Rows = await self.store.dump()
        count = await self.scenario.sweep(self.now, limit, *scopes)
        after: Rows = await self.store.dump()
        removable = removable_of(before, scopes, self.now)
        gone = {
            (table, row) for table in before for row in before[table] if row not in after[table]
        }
        assert gone <= removable
        assert count == len(gone) == min(limit, len(removable))
        buried = {row[3] for table, row in gone if table == "inbox"}
        new = {row for row in after["dead_letters"] if row not in before["dead_letters"]}
        assert {row[1] for row in new} == buried
        assert {row[-2] for row in new} <= {self.now + LIMITS.dead_letter_ms}
        for table in before.keys() - {"dead_letters"}:
            assert set(after[table]) <= set(before[table])


def removable_of(rows: Rows, scopes: tuple[str, ...], now: int) -> set[tuple[str, tuple[Any, ...]]]:
    """Rows that nobody needs: expired ones, and old messages for units that do not exist and will not begin."""
    found: set[tuple[str, tuple[Any, ...]]] = set()
    for table, (scope, expires_at) in EXPIRING.items():
        found |= {
            (table, row) for row in rows[table] if row[scope] in scopes and row[expires_at] <= now
        }
    there = {row[0] for row in rows["units"]} | {
        row[0] for row in rows["inbox"] if row[4] == "Start"
    }
    for row in rows["inbox"]:
        if (
            row[0] not in there
            and row[2] in scopes
            and max(row[6], row[7]) + LIMITS.undelivered_ms <= now
        ):
            found.add(("inbox", row))
    return found


async def live(store: MemoryStore | SQLiteStore, random: Random) -> None:
    async with store:
        life = Life(store, random)
        await life.scenario.claim()
        for _ in range(random.randrange(5, 40)):
            await life.step()
            if random.random() < 0.3:
                await life.sweep()
        life.now += 200
        await life.sweep()


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False))
def test_only_what_nobody_needs_is_removed_from_memory(random: Random) -> None:
    asyncio.run(live(MemoryStore(shards=2, limits=LIMITS), random))


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False))
def test_only_what_nobody_needs_is_removed_from_sqlite(random: Random) -> None:
    asyncio.run(live(SQLiteStore(MEMORY, options=Options(shards=2), limits=LIMITS), random))


# ---------------------------------------------------------------- cost


async def plan(store: SQLiteStore, sql: str) -> str:
    for name in (":scope", ":at", ":limit"):
        sql = sql.replace(name, "1")
    return "\n".join(str(row[3]) for row in await store.inspect(f"EXPLAIN QUERY PLAN {sql}"))


@pytest.mark.parametrize("table", sweeping.EXPIRING)
async def test_what_has_expired_is_found_in_order(table: str) -> None:
    async with SQLiteStore(MEMORY) as store:
        found = await plan(store, sweeping.SQL[f"find_{table}"])
        assert (
            f"SEARCH {table} USING COVERING INDEX {table}_expiry (scope=? AND expires_at<?)"
            in found
        )
        assert "TEMP B-TREE" not in found


async def test_messages_of_units_that_exist_are_not_looked_at() -> None:
    async with SQLiteStore(MEMORY) as store:
        assert "USING INDEX inbox_homeless (scope=? AND at<?)" in await plan(
            store, sweeping.SQL["undelivered"]
        )
        scenario = Scenario(store)
        await scenario.claim()
        await scenario.applied("order")
        await scenario.post(*[scenario.message("order") for _ in range(5)], scenario.start("later"))
        await scenario.applied("order", 1, post=[scenario.message("nobody")])
        indexed = await store.inspect(
            "SELECT unit FROM inbox INDEXED BY inbox_homeless WHERE homeless"
        )
        assert indexed == [("nobody",)]
