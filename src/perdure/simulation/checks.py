"""The end of a simulated run: everything comes to rest, and is held against the promises."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from perdure.errors import NotFound, PerdureError
from perdure.kernel.data.commit import CLOSED
from perdure.ports.store import Inbox
from perdure.replay.history import export_history
from perdure.replay.replayer import ReplayMismatch, replay
from perdure.simulation import programs
from perdure.simulation.world import IMPATIENCE_S, Stuck
from perdure.testing.outcome import take_outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from perdure.simulation.world import World

_LOOK_S = 0.5


async def check(world: World) -> None:
    """Let everything come to rest, and check it before and after a restart of all nodes."""
    await _at_rest(world)
    for box in sorted(world.ledger.letters):
        await _collect(world, box)
    await _check_rest(world)
    before = await _statuses(world)
    for node in world.nodes:
        # In order, and not by a kill: each instance leaves memory and is read again.
        await world.change(node.restart)
    await world.calm()
    await asyncio.sleep(5)
    await _check_rest(world)
    after = await _statuses(world)
    for name in sorted(before.keys() | after.keys()):
        world.ledger.expect(after.get(name), before.get(name), f"changed by a restart: {name}")
    await _check_replay(world)
    world.ledger.check_code(late_attempts=world.kind != "alone")


async def _comes_true(world: World, look: Callable[[], Awaitable[bool]]) -> bool:
    """Look again and again, as long as the patience of the world lasts. The world has no news."""
    until_s = asyncio.get_running_loop().time() + world.patience_s
    while not await look():
        if asyncio.get_running_loop().time() > until_s:
            return False
        await asyncio.sleep(_LOOK_S)
    return True


async def _at_rest(world: World) -> None:
    """Wait until only the boxes wait for something: what is under way may still write to them."""
    boxes = world.ledger.letters.keys()

    async def only_boxes() -> bool:
        found = await world.reader.list(limit=None)
        open_ones = {one.id for one in found if one.status not in CLOSED}
        return boxes >= open_ones and not (await world.reader.counts())["inbox"]

    # What is not at rest then is found by the checks that follow.
    _ = await _comes_true(world, only_boxes)


async def _collect(world: World, box: str) -> None:
    """Have the box give what it received."""
    door = world.nodes[0].name
    try:
        # A customer may have left it paused: its resume went to a node that was killed.
        await world.insist(f"resume {box}", lambda: world.client(door).get(box).resume())
        if not await _is_emptied(world, box):
            world.patience_s = IMPATIENCE_S
            world.ledger.breach(f"stuck: mail is never taken up; {await world.state_of(box)}")
            return
        stop: programs.Letter = ["stop", 0]
        await world.insist(
            f"send to {box}", lambda: world.client(door).get(box).send(programs.mail, stop)
        )
        if await world.ended(box, box) != "completed":
            world.ledger.breach(f"status: {await world.state_of(box)}")
            return
    except Stuck as stuck:
        world.ledger.breach(str(stuck))
        return
    except PerdureError as error:
        world.ledger.breach(f"error: {error}; {await world.state_of(box)}")
        return
    received = await world.reader.workflow(programs.box, id=box).result()
    for text in world.ledger.letters[box].complaints(received):
        world.ledger.breach(f"{text} ({box})")


async def _is_emptied(world: World, box: str) -> bool:
    async def is_empty() -> bool:
        return not (await world.raw.query(Inbox(unit=box))).items

    return await _comes_true(world, is_empty)


async def _check_rest(world: World) -> None:
    """Nothing is left open, no inbox holds anything, and no command has two answers."""

    async def all_taken() -> bool:
        return not (await world.reader.counts())["inbox"]

    if not await _comes_true(world, all_taken):
        waiting = (await world.reader.counts())["inbox"]
        world.ledger.breach(f"inbox: {waiting} messages are left")
    for found in await world.reader.list(limit=None):
        if found.status not in CLOSED:
            world.ledger.breach(f"left open: {await world.state_of(found.id)}")
    outcome = await take_outcome(world.reader, None, [])
    for fault in outcome.faults:
        world.ledger.breach(f"history: {fault}")


async def _check_replay(world: World) -> None:
    """The code does the same again, for each history that is there."""
    for found in await world.reader.list(limit=None):
        try:
            history = await export_history(world.raw, found.id, every_execution=True)
            replayed = replay(programs.app, history)
        except NotFound:
            continue  # it has ended before it began
        except ReplayMismatch as mismatch:
            world.ledger.breach(f"replay: {mismatch}")
        else:
            if replayed.goes_on:
                world.ledger.breach(f"replay: {found.id} has not recorded {replayed.goes_on}")


async def _statuses(world: World) -> dict[str, str]:
    found = await world.reader.list(limit=None)
    return {one.id: f"{one.status} {one.run}" for one in found}
