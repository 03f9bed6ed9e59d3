"""PostgreSQL does what the reference in memory does: random batches give the same verdicts and the same rows."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
import test_equivalence
from msgspec.structs import replace
from postgres_stores import FreshStore, Schemas
from test_equivalence import LIMITS, SCOPES, SHARDS, UNITS, World, both, live, no_defects

from perdure.ports.store import InboxPart, Loaded, Page
from perdure.store.derived import Rows
from perdure.store.memory import MemoryStore


class Placed:
    """A store whose places have names that count the calls, so that two stores give the same ones."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._places: dict[str | None, str | None] = {None: None}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def _named(self, place: str | None, after: str | None) -> str | None:
        if place is None or place == self._places[after]:
            return after
        name = f"place {len(self._places)}"
        self._places[name] = place
        return name

    async def load(self, units: Sequence[str]) -> list[Loaded]:
        loaded = await self._store.load(units)
        return [replace(one, place=None) for one in loaded]

    async def inbox(self, unit: str, after: str | None, limit: int) -> InboxPart:
        part = await self._store.inbox(unit, self._places[after], limit)
        return InboxPart(part.messages, self._named(part.place, after))

    async def arrivals(self, scopes: Sequence[str], after: str | None, limit: int) -> Page[str]:
        page = await self._store.arrivals(scopes, self._places[after], limit)
        # The place of now is another one each time, or not.
        self._places["now"] = page.next
        return Page(page.items, "now")


async def both_places(stores: list[Any], world: World) -> None:
    """As of two stores with the same places, but whole: what comes between two parts is read twice here."""
    world.arrived = (await both(stores, "arrivals", SCOPES, world.arrived, 50)).next
    for unit in UNITS:
        if world.chance(50):
            part = await both(stores, "inbox", unit, world.places[unit], 50)
            world.places[unit] = world.random.choice((None, part.place))


def comparable(rows: Rows) -> Rows:
    """Rows without the numbers of positions, and with all numbers of attributes as floats."""
    found = {table: content for table, content in rows.items() if table != "places"}
    ranks: defaultdict[object, int] = defaultdict(int)
    inbox: list[tuple[object, ...]] = []
    for unit, _, *rest in sorted(rows["inbox"], key=lambda row: row[:2]):
        ranks[unit] += 1
        inbox.append((unit, ranks[unit], *rest))
    attributes: list[tuple[object, ...]] = []
    for *key, value, created in rows["attributes"]:
        attributes.append((*key, value if isinstance(value, str) else float(value), created))
    found |= {"inbox": inbox, "attributes": attributes}
    return {table: sorted(content, key=repr) for table, content in found.items()}


def check(random: Random) -> None:
    async def run(schema: str) -> None:
        first, second = (
            MemoryStore(shards=SHARDS, limits=LIMITS),
            FreshStore(schema, SHARDS, LIMITS),
        )
        async with first, second:
            await live(random, [Placed(first), Placed(second)], [], others=True)
            assert comparable(await first.dump()) == comparable(await second.dump())

    schemas = Schemas()
    with no_defects(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_equivalence, "both_places", both_places)
        asyncio.run(run(schemas.take()))
    schemas.give_back()


@pytest.mark.parametrize("seed", range(6))
def test_random_batches_give_the_same_verdicts_and_the_same_rows(seed: int) -> None:
    check(Random(seed))


@pytest.mark.long
def test_many_random_batches_give_the_same(long_seconds: float) -> None:
    until = time.monotonic() + long_seconds
    seed = 1_000
    while time.monotonic() < until:
        seed += 1
        try:
            check(Random(seed))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
