"""The workflows that the chaos runs. Each is told a tag, which says which start it belongs to."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from perdure import App, RetryPolicy, activity, workflow
from perdure.errors import LimitExceeded, PayloadTooLarge

app = App("chaos")

RAN: list[str] = []
"""Tags in the order in which attempts of activities began. A chaos run empties it first.

What counts is what code had done, not that it ran: the first turn of a start that joins another
one may run and be discarded.
"""

HOUR = 3_600

Letter = list[str | int]
"""[sender, number]."""

mail = workflow.Channel[Letter]("mail")


def note(tag: str) -> None:
    RAN.append(tag)
    if "STORM_EFFECTS" in os.environ:  # a process that is killed leaves no list
        with Path(os.environ["STORM_EFFECTS"]).open("a") as effects:
            effects.write(f"{tag}\n")


@app.activity
async def work(tag: str) -> str:
    note(tag)
    await asyncio.sleep(0.01)
    return tag


@app.activity(retry=RetryPolicy(maximum_attempts=4, initial_interval=0.05, backoff="fixed"))
async def shaky(tag: str) -> str:
    if activity.info().attempt < 3:
        raise ConnectionError(tag)
    return tag


# ---------------------------------------------------------------- a receiver


@app.workflow(guard="off")
async def box(tag: str, habits: dict[str, float], got: list[Letter]) -> list[Letter]:
    """Collect letters until one says `stop`.

    `habits`: `lap` letters make an execution (0: all), `work` and `nap_s` come after each letter,
    `busy_s` is how long the code itself takes over one.
    """
    taken = 0
    while True:
        letter = await mail.receive()
        if letter[0] == "stop":
            return got
        got.append(letter)
        taken += 1
        if (
            habits.get("busy_s") and not workflow.info().is_replaying
        ):  # a replay of all of it would take too long
            until_s = time.perf_counter() + habits["busy_s"]
            while time.perf_counter() < until_s:
                pass
        if habits.get("work"):
            await work(tag)
        if habits.get("nap_s"):
            await asyncio.sleep(habits["nap_s"])
        if taken == habits.get("lap"):
            workflow.continue_as_new(box, tag, habits, got)


@app.workflow
async def forward(target: str, sender: str, count: int) -> int:
    """Send letters to a box, with work in between."""
    for number in range(count):
        workflow.send(target, mail, [sender, number])
        if number % 3 == 2:
            await work(sender)
    return count


# ---------------------------------------------------------------- short lives


@app.workflow
async def echo(tag: str, steps: int) -> str:
    for _ in range(steps):
        await work(tag)
    return tag


@app.workflow
async def stay(tag: str) -> str:
    """Wait until somebody ends it."""
    await work(tag)
    await workflow.receive("never", str)
    return tag


@app.workflow
async def steps(tag: str, count: int) -> str:
    for number in range(count):
        await asyncio.sleep(0.02 * number)
        await (shaky if number % 2 else work)(tag)
    async with asyncio.timeout(HOUR):
        return await work(tag)


@app.workflow
async def postcard(target: str, sender: str, number: int) -> None:
    await work(sender)
    workflow.send(target, mail, [sender, number])


@app.workflow
async def order(tag: str, target: str, sender: str, number: int) -> list[str]:
    """An order that leaves something behind: a detached workflow that outlives it."""
    postcard.detach(target, sender, number)
    named = workflow.child(echo, id=f"{workflow.info().id}-named")
    return [await echo(tag, 1), await named(tag, 0)]


@app.workflow
async def hoarder(tag: str, keys: int) -> list[str]:
    """Run into limits and catch what comes of it, before and after a wait."""
    refused: list[str] = []
    for number in range(keys):
        try:
            workflow.kv.set(f"k{number}", number)
        except LimitExceeded:
            refused.append(f"k{number}")
    for number in range(keys):
        try:
            workflow.value(f"v{number}", "z" * 130_000)
        except PayloadTooLarge:
            refused.append(f"v{number}")
    for _ in range(3):
        await workflow.receive("go", str)
        await work(tag)
    return refused
