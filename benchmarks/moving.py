"""How long a move takes, which is how long nothing runs.

    python benchmarks/moving.py --from sqlite:///old.db --to postgresql://... --instances 100000

It fills the first store with instances that wait, each with a journal of two turns, a message, a
key and the answer to its start. Then it moves them.
"""

from __future__ import annotations

import argparse
import asyncio
import time

from perdure.kernel.data.commit import Answer, JournalChunk, KvEntry
from perdure.moving import move
from perdure.store import open_store
from perdure.testing.conformance.scenario import NOW, Scenario

BATCH = 500
EVENTS = bytes(range(256)) * 2


async def fill(url: str, instances: int) -> None:
    """Make instances that wait."""
    async with open_store(url) as store:
        scenario = Scenario(store)
        await scenario.claim()
        for first in range(0, instances, BATCH):
            names = [f"order-{number}" for number in range(first, min(first + BATCH, instances))]
            await store.commit(
                [
                    scenario.commit(
                        name,
                        0,
                        {"journal_events": 6, "wake_at": NOW + 10**9, "journal_bytes": 1_024},
                        journal=[JournalChunk(1, 1, 3, EVENTS), JournalChunk(1, 4, 3, EVENTS)],
                        kv=[KvEntry("phase", b"waiting", None, 1, NOW, NOW)],
                        answers=[Answer(scenario.new_id(), "started", NOW + 10**8)],
                    )
                    for name in names
                ]
            )
            await scenario.post(*scenario.messages_to(names))
        await store.release(scenario.fences())


async def main() -> None:
    """Fill, move, and say how long it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--from", dest="source", required=True)
    parser.add_argument("--to", dest="target", required=True)
    parser.add_argument("--instances", type=int, default=100_000)
    given = parser.parse_args()
    await fill(given.source, given.instances)
    spent: dict[str, float] = {}
    last_s = time.perf_counter()

    def report(progress: object) -> None:
        nonlocal last_s
        now_s = time.perf_counter()
        key = f"{getattr(progress, 'step', '')} {getattr(progress, 'table', '')}"
        spent[key] = spent.get(key, 0.0) + now_s - last_s
        last_s = now_s

    began_s = time.perf_counter()
    moved = await move(given.source, given.target, report=report)
    took_s = time.perf_counter() - began_s
    rows = sum(moved.rows.values())
    print(
        f"{given.instances:,} instances, {rows:,} rows in {took_s:.1f} s: {rows / took_s:,.0f} rows/s"
    )
    for step, seconds in spent.items():
        print(f"  {step}: {seconds:.2f} s")


asyncio.run(main())
