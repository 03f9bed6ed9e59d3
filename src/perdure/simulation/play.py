"""Playing a seed: its world, its customers and troubles, the checks, and the smallest case."""

from __future__ import annotations

import asyncio
import signal
import time
import traceback
from collections import Counter
from collections.abc import Collection, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any

from perdure.simulation import programs
from perdure.simulation.checks import check
from perdure.simulation.customers import CUSTOMERS, start_box
from perdure.simulation.plan import Part, Plan, plan
from perdure.simulation.takeover import taken_over
from perdure.simulation.troubles import TROUBLES
from perdure.simulation.world import Stuck, World

if TYPE_CHECKING:
    from random import Random

BURST = 200
"""The longest backlog of a run."""

LIMIT_S = 120
"""Seconds of the processor for a seed. Most take less than one, on a busy machine as well."""


class Endless(BaseException):
    """A seed has taken too long."""


@dataclass
class Verdict:
    """What a seed came to. `digest` is the same whenever it is played."""

    plan: Plan
    breaches: list[str]
    digest: str = ""
    operations: int = 0
    mishaps: int = 0
    took_s: float = 0.0
    by_kind: Counter[str] = field(default_factory=Counter[str])

    def describe(self) -> str:
        """What a failing seed has to say."""
        lines = [f"seed {self.plan.seed}: {self.plan.describe()}"]
        lines += [f"    {breach}" for breach in self.breaches[:12]]
        return "\n".join(lines)


def play(seed: int, *, burst: int = BURST, without: Collection[str] = ()) -> Verdict:
    """Play one seed, without some of its customers, troubles and mishaps."""
    chosen = plan(seed).without(without)
    began_s = time.process_time()
    verdict = Verdict(chosen, [])
    # Each seed has an event loop of its own, so that nothing of one is left in the next.
    with _limited() as interruptions, suppress(Endless), asyncio.Runner() as runner:
        verdict = runner.run(_play(chosen, burst))
    if interruptions:  # what else was found after it tells nothing
        verdict.breaches = [
            f"endless: it still ran after {LIMIT_S} s of the processor, {interruptions[0]}"
        ]
    # Of the processor: a busy machine makes no seed look slow.
    verdict.took_s = time.process_time() - began_s
    verdict.by_kind.update(_kind(breach) for breach in verdict.breaches)
    return verdict


def _kind(breach: str) -> str:
    return breach.partition(":")[0].partition(" of ")[0]


@contextmanager
def _limited() -> Generator[list[str]]:
    """Stop a node that goes round and round, so that the next seed can be played.

    The exception may end in code that a node runs, and be recorded as its failure. The list says
    where it was raised, each time.
    """
    interruptions: list[str] = []

    def stop(_number: int, frame: FrameType | None) -> None:
        place = "nowhere"
        if frame is not None:
            place = f"at {frame.f_code.co_filename}:{frame.f_lineno}"
        interruptions.append(place)
        raise Endless

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S, 5)  # again, if what is taken apart does not end
    try:
        yield interruptions
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


async def _play(chosen: Plan, burst: int) -> Verdict:
    # It belongs to the process, as the app does.
    programs.RAN.clear()
    world = World(chosen.kind, chosen.nodes, chosen.stream("world"), chosen.rates(), burst)
    unseen = _watch_loop()
    with taken_over(world.cluster.virtual, chosen.stream("ids")):
        async with world.cluster:
            # Until the end: a claim may have come late and won, and its loser is told again.
            saying = asyncio.ensure_future(_keep_saying(world))
            await _everybody(world, chosen)
            await world.calm()
            await check(world)
            saying.cancel()
    breaches = [*world.ledger.breaches, *unseen, *world.raw.breaches]
    operations = world.ledger.operations.total()
    return Verdict(chosen, breaches, world.raw.digest, operations, world.mishaps)


def _watch_loop() -> list[str]:
    """Errors that nobody sees otherwise."""
    unseen: list[str] = []

    def note(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        place = ""
        if error is not None and error.__traceback__ is not None:
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f" at {last.filename}:{last.lineno}"
        unseen.append(f"unseen error: {context.get('message')}: {error!r}{place}")

    asyncio.get_running_loop().set_exception_handler(note)
    return unseen


async def _everybody(world: World, chosen: Plan) -> None:
    """Let all act, and trouble come over the nodes meanwhile."""
    world.disturb()
    random = chosen.stream("boxes")
    for number in range(chosen.boxes):
        habits = {
            "lap": random.choice([0, 1, 3, 7]),
            "work": random.choice([0, 1]),
            "nap_s": random.choice([0, 0, 0.01]),
        }
        await start_box(world, f"box-{number}", world.nodes[0].name, habits)
    acts = [
        CUSTOMERS[part.kind](world, chosen.stream(part.name), part.name, part.door)
        for part in chosen.customers
    ]
    troubles = [_come(world, part, chosen.stream(part.name)) for part in chosen.troubles]
    outcomes = await asyncio.gather(*acts, *troubles, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, Stuck):
            world.ledger.breach(str(outcome))
        elif isinstance(outcome, Exception):
            where = traceback.extract_tb(outcome.__traceback__)[-1]
            world.ledger.breach(f"error: {outcome!r} at {where.filename}:{where.lineno}")


async def _come(world: World, part: Part, random: Random) -> None:
    for _ in range(random.randrange(1, 4)):
        await asyncio.sleep(random.random() * 2)
        await world.change(lambda: TROUBLES[part.kind](world, random))


async def _keep_saying(world: World) -> None:
    while True:
        await asyncio.sleep(1)
        world.say()


def shrink(verdict: Verdict, *, burst: int = BURST) -> Verdict:
    """The same fault with as little as possible: parts are left out while it stays."""
    kinds = verdict.by_kind.keys()
    without: set[str] = set()
    smallest = verdict
    # One part after the other, once: that finds no least case, and takes as many plays as parts.
    for name in verdict.plan.names:
        smaller = play(verdict.plan.seed, burst=burst, without={*without, name})
        if smaller.by_kind.keys() & kinds:
            without.add(name)
            smallest = smaller
    return smallest
