"""Troubles: what comes over the nodes of a world while customers ask for things."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import TYPE_CHECKING

from perdure.simulation.world import LEASE_MS, Kind, World
from perdure.transport.network import Faults

if TYPE_CHECKING:
    from perdure.testing.cluster_node import ClusterNode, Way

Trouble = Callable[[World, Random], Awaitable[None]]

LEASE_S = LEASE_MS / 1000

TROUBLES: dict[str, Trouble] = {}
FOR: dict[Kind, list[str]] = {"leases": [], "dealt": [], "alone": []}
"""The troubles of each kind of world."""


def trouble(*kinds: Kind) -> Callable[[Trouble], Trouble]:
    """Let seeds choose it in these kinds of worlds."""

    def named(come: Trouble) -> Trouble:
        TROUBLES[come.__name__] = come
        for kind in kinds:
            FOR[kind].append(come.__name__)
        return come

    return named


def _one(world: World, random: Random) -> ClusterNode:
    return random.choice(world.nodes)


# ---------------------------------------------------------------- processes


@trouble("leases", "dealt", "alone")
async def kill(world: World, random: Random) -> None:
    """End the process of a node at once. Another life begins now or later."""
    node = _one(world, random)
    # Whoever waits for an answer of it is told, and tries again by the same door.
    await node.kill()
    await asyncio.sleep(random.choice([0, 0, 0.5, 2 * LEASE_S]))
    await node.start()


@trouble("leases", "dealt", "alone")
async def freeze(world: World, random: Random) -> None:
    """Stop a node in the middle of its work. It goes on before or after its lease is over."""
    node = _one(world, random)
    node.freeze()
    await asyncio.sleep(random.choice([0.01, 0.5, LEASE_S - 0.1, LEASE_S + 1, 4 * LEASE_S]))
    node.thaw()


@trouble("leases", "dealt", "alone")
async def restart(world: World, random: Random) -> None:
    """Stop a node in order, and start it again."""
    node = _one(world, random)
    await node.stop()
    await asyncio.sleep(random.choice([0, 0.01, 0.5]))
    await node.start()


@trouble("leases", "dealt", "alone")
async def clock_jump(world: World, random: Random) -> None:
    """Set the clock of a machine."""
    # By less than a lease and by much more. No lease may depend on it.
    _one(world, random).set_clock(random.choice([-3_600, -60, -2, 2, 60, 3_600]))
    await asyncio.sleep(random.random())


# ---------------------------------------------------------------- ways


@trouble("leases")
async def partition(world: World, random: Random) -> None:
    """Cut a node off, and let it come back before or after its lease is over."""
    node = _one(world, random)
    ways: list[tuple[Way, ...]] = [("store",), ("cluster",), ("nodes",), ("store", "cluster"), ()]
    node.cut(*random.choice(ways))
    await asyncio.sleep(random.choice([0.01, 0.5, LEASE_S - 0.1, LEASE_S + 1, 4 * LEASE_S]))
    node.heal()


@trouble("dealt", "alone")
async def cut_off(world: World, random: Random) -> None:
    """Cut a node off from the store. Perhaps its scopes go to others meanwhile."""
    node = _one(world, random)
    node.cut("store")
    await asyncio.sleep(random.choice([0.01, 0.5, 3.0]))
    if random.random() < 0.7:
        world.deal()
        await asyncio.sleep(random.choice([0, 0.1, 2.0]))
    node.heal()


@trouble("leases", "dealt", "alone")
async def slow_store(world: World, random: Random) -> None:
    """Let the calls of a node to the store take long."""
    node = _one(world, random)
    node.slow("store", random.choice([0.01, 0.2, 1.5]))
    await asyncio.sleep(random.choice([0.5, 3.0]))
    node.slow("store", 0)


@trouble("leases", "dealt")
async def bad_links(world: World, random: Random) -> None:
    """Let messages between nodes be lost, late, doubled and out of order for a while."""
    share = random.choice([0.1, 0.5])
    delay_ms = random.choice([(0, 0), (0, 50), (100, 3_000)])
    faults = Faults(drop=share, duplicate=share, reorder=share, delay_ms=delay_ms)
    world.cluster.links.use(faults)
    await asyncio.sleep(random.choice([0.5, 3.0]))
    world.cluster.links.use(Faults())


# ---------------------------------------------------------------- scopes


@trouble("dealt")
async def hand_over(world: World, random: Random) -> None:
    """Deal the scopes anew, again and again. Some go to two nodes, and some to none."""
    for _ in range(random.randrange(1, 12)):
        await asyncio.sleep(random.choice([0, 0.001, 0.01, 0.1, 0.5]))
        world.deal(overlap=random.choice([0, 0.3]), orphans=random.choice([0, 0, 0.2]))
    world.deal()
