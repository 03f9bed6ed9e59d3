"""The workflows of the simulation. Each is told a tag, which says which start it belongs to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from perdure import App, RetryPolicy, activity, workflow
from perdure.errors import LimitExceeded, PayloadTooLarge

app = App("simulation")

RAN: list[str] = []
"""Tags, in the order in which attempts of activities began. A run empties it first.

Only attempts count, and not that code ran: the first turn of a start that joins another one may run
and be discarded.
"""

LISTENERS: list[Callable[[str], None]] = []
"""Each is told the tags, too."""

HOUR = 3_600

Letter = list[str | int]
"""[sender, number]."""

mail = workflow.Channel[Letter]("mail")


def note(tag: str) -> None:
    """An attempt has begun."""
    RAN.append(tag)
    for listener in LISTENERS:
        listener(tag)


@app.activity
async def work(tag: str) -> str:
    """Take a moment."""
    note(tag)
    await asyncio.sleep(0.01)
    return tag


@app.activity(retry=RetryPolicy(maximum_attempts=4, initial_interval=0.05, backoff="fixed"))
async def shaky(tag: str) -> str:
    """Fail twice."""
    # By the number of the attempt, because another node may run the next one.
    if activity.info().attempt < 3:
        raise ConnectionError(tag)
    return tag


# ---------------------------------------------------------------- a receiver


@app.workflow(guard="off")
async def box(tag: str, habits: dict[str, float], got: list[Letter]) -> list[Letter]:
    """Collect letters until one says `stop`.

    `habits`: `lap` letters make an execution (0: all). `work` and `nap_s` come after each letter.
    """
    taken = 0
    while True:
        letter = await mail.receive()
        if letter[0] == "stop":
            return got
        got.append(letter)
        taken += 1
        if habits.get("work"):
            await work(tag)
        if habits.get("nap_s"):
            await asyncio.sleep(habits["nap_s"])
        if taken == habits.get("lap"):
            workflow.continue_as_new(box, tag, habits, got)


@app.workflow(guard="off")
async def forward(target: str, sender: str, count: int) -> int:
    """Send letters to a box, with work in between."""
    for number in range(count):
        letter: Letter = [sender, number]
        workflow.send(target, mail, letter)
        # Work makes turns of its own, so that a crash can come between two letters.
        if number % 3 == 2:
            await work(sender)
    return count


# ---------------------------------------------------------------- short lives


@app.workflow(guard="off")
async def echo(tag: str, steps: int) -> str:
    """Do some steps, one after the other."""
    for _ in range(steps):
        await work(tag)
    return tag


@app.workflow(guard="off")
async def stay(tag: str) -> str:
    """Wait until somebody ends it."""
    await work(tag)
    await workflow.receive("never", str)
    return tag


@app.workflow(guard="off")
async def steps(tag: str, count: int) -> str:
    """Sleep, work and try again."""
    for number in range(count):
        await asyncio.sleep(0.02 * number)
        if number % 2:
            await shaky(tag)
        else:
            await work(tag)
    async with asyncio.timeout(HOUR):
        return await work(tag)


@app.workflow(guard="off")
async def postcard(target: str, sender: str, number: int) -> None:
    """Work, and send one letter."""
    await work(sender)
    letter: Letter = [sender, number]
    workflow.send(target, mail, letter)


@app.workflow(guard="off")
async def order(tag: str, target: str, sender: str, number: int) -> list[str]:
    """An order that leaves something behind: a detached workflow that outlives it."""
    postcard.detach(target, sender, number)
    named = workflow.child(echo, id=f"{workflow.info().id}-named")
    return [await echo(tag, 1), await named(tag, 0)]


@app.workflow(guard="off")
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


@app.workflow(guard="off")
async def parent(tag: str, count: int) -> list[str]:
    """Have children do the work, all at once."""
    own = workflow.info().id
    # Each has one step more than the one before, so that they do not end together.
    children = [workflow.child(echo, id=f"{own}-child-{n}")(f"{tag}-{n}", n) for n in range(count)]
    return list(await asyncio.gather(*children))


@app.workflow(guard="off")
async def laps(tag: str, left: int) -> str:
    """Sleep and work, in one execution after the other."""
    await asyncio.sleep(0.05)
    await work(tag)
    if left:
        workflow.continue_as_new(laps, tag, left - 1)
    return tag
