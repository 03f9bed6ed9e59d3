"""Random work on a node whose store has bad luck, from a seed: `python tests/chaos/chaos.py FIRST COUNT`.

Each seed chooses who acts, which mishaps there are, and whether nodes come and go and the wall
clock jumps. When all actors are through nothing goes wrong any more, and everything that was
promised must come true without a restart; then the node is started again, and nothing may change.

The store is in memory and time is virtual, so that a seed gives the same run again, but for the
ids, which are random. `--sqlite` uses a file, in real time. `--without` leaves actors or mishaps out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Collection, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from perdure import Client
from perdure.client.gateway import StoreGateway
from perdure.errors import PerdureError
from perdure.kernel.data.commit import CLOSED
from perdure.ports.store import Inbox, Store
from perdure.store import open_store
from perdure.store.memory import MemoryStore
from perdure.testing.outcome import take_outcome

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "fixtures")]

import programs  # noqa: E402  # files beside this one
from actors import ACTORS, start_box  # noqa: E402
from stage import COMMON_RATES, IMPATIENCE_S, Door, Stage, Stuck  # noqa: E402
from virtual_time import WallClock, run_virtually  # noqa: E402

TROUBLE = ("restarts", "takeovers", "clock jumps")
"""What comes over a node beside the mishaps of its store."""


LIMIT_S = 120
"""Seconds of the processor for a seed. Most take less than one, and a busy machine changes nothing."""


class Endless(BaseException):
    """A seed has taken too long."""


@dataclass
class Verdict:
    """What a seed came to."""

    seed: int
    breaches: list[str]
    chosen: list[str]
    operations: int
    mishaps: int
    took_s: float = 0.0
    by_kind: Counter[str] = field(default_factory=Counter)


def play(
    seed: int, *, burst: int = 1_500, without: Collection[str] = (), url: str | None = None
) -> Verdict:
    """Run one seed; `burst` is how long the longest backlog gets."""
    began_s = time.perf_counter()
    verdict = Verdict(seed, [], [], 0, 0)
    with limited() as interruptions, suppress(Endless):
        if url is None:
            verdict = run_virtually(
                lambda wall: _on_store(MemoryStore(), wall, seed, burst, without)
            )
        else:
            verdict = asyncio.run(_on_store(open_store(url), None, seed, burst, without))
    if interruptions:  # what else was found after it tells nothing
        verdict.breaches = [
            f"endless: it still ran after {LIMIT_S} s of the processor, {interruptions[0]}"
        ]
    verdict.took_s = time.perf_counter() - began_s
    verdict.by_kind.update(_kind(breach) for breach in verdict.breaches)
    return verdict


@contextmanager
def limited() -> Generator[list[str]]:
    """Stop a node that goes round and round, so that the next seed can be played.

    The exception may end in code that a node runs, and be recorded as its failure. The list says
    where it was raised, each time.
    """
    interruptions: list[str] = []

    def stop(number: int, frame: FrameType | None) -> None:
        place = "nowhere" if frame is None else f"at {frame.f_code.co_filename}:{frame.f_lineno}"
        interruptions.append(place)
        raise Endless

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S, 5)  # again, if what is taken apart does not end
    try:
        yield interruptions
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _kind(breach: str) -> str:
    return breach.partition(":")[0].partition(" of ")[0]


async def _on_store(
    store: Store, wall: WallClock | None, seed: int, burst: int, without: Collection[str]
) -> Verdict:
    random = Random(seed)
    programs.RAN.clear()
    mishaps = [m for m in COMMON_RATES if random.random() < 0.4 and m not in without]
    trouble = [t for t in TROUBLE if random.random() < 0.4 and t not in without]
    if wall is None and "clock jumps" in trouble:
        trouble.remove("clock jumps")
    async with store:
        stage = Stage(store, wall, random, mishaps, burst)
        unseen = watch_loop(stage)
        chosen = await _everybody(stage, random, trouble, without)
        stage.ledger.breaches += unseen
        return Verdict(
            seed,
            stage.ledger.breaches,
            [*mishaps, *trouble, *chosen],
            stage.ledger.operations.total(),
            stage.mishaps.counts.total(),
        )


def watch_loop(stage: Stage) -> list[str]:
    """Errors that nobody sees otherwise."""
    unseen: list[str] = []

    def note(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None and error.__traceback__ is not None:
            places = traceback.extract_tb(error.__traceback__)
            error.add_note(f"at {places[-1].filename}:{places[-1].lineno}")
        unseen.append(
            f"unseen error: {context.get('message')}: {error!r} {getattr(error, '__notes__', '')}"
        )

    asyncio.get_running_loop().set_exception_handler(note)
    return unseen


async def _everybody(
    stage: Stage, random: Random, trouble: list[str], without: Collection[str]
) -> list[str]:
    await stage.start()
    for number in range(random.randrange(1, 4)):
        habits = {
            "lap": random.choice([0, 1, 3, 7]),
            "work": random.choice([0, 1]),
            "nap_s": random.choice([0, 0, 0.01]),
        }
        await start_box(stage, f"box-{number}", "inside", habits)
    kinds = [kind for kind in ACTORS if kind not in without]
    chosen = [random.choice(kinds) for _ in range(random.randrange(3, 12))]
    doors: list[Door] = [random.choice(["inside", "outside"]) for _ in chosen]
    acts = [
        ACTORS[kind](stage, Random(random.random()), f"{kind}-{number}", door)
        for number, (kind, door) in enumerate(zip(chosen, doors, strict=True))
    ]
    troubles = [asyncio.ensure_future(_trouble(stage, random, what)) for what in trouble]
    outcomes = await asyncio.gather(*acts, return_exceptions=True)
    for task in troubles:
        task.cancel()
    outcomes += await asyncio.gather(*troubles, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            text = str(outcome) if isinstance(outcome, Stuck) else f"error: {outcome!r}"
            stage.ledger.breach(text)
    stage.mishaps.end()
    await end(stage)
    return [f"{kind} {door}" for kind, door in zip(chosen, doors, strict=True)]


async def _trouble(stage: Stage, random: Random, what: str) -> None:
    for _ in range(2):
        await asyncio.sleep(random.random() * 2)
        if what == "restarts":
            await asyncio.shield(stage.churn(stage.restart))
        elif what == "takeovers":
            await asyncio.shield(stage.churn(stage.take_over))
        elif stage.wall is not None:
            stage.wall.jump(random.choice([-3_600, -15, 15, 3_600]))


# ---------------------------------------------------------------- what must be true at the end


async def end(stage: Stage) -> None:
    """Let everything come to rest, and hold it against the ledger, before and after a restart."""
    await stage.quiet()
    for box in sorted(stage.ledger.letters):
        await _collect(stage, box)
    await _check_rest(stage)
    before = await _statuses(stage)
    await stage.churn(stage.restart)
    await asyncio.sleep(5)
    await _check_rest(stage)
    after = await _statuses(stage)
    for name in sorted(before.keys() | after.keys()):
        stage.ledger.expect(after.get(name), before.get(name), f"changed by a restart: {name}")
    stage.ledger.check_code()
    await stage.churn(stage.stop)


async def _collect(stage: Stage, box: str) -> None:
    """Have the box give what it received."""
    client = Client(StoreGateway(stage.raw))
    deadline_s = asyncio.get_running_loop().time() + stage.patience_s
    try:
        await stage.insist(f"resume {box}", lambda: stage.client("inside").get(box).resume())
        while (await stage.raw.query(Inbox(unit=box))).items:
            await asyncio.sleep(0.5)
            if asyncio.get_running_loop().time() > deadline_s:
                break
        if (await stage.raw.query(Inbox(unit=box))).items:
            stage.patience_s = IMPATIENCE_S
            stage.ledger.breach(f"stuck: mail is never taken up; {await stage.state_of(box)}")
            return
        await stage.insist(
            f"send to {box}", lambda: stage.client("inside").get(box).send("mail", ["stop", 0])
        )
        if await stage.ended(box, box) != "completed":
            stage.ledger.breach(f"status: {await stage.state_of(box)}")
            return
    except Stuck as stuck:
        stage.ledger.breach(str(stuck))
        return
    except PerdureError as error:
        stage.ledger.breach(f"error: {error}; {await stage.state_of(box)}")
        return
    received = await client.workflow(programs.box, id=box).result()
    stage.ledger.breaches += [
        f"{text} ({box})" for text in stage.ledger.letters[box].complaints(received)
    ]


async def _check_rest(stage: Stage) -> None:
    """Nothing is left open, no inbox holds anything, and no command has two answers."""
    client = Client(StoreGateway(stage.raw))
    counts = await client.counts()
    until_s = asyncio.get_running_loop().time() + stage.patience_s
    while counts["inbox"] and asyncio.get_running_loop().time() < until_s:
        await asyncio.sleep(0.5)
        counts = await client.counts()
    for found in await client.list(limit=None):
        if found.status not in CLOSED:
            stage.ledger.breach(f"left open: {await stage.state_of(found.id)}")
    if counts["inbox"]:
        stage.ledger.breach(f"inbox: {counts['inbox']} messages are left")
    outcome = await take_outcome(client, None, [])
    stage.ledger.breaches += [f"history: {fault}" for fault in outcome.faults]


async def _statuses(stage: Stage) -> dict[str, str]:
    client = Client(StoreGateway(stage.raw))
    return {found.id: f"{found.status} {found.run}" for found in await client.list(limit=None)}


# ---------------------------------------------------------------- the program


def report(verdict: Verdict) -> str:
    """What a failing seed has to say."""
    lines = [f"seed {verdict.seed}: {', '.join(verdict.chosen)}"]
    lines += [f"    {breach}" for breach in verdict.breaches[:12]]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("--burst", type=int, default=1_500)
    parser.add_argument("--without", default="", help="actors and mishaps, separated by commas")
    parser.add_argument("--sqlite", action="store_true")
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="begin no seed after so long"
    )
    given = parser.parse_args()
    logging.disable()  # what a node says of each mishap
    total: Counter[str] = Counter()
    played = failing = 0
    until_s = time.monotonic() + given.seconds
    for seed in range(given.first, given.first + given.count):
        if time.monotonic() > until_s:
            break
        with tempfile.TemporaryDirectory() as folder:
            url = f"sqlite:///{folder}/chaos.db?synchronous=off" if given.sqlite else None
            verdict = play(seed, burst=given.burst, without=given.without.split(","), url=url)
        played += 1
        total.update(verdict.by_kind)
        total["operations"] += verdict.operations
        total["mishaps"] += verdict.mishaps
        if verdict.breaches:
            failing += 1
            sys.stdout.write(report(verdict) + "\n")
            sys.stdout.flush()
    sys.stdout.write(f"{failing} of {played} seeds failed: {json.dumps(dict(total))}\n")
    return 1 if failing else 0


if __name__ == "__main__":
    sys.exit(main())
