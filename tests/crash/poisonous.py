"""A node whose process dies of some of its work, and how to start such a process.

A life that is mended does not die. One that stays waits to be killed, and says what has begun. These tests need some
150 lives, so that a server that has imported Perdure forks each: the start of an interpreter would take most of their
time.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection

from perdure import App, NodeOptions, activity, workflow

app = App("poisonous")
GOOD = 5


OPTIONS = NodeOptions(crash_failures=3, trial_ms=150, control_ms=200)
SLOW_S = 0.3
"""Longer than a trial lasts at first."""
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["perdure", "perdure.store.sqlite"])


@dataclass
class Life:
    """What one process is told, and how it answers."""

    url: str
    voice: Connection
    mended: bool = False
    stays: bool = False


@dataclass
class Process:
    """A life from outside. What it says arrives at `lines`, which ends with it."""

    url: str
    mended: bool = False
    stays: bool = False
    lines: Connection = field(init=False)

    def __post_init__(self) -> None:
        self.lines, voice = PROCESSES.Pipe(duplex=False)
        life = Life(self.url, voice, self.mended, self.stays)
        self._process = PROCESSES.Process(target=live, args=(life,), daemon=True)
        self._process.start()
        voice.close()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def wait(self, within_s: float) -> int:
        """Its exit code."""
        self._process.join(within_s)
        code = self._process.exitcode
        if code is None:
            self.kill()
            raise AssertionError(f"the process did not end within {within_s} s")
        return code


life: Life
"""Of this process."""


def say(line: str) -> None:
    life.voice.send(line)


def die() -> None:
    if not life.mended:
        os._exit(9)


@app.activity
async def deadly() -> str:
    die()
    return "alive"


@app.activity
async def harmless(n: int) -> int:
    return n + 1


@app.workflow
async def calls_death() -> str:
    return await deadly()


@app.workflow
async def dies_later() -> str:
    await harmless(1)
    die()
    return "alive"


@app.workflow
async def dies_at_once() -> str:
    die()
    return "alive"


@app.workflow
async def dies_of_mail() -> str:
    await workflow.receive("mail", str)
    die()
    return "alive"


@app.workflow
async def dies_of_time() -> str:
    await workflow.sleep(0.2)
    die()
    return "alive"


@app.workflow
async def dies_at_a_checkpoint() -> str:
    return await workflow.checkpoint("deadly", deadly_step)


async def deadly_step() -> str:
    die()
    return "alive"


@app.activity
async def slowly_deadly() -> str:
    await asyncio.sleep(SLOW_S)
    die()
    return "alive"


@app.workflow
async def dies_slowly() -> str:
    return await slowly_deadly()


@app.activity
async def patient() -> str:
    if life.stays:
        say(f"began {activity.info().instance}")
    await asyncio.sleep(3600)
    return "never"


@app.workflow
async def innocent() -> str:
    return await patient()


@app.workflow
async def good(n: int) -> int:
    for _ in range(3):
        n = await harmless(n)
    return n


async def work() -> None:
    async with app.node(life.url, options=OPTIONS) as node:
        if life.stays:
            say("ready")
            await asyncio.sleep(60)
        for n in range(GOOD):
            assert await node.client.workflow(good, id=f"good-{n}").run(n) == n + 3
        bad = node.client.get("bad")
        if life.mended:
            # The retry waits in the inbox. Until it is taken the instance is suspended.
            await bad.wait(timeout=20, through_suspension=True)
        while (description := await bad.describe()).status in ("pending", "running"):
            await node.store.wait_change("bad", 0, 20)
        say(f"{description.status} {description.reason}")


def live(told: Life) -> None:
    """The whole of a process."""
    global life
    life = told
    asyncio.run(work())
