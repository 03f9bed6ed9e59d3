"""Those who ask for things: each is one sender, does one thing after the other, and notes what it was promised."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import programs
from letters import Fate
from programs import Letter, mail
from stage import Door, Stage

from perdure import Handle, NotFound
from perdure.client.workflow_handle import WorkflowHandle
from perdure.codec import encode
from perdure.errors import InboxFull
from perdure.kernel.data import message as msg

NEVER_S = 30 * 24 * 3_600
"""A start that is delayed so long does not begin in any run."""

Actor = Callable[[Stage, Random, str, Door], Awaitable[None]]
ACTORS: dict[str, Actor] = {}


def actor(play: Actor) -> Actor:
    ACTORS[play.__name__] = play
    return play


def boxes(stage: Stage) -> list[str]:
    return sorted(stage.ledger.letters)


async def pause_a_bit(random: Random) -> None:
    """Nothing, a turn of the loop, or some time."""
    await asyncio.sleep(random.choice([0, 0, 0.001, 0.02, 0.1]))


# ---------------------------------------------------------------- senders


@actor
async def sender(stage: Stage, random: Random, name: str, door: Door) -> None:
    """Send letters to one box, each when the last was answered."""
    target = random.choice(boxes(stage))
    letters = stage.ledger.letters[target]
    for number in range(random.choice([5, 20, 60])):
        letter: Letter = [name, number]
        handle = stage.client(door).get(target)
        fate = await stage.attempt(lambda: handle.send(mail, letter))
        letters.note(name, number, fate)
        if random.random() < 0.4:
            await pause_a_bit(random)


@actor
async def persistent(stage: Stage, random: Random, name: str, door: Door) -> None:
    """Post letters from outside, the same message again until it is answered, and sometimes once more."""
    target = random.choice(boxes(stage))
    for number in range(random.choice([5, 20])):
        value = encode([name, number])
        outcome = await stage.post_until_answered(target, msg.Send("mail", value))
        if outcome != "full":  # which a backlog of the limit's length makes it
            stage.ledger.expect(outcome, "ok", f"a letter to {target}")
        fate: Fate = "acknowledged" if outcome == "ok" else "refused"
        stage.ledger.letters[target].note(name, number, fate)
        if random.random() < 0.4:
            await pause_a_bit(random)


@actor
async def forwarder(stage: Stage, random: Random, name: str, door: Door) -> None:
    """Have a workflow send letters."""
    target, count = random.choice(boxes(stage)), random.choice([3, 12])
    handle = stage.client(door).workflow(programs.forward, id=name)
    await stage.insist(f"start {name}", lambda: handle.start(target, name, count))
    await stage.ended(name, name)
    stage.ledger.letters[target].note_all(name, count)


@actor
async def controller(stage: Stage, random: Random, name: str, door: Door) -> None:
    """Pause a box and let it go on."""
    target = random.choice(boxes(stage))
    for _ in range(random.randrange(1, 4)):
        await stage.attempt(lambda: stage.client(door).get(target).pause("chaos"))
        await pause_a_bit(random)
        await stage.insist(f"resume {target}", lambda: stage.client(door).get(target).resume())
        await pause_a_bit(random)


@actor
async def burst(stage: Stage, random: Random, name: str, door: Door) -> None:
    """Let a paused box find many letters at once."""
    habits = {"busy_s": 0.0004, "lap": random.choice([0, 50])}
    await start_box(stage, name, door, habits)
    await stage.insist(f"pause {name}", lambda: stage.client(door).get(name).pause())
    count = stage.burst
    for number in range(count):
        try:
            outcome = await stage.post_until_answered(
                name, msg.Send("mail", encode([name, number]))
            )
        except InboxFull:
            outcome = "full"
        stage.ledger.letters[name].note(
            name, number, "acknowledged" if outcome == "ok" else "refused"
        )
    await stage.insist(f"resume {name}", lambda: stage.client(door).get(name).resume())


# ---------------------------------------------------------------- starts that are taken back


@actor
async def fickle(stage: Stage, random: Random, name: str, door: Door) -> None:
    """Start something, delayed or not, and cancel or terminate it at once."""
    for number in range(random.randrange(2, 6)):
        tag = f"{name}-{number}"
        delay = random.choice([None, 0.05, NEVER_S, NEVER_S])
        handle = stage.client(door).workflow(programs.stay, id=tag, delay=delay)
        await stage.insist(f"start {tag}", lambda: handle.start(tag))
        if random.random() < 0.3:
            await pause_a_bit(random)
        await give_up(stage, random, door, tag)
        if delay == NEVER_S:
            stage.ledger.must_never_run(tag)
        stage.ledger.expect(await stage.ended(tag, tag), "cancelled", f"the status of {tag}")
        if random.random() < 0.3:
            await give_up(stage, random, door, tag)
        if random.random() < 0.3:
            again = stage.client(door).workflow(programs.stay, id=tag)
            await stage.insist(f"start {tag}", lambda: again.start(tag))


async def give_up(stage: Stage, random: Random, door: Door, id: str) -> None:
    verb = random.choice(["cancel", "terminate"])

    async def ask() -> None:
        handle: Handle[object] = stage.client(door).get(id)
        await (handle.cancel("chaos") if verb == "cancel" else handle.terminate("chaos"))

    await stage.insist(f"{verb} {id}", ask)


# ---------------------------------------------------------------- ids that are used again


@actor
async def replacer(stage: Stage, random: Random, name: str, door: Door) -> None:
    """Start under one id again and again: each result is that of its own start."""
    for number in range(random.randrange(3, 8)):
        tag = f"{name}-{number}"
        amount = random.choice([0, 0, 1, 3])

        async def run() -> str:
            handle = stage.client(door).workflow(programs.echo, id=name, if_exists="replace")
            return await handle.run(tag, amount)

        result = await stage.insist(f"run {tag} as {name}", run)
        stage.ledger.expect(result, tag, f"a stale result of {name}")


@actor
async def changer(stage: Stage, random: Random, name: str, door: Door) -> None:
    """Replace what runs and end the new run at once: it is the new one that ends."""
    for number in range(random.randrange(2, 5)):
        tag = f"{name}-{number}"

        def handle() -> WorkflowHandle[[str], str]:
            return stage.client(door).workflow(programs.stay, id=name, if_exists="replace")

        await stage.insist(f"start {name}", lambda: handle().start(tag))
        await pause_a_bit(random)
        tag = f"{tag}-new"
        await stage.insist(f"start {name}", lambda: handle().start(tag))
        await give_up(stage, random, door, name)
        if random.random() < 0.5:
            await asyncio.sleep(1)
            stage.ledger.expect(await stage.ended(name, tag), "cancelled", f"the status of {name}")


@actor
async def recycler(stage: Stage, random: Random, name: str, door: Door) -> None:
    """Run an order, delete it, and run another one under the same id."""
    target = random.choice(boxes(stage))
    letters = stage.ledger.letters[target]
    for number in range(random.randrange(2, 5)):
        tag, sender = f"{name}-{number}", f"{name}-{number}-postcard"
        handle = stage.client(door).workflow(programs.order, id=name)
        await stage.insist(f"start {name}", lambda: handle.start(tag, target, sender, 0))
        stage.ledger.expect(await stage.ended(name, tag), "completed", f"the status of {name}")
        result = await stage.insist(
            f"result of {name}", lambda: stage.client("outside").get(name).result()
        )
        stage.ledger.expect(result, [tag, tag], f"the result of {name}")
        letters.note(sender, 0)
        await stage.insist(f"delete {name}", lambda: delete(stage, door, name))
        await stage.gone(name)


async def delete(stage: Stage, door: Door, id: str) -> None:
    try:
        await stage.client(door).get(id).delete(force=True)
    except NotFound:
        return


# ---------------------------------------------------------------- plain work


@actor
async def worker(stage: Stage, random: Random, name: str, door: Door) -> None:
    """Something with timers, retries and timeouts."""
    handle, count = stage.client(door).workflow(programs.steps, id=name), random.randrange(1, 8)
    await stage.insist(f"start {name}", lambda: handle.start(name, count))
    stage.ledger.expect(await stage.ended(name, name), "completed", f"the status of {name}")


@actor
async def sleeper(stage: Stage, random: Random, name: str, door: Door) -> None:
    """A start that is delayed, and begins."""
    handle = stage.client(door).workflow(programs.echo, id=name, delay=random.choice([0.05, 1]))
    await stage.insist(f"start {name}", lambda: handle.start(name, 1))
    stage.ledger.expect(await stage.ended(name, name), "completed", f"the status of {name}")


@actor
async def glutton(stage: Stage, random: Random, name: str, door: Door) -> None:
    """Code that catches what it is refused."""
    handle = stage.client(door).workflow(programs.hoarder, id=name)
    await stage.insist(f"start {name}", lambda: handle.start(name, 7))
    for _ in range(3):
        await pause_a_bit(random)
        outcome = await stage.post_until_answered(name, msg.Send("go", encode("on")))
        stage.ledger.expect(outcome, "ok", f"a message to {name}")
    stage.ledger.expect(await stage.ended(name, name), "completed", f"the status of {name}")


# ---------------------------------------------------------------- boxes


async def start_box(stage: Stage, name: str, door: Door, habits: dict[str, float]) -> None:
    """Start a receiver, which others can send to from now on."""
    handle = stage.client(door).workflow(programs.box, id=name)
    await stage.insist(f"start {name}", lambda: handle.start(name, habits, []))
    _ = stage.ledger.letters[name]
