"""Customers: each is one sender, does one thing after the other, and notes what it was promised."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random

from perdure import Handle, NotFound
from perdure.client.workflow_handle import WorkflowHandle
from perdure.codec import encode
from perdure.errors import InboxFull
from perdure.kernel.data import message as msg
from perdure.simulation import programs
from perdure.simulation.letters import Fate
from perdure.simulation.programs import Letter, mail
from perdure.simulation.world import World

NEVER_S = 30 * 24 * 3_600
"""A start that is delayed so long does not begin in any run."""

Customer = Callable[[World, Random, str, str], Awaitable[None]]
CUSTOMERS: dict[str, Customer] = {}


def customer(play: Customer) -> Customer:
    """Let seeds choose it."""
    CUSTOMERS[play.__name__] = play
    return play


def boxes(world: World) -> list[str]:
    """The receivers that there are."""
    return sorted(world.ledger.letters)


def fate_of(outcome: str) -> Fate:
    """What a letter that was posted has come to."""
    if outcome == "ok":
        return "acknowledged"
    return "refused"


async def pause_a_bit(random: Random) -> None:
    """Nothing, a turn of the loop, or some time."""
    await asyncio.sleep(random.choice([0, 0, 0.001, 0.02, 0.1]))


# ---------------------------------------------------------------- senders


@customer
async def sender(world: World, random: Random, name: str, door: str) -> None:
    """Send letters to one box, each when the last was answered."""
    target = random.choice(boxes(world))
    letters = world.ledger.letters[target]
    for number in range(random.choice([5, 20, 60])):
        letter: Letter = [name, number]
        handle = world.client(door).get(target)
        fate = await world.attempt(partial(handle.send, mail, letter))
        letters.note(name, number, fate)
        if random.random() < 0.4:
            await pause_a_bit(random)


@customer
async def persistent(world: World, random: Random, name: str, _door: str) -> None:
    """Post letters from outside, each message again until it is answered."""
    target = random.choice(boxes(world))
    for number in range(random.choice([5, 20])):
        value = encode([name, number])
        outcome = await world.post_until_answered(target, msg.Send("mail", value))
        if outcome != "full":  # which a backlog of the limit's length makes it
            world.ledger.expect(outcome, "ok", f"a letter to {target}")
        world.ledger.letters[target].note(name, number, fate_of(outcome))
        if random.random() < 0.4:
            await pause_a_bit(random)


@customer
async def hurried(world: World, random: Random, name: str, door: str) -> None:
    """Send several letters before the first is answered. One node takes them in their order."""
    target = random.choice(boxes(world))
    letters = world.ledger.letters[target]
    together = 1
    if world.kind == "alone":
        # Over a hand-over, letters that are on their way at once have no order.
        together = random.choice([2, 7])
    number = 0
    for _ in range(random.choice([5, 15])):
        handle = world.client(door).get(target)
        sent: list[Letter] = [[name, number + n] for n in range(together)]
        fates = await asyncio.gather(
            *(world.attempt(partial(handle.send, mail, letter)) for letter in sent)
        )
        for fate in fates:
            letters.note(name, number, fate)
            number += 1
        await pause_a_bit(random)


@customer
async def forwarder(world: World, random: Random, name: str, door: str) -> None:
    """Have a workflow send letters."""
    target, count = random.choice(boxes(world)), random.choice([3, 12])
    handle = world.client(door).workflow(programs.forward, id=name)
    await world.insist(f"start {name}", partial(handle.start, target, name, count))
    await world.ended(name, name)
    # Sends of a workflow are part of its commits: all were sent if it has ended.
    world.ledger.letters[target].note_all(name, count)


@customer
async def controller(world: World, random: Random, _name: str, door: str) -> None:
    """Pause a box and let it go on."""
    target = random.choice(boxes(world))
    for _ in range(random.randrange(1, 4)):
        # A pause may be lost. A resume may not: a box that stays paused would take no more letters.
        await world.attempt(lambda: world.client(door).get(target).pause("chaos"))
        await pause_a_bit(random)
        await world.insist(f"resume {target}", lambda: world.client(door).get(target).resume())
        await pause_a_bit(random)


@customer
async def burst(world: World, random: Random, name: str, door: str) -> None:
    """Let a paused box find many letters at once."""
    habits: dict[str, float] = {"lap": random.choice([0, 50])}
    await start_box(world, name, door, habits)
    await world.insist(f"pause {name}", lambda: world.client(door).get(name).pause())
    count = world.burst
    for number in range(count):
        try:
            outcome = await world.post_until_answered(
                name, msg.Send("mail", encode([name, number]))
            )
        except InboxFull:
            # The burst may be longer than the limit. The sender is told so, and nothing is lost.
            outcome = "full"
        world.ledger.letters[name].note(name, number, fate_of(outcome))
    await world.insist(f"resume {name}", lambda: world.client(door).get(name).resume())


# ---------------------------------------------------------------- starts that are taken back


@customer
async def fickle(world: World, random: Random, name: str, door: str) -> None:
    """Start something, delayed or not, and cancel or terminate it at once."""
    for number in range(random.randrange(2, 6)):
        tag = f"{name}-{number}"
        # Twice NEVER_S: only such a start proves that what is taken back never runs.
        delay = random.choice([None, 0.05, NEVER_S, NEVER_S])
        handle = world.client(door).workflow(programs.stay, id=tag, delay=delay)
        await world.insist(f"start {tag}", partial(handle.start, tag))
        if random.random() < 0.3:
            await pause_a_bit(random)
        await give_up(world, random, door, tag)
        # It was given up before its time, so that not even one attempt may begin.
        if delay == NEVER_S:
            world.ledger.must_never_run(tag)
        world.ledger.expect(await world.ended(tag, tag), "cancelled", f"the status of {tag}")
        if random.random() < 0.3:
            await give_up(world, random, door, tag)
        if random.random() < 0.3:
            again = world.client(door).workflow(programs.stay, id=tag)
            await world.insist(f"start {tag}", partial(again.start, tag))


async def give_up(world: World, random: Random, door: str, id: str) -> None:
    """Cancel or terminate an instance."""
    verb = random.choice(["cancel", "terminate"])

    async def ask() -> None:
        handle: Handle[object] = world.client(door).get(id)
        if verb == "cancel":
            await handle.cancel("chaos")
        else:
            await handle.terminate("chaos")

    await world.insist(f"{verb} {id}", ask)


# ---------------------------------------------------------------- ids that are used again


@customer
async def replacer(world: World, random: Random, name: str, door: str) -> None:
    """Start under one id again and again: each result is that of its own start."""
    for number in range(random.randrange(3, 8)):
        tag = f"{name}-{number}"
        amount = random.choice([0, 0, 1, 3])

        handle = world.client(door).workflow(programs.echo, id=name, if_exists="replace")
        result = await world.insist(f"run {tag} as {name}", partial(handle.run, tag, amount))
        world.ledger.expect(result, tag, f"a stale result of {name}")


@customer
async def changer(world: World, random: Random, name: str, door: str) -> None:
    """Replace what runs and end the new run at once: it is the new one that ends."""
    for number in range(random.randrange(2, 5)):
        tag = f"{name}-{number}"

        def handle() -> WorkflowHandle[[str], str]:
            return world.client(door).workflow(programs.stay, id=name, if_exists="replace")

        await world.insist(f"start {name}", partial(handle().start, tag))
        await pause_a_bit(random)
        tag = f"{tag}-new"
        await world.insist(f"start {name}", partial(handle().start, tag))
        await give_up(world, random, door, name)
        if random.random() < 0.5:
            await asyncio.sleep(1)
            world.ledger.expect(await world.ended(name, tag), "cancelled", f"the status of {name}")


@customer
async def recycler(world: World, random: Random, name: str, door: str) -> None:
    """Run an order, delete it, and run another one under the same id."""
    target = random.choice(boxes(world))
    letters = world.ledger.letters[target]
    for number in range(random.randrange(2, 5)):
        tag, sender = f"{name}-{number}", f"{name}-{number}-postcard"
        handle = world.client(door).workflow(programs.order, id=name)
        await world.insist(f"start {name}", partial(handle.start, tag, target, sender, 0))
        world.ledger.expect(await world.ended(name, tag), "completed", f"the status of {name}")
        result = await world.insist(
            f"result of {name}", lambda: world.client("outside").get(name).result()
        )
        world.ledger.expect(result, [tag, tag], f"the result of {name}")
        letters.note(sender, 0)
        await world.insist(f"delete {name}", partial(delete, world, door, name))
        # The deletion is acknowledged before it is done, and only then is the id free.
        await world.gone(name)


async def delete(world: World, door: str, id: str) -> None:
    """Delete an instance, if it is there."""
    try:
        await world.client(door).get(id).delete(force=True)
    except NotFound:
        return


# ---------------------------------------------------------------- plain work


@customer
async def worker(world: World, random: Random, name: str, door: str) -> None:
    """Something with timers, retries and timeouts."""
    handle, count = world.client(door).workflow(programs.steps, id=name), random.randrange(1, 8)
    await world.insist(f"start {name}", partial(handle.start, name, count))
    world.ledger.expect(await world.ended(name, name), "completed", f"the status of {name}")


@customer
async def sleeper(world: World, random: Random, name: str, door: str) -> None:
    """A start that is delayed, and begins."""
    handle = world.client(door).workflow(programs.echo, id=name, delay=random.choice([0.05, 1]))
    await world.insist(f"start {name}", partial(handle.start, name, 1))
    world.ledger.expect(await world.ended(name, name), "completed", f"the status of {name}")


@customer
async def glutton(world: World, random: Random, name: str, door: str) -> None:
    """Code that catches what it is refused."""
    handle = world.client(door).workflow(programs.hoarder, id=name)
    await world.insist(f"start {name}", partial(handle.start, name, 7))
    for _ in range(3):
        await pause_a_bit(random)
        outcome = await world.post_until_answered(name, msg.Send("go", encode("on")))
        world.ledger.expect(outcome, "ok", f"a message to {name}")
    world.ledger.expect(await world.ended(name, name), "completed", f"the status of {name}")


@customer
async def family(world: World, random: Random, name: str, door: str) -> None:
    """Work that children do. Sometimes it is cancelled, and none of them may go on."""
    handle, count = world.client(door).workflow(programs.parent, id=name), random.randrange(1, 5)
    await world.insist(f"start {name}", partial(handle.start, name, count))
    if random.random() < 0.4:
        await pause_a_bit(random)
        await give_up(world, random, door, name)
        ended = await world.ended(name, name)
        # A cancel that comes behind the end is acknowledged, and changes nothing.
        if ended != "completed":
            world.ledger.expect(ended, "cancelled", f"the status of {name}")
        return
    world.ledger.expect(await world.ended(name, name), "completed", f"the status of {name}")
    result = await world.insist(f"result of {name}", handle.result)
    expected = [f"{name}-{number}" for number in range(count)]
    world.ledger.expect(result, expected, f"the result of {name}")


@customer
async def runner(world: World, random: Random, name: str, door: str) -> None:
    """One execution after the other."""
    handle, count = world.client(door).workflow(programs.laps, id=name), random.randrange(1, 6)
    await world.insist(f"start {name}", partial(handle.start, name, count))
    world.ledger.expect(await world.ended(name, name), "completed", f"the status of {name}")
    result = await world.insist(f"result of {name}", handle.result)
    world.ledger.expect(result, name, f"the result of {name}")


# ---------------------------------------------------------------- boxes


async def start_box(world: World, name: str, door: str, habits: dict[str, float]) -> None:
    """Start a receiver, which others can send to from now on."""
    handle = world.client(door).workflow(programs.box, id=name)
    await world.insist(f"start {name}", partial(handle.start, name, habits, []))
    # Asking makes the entry, by which other customers find the box.
    _ = world.ledger.letters[name]
