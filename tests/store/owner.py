"""A process that owns a SQLite store: what it is told on stdin it does, and says so on stdout."""

from __future__ import annotations

import asyncio
import os
import sys
import time

from perdure.errors import StoreError
from perdure.store import open_store
from perdure.testing.conformance import Scenario


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def loop(scenario: Scenario, first: int) -> None:
    """Commit for ever on several units; each line was acknowledged."""

    async def live(unit: str) -> None:
        version = (await scenario.load(unit)).version
        while True:
            await scenario.applied(unit, version, post=[scenario.message("inbox")])
            version += 1
            say("applied", unit, version)

    await asyncio.gather(*[live(f"unit-{n}") for n in range(first, first + 8)])


async def commit(scenario: Scenario, unit: str, version: int) -> None:
    try:
        say(*await scenario.apply(scenario.commit(unit, version)))
    except StoreError as error:
        say("refused", error)


async def use(scenario: Scenario) -> None:
    try:
        await scenario.load("order")
    except StoreError as error:
        say(type(error).__name__, error)


def fork(scenario: Scenario) -> None:
    """Leave a child behind that lives until somebody ends it. Called on a thread, where no event loop runs."""
    child = os.fork()
    if child == 0:
        asyncio.run(use(scenario))
        for pipe in (0, 1):  # else whoever waits for the parent waits for the child
            os.close(pipe)
        while True:
            time.sleep(3_600)
    say("child", child)


async def main(url: str, node: str) -> None:
    async with open_store(url) as store:
        scenario = Scenario(store, node)
        say("opened")
        hints = store.hints()
        while line := await asyncio.to_thread(sys.stdin.readline):
            match line.split():
                case ["claim"]:
                    claims = await scenario.claim()
                    say("claimed", *[f"{claim.epoch} {claim.clean}" for claim in claims.values()])
                case ["try"]:
                    try:
                        await scenario.claim()
                        say("claimed")
                    except StoreError as error:
                        say("refused", error)
                case ["commit", unit, version]:
                    await commit(scenario, unit, int(version))
                case ["post", unit]:
                    say(*[posted.outcome for posted in await scenario.post(scenario.start(unit))])
                case ["hint"]:
                    say((await anext(hints)).unit)
                case ["hints", count]:
                    say(len({(await anext(hints)).unit for _ in range(int(count))}))
                case ["wait", unit, version]:
                    say(await store.wait_change(unit, int(version), 20_000))
                case ["fork"]:
                    await asyncio.to_thread(fork, scenario)
                case ["loop"]:
                    await loop(scenario, 0)
    say("closed")


asyncio.run(main(sys.argv[1], sys.argv[2]))
