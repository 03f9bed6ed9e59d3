"""Two or three owners of one store, from a seed: `python tests/chaos/handover.py FIRST COUNT`.

Each seed chooses who acts, and what comes over the nodes. At the end every scope has one owner,
everything that was promised must have come true, and no commit of an old epoch may have been applied.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import sys
import time
from collections import Counter
from contextlib import suppress
from random import Random

import chaos
import programs
from actors import ACTORS, start_box
from chaos import Endless, Verdict, limited
from crowd import Crowd, Witness, crowd_mishaps
from fleet import Fleet
from stage import Stuck
from virtual_time import WallClock, run_virtually

from perdure import Client
from perdure.client.gateway import StoreGateway
from perdure.kernel.data.commit import CLOSED


def play(seed: int, *, burst: int = 200, kind: type[Crowd] = Crowd) -> Verdict:
    """Run one seed with a kind of crowd."""
    began_s = time.perf_counter()
    verdict = Verdict(seed, [], [], 0, 0)
    with limited() as interruptions, suppress(Endless):
        verdict = run_virtually(lambda wall: _on_store(wall, seed, burst, kind))
    if interruptions:
        verdict.breaches = [f"endless: it still ran {interruptions[0]}"]
    verdict.took_s = time.perf_counter() - began_s
    verdict.by_kind.update(breach.partition(":")[0] for breach in verdict.breaches)
    return verdict


async def _on_store(wall: WallClock, seed: int, burst: int, kind: type[Crowd]) -> Verdict:
    random = Random(seed)
    programs.RAN.clear()
    async with Witness() as store:
        crowd = kind(store, wall, random, crowd_mishaps(random), burst)
        unseen = chaos.watch_loop(crowd)
        chosen = await _everybody(crowd, random)
        breaches = [*crowd.ledger.breaches, *unseen, *store.breaches]
        # An owner that does not know yet that it was overtaken may begin an attempt late. Only a lease
        # could keep it from that, and there is none here. Nothing of it is recorded.
        breaches = [b for b in breaches if not b.startswith("work began after its end")]
        counts = crowd.mishaps.counts.total()
        return Verdict(seed, breaches, chosen, crowd.ledger.operations.total(), counts)


async def _everybody(crowd: Crowd, random: Random) -> list[str]:
    saying = asyncio.ensure_future(crowd.keep_saying())
    await crowd.start()
    for number in range(random.randrange(1, 4)):
        habits = {"lap": random.choice([0, 1, 7]), "work": random.choice([0, 1])}
        await start_box(crowd, f"box-{number}", "inside", habits)
    kinds = [random.choice(list(ACTORS)) for _ in range(random.randrange(3, 8))]
    doors = [crowd.door() for _ in kinds]
    acts = [
        ACTORS[kind](crowd, Random(random.random()), f"{kind}-{number}", door)
        for number, (kind, door) in enumerate(zip(kinds, doors, strict=True))
    ]
    trouble = [random.choice(crowd.troubles) for _ in range(random.randrange(1, 5))]
    troubles = [asyncio.ensure_future(_trouble(crowd, random, what)) for what in trouble]
    outcomes = await asyncio.gather(*acts, return_exceptions=True)
    outcomes += await asyncio.gather(*troubles, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            text = str(outcome) if isinstance(outcome, Stuck) else f"error: {outcome!r}"
            crowd.ledger.breach(text)
    crowd.mishaps.end()
    try:
        await crowd.calm()
    except TimeoutError:
        crowd.ledger.breach(f"stuck: scopes are not given up: {_scopes(crowd)}")
    await _at_rest(crowd)
    await chaos.end(crowd)
    saying.cancel()
    return [*trouble, *(f"{kind} {door}" for kind, door in zip(kinds, doors, strict=True))]


async def _at_rest(crowd: Crowd) -> None:
    """Wait until only the boxes wait for something: what is under way may still write to them."""
    client = Client(StoreGateway(crowd.raw))
    boxes = crowd.ledger.letters.keys()
    until_s = asyncio.get_running_loop().time() + crowd.patience_s
    while asyncio.get_running_loop().time() < until_s:
        open_ones = [
            found.id for found in await client.list(limit=None) if found.status not in CLOSED
        ]
        if not (await client.counts())["inbox"] and boxes >= set(open_ones):
            return
        await asyncio.sleep(0.5)


def _scopes(crowd: Crowd) -> dict[str, dict[str, str]]:
    return {member.name: member.node.scopes for member in crowd.members}


async def _trouble(crowd: Crowd, random: Random, what: str) -> None:
    for _ in range(random.randrange(1, 4)):
        await asyncio.sleep(random.random())
        await asyncio.shield(crowd.churn(getattr(crowd, what)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("--burst", type=int, default=200)
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="begin no seed after so long"
    )
    parser.add_argument("--fleet", action="store_true", help="the nodes are a cluster of their own")
    given = parser.parse_args()
    kind = Fleet if given.fleet else Crowd
    logging.disable()  # what nodes say of each mishap
    total: Counter[str] = Counter()
    played = failing = 0
    until_s = time.monotonic() + given.seconds
    for seed in range(given.first, given.first + given.count):
        if time.monotonic() > until_s:
            break
        verdict = play(seed, burst=given.burst, kind=kind)
        played += 1
        total.update(verdict.by_kind)
        total["operations"] += verdict.operations
        if verdict.breaches:
            failing += 1
            sys.stdout.write(chaos.report(verdict) + "\n")
            sys.stdout.flush()
    sys.stdout.write(f"{failing} of {played} seeds failed: {json.dumps(dict(total))}\n")
    return 1 if failing else 0


if __name__ == "__main__":
    sys.exit(main())
