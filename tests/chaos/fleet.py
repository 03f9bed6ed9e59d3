"""A crowd that is a cluster: its nodes renew leases, watch each other and place the scopes themselves.

A node is cut off from the store, from the cluster or from both, and comes back before or after its lease
is over. It is killed, so that it learns nothing of its end, while its next life starts. Clocks differ.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import replace
from random import Random

from crowd import Crowd, Distant, Member
from programs import app
from virtual_time import WallClock

from perdure import Node, NodeOptions
from perdure.cluster.local import LocalCluster
from perdure.errors import StoreUnavailable
from perdure.kernel.data.placement import scopes_of
from perdure.ports.clock import SystemClock
from perdure.ports.cluster import Load, NameTaken, Standing, View
from perdure.ports.cluster import Member as Seat
from perdure.ports.store import Incarnation, Store
from perdure.testing.mishaps import Mishap

LEASE_MS = 3_000
SKEWS_S = (0, 0, 0, -2, 2, -60, 60)


class Reach:
    """The cluster as one node sees it, which can be cut off from it."""

    shares_loop = True

    def __init__(self, cluster: LocalCluster, random: Random) -> None:
        self._cluster = cluster
        self._random = random
        self.is_cut_off = False

    async def __aenter__(self) -> Reach:
        return self

    async def __aexit__(self, *error: object) -> None:
        pass

    async def _pass(self) -> None:
        """A call goes there, or an answer comes back. Either may be lost, or late."""
        if self._random.random() < 0.1:
            await asyncio.sleep(self._random.choice([0.01, 0.3, 2.0]))
        if self.is_cut_off or self._random.random() < 0.02:
            raise StoreUnavailable("cut off from the cluster on purpose", "unknown")

    async def join(self, member: Seat) -> View:
        await self._pass()
        view = await self._cluster.join(member)
        await self._pass()
        return view

    async def renew(self, member: Seat, load: Load | None = None) -> View | None:
        await self._pass()
        view = await self._cluster.renew(member, load)
        await self._pass()
        return view

    async def standings(self) -> list[Standing]:
        await self._pass()
        return await self._cluster.standings()

    async def leave(self, incarnation: Incarnation) -> None:
        await self._pass()
        await self._cluster.leave(incarnation)
        await self._pass()

    async def remove(self, incarnation: Incarnation, beat: int) -> bool:
        await self._pass()
        removed = await self._cluster.remove(incarnation, beat)
        await self._pass()
        return removed

    async def view(self) -> View:
        await self._pass()
        view = await self._cluster.view()
        await self._pass()
        return view

    async def changed(self, revision: int, within_ms: int) -> View:
        await self._pass()
        view = await self._cluster.changed(revision, within_ms)
        await self._pass()
        return view


class FleetMember(Member):
    """A node of the fleet, and its ways to the store and to the cluster."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self._fleet = fleet
        self.reach = Reach(fleet.members_of, fleet.random)
        super().__init__(fleet, name)

    def _new_node(self) -> Node:
        skew_ns = self._fleet.random.choice(SKEWS_S) * 1_000_000_000
        clock = SystemClock(lambda: time.time_ns() + skew_ns)
        options = self._fleet.fleet_options
        return Node(
            app, self.store, name=self.name, options=options, cluster=self.reach, clock=clock
        )

    async def start(self) -> None:
        """Start a life of the node, as soon as the seat of the one before has ended."""
        while True:
            try:
                await self.node.start()
            except (StoreUnavailable, NameTaken):
                await asyncio.sleep(0.05)
            else:
                return

    def part(self, what: str, *, cut: bool) -> None:
        """Cut the node off, or let it come back."""
        if what != "cluster":
            self.store.is_cut_off = cut
        if what != "store":
            self.reach.is_cut_off = cut

    async def die(self) -> None:
        """End this life without its knowledge. The next one begins at once, under the same name."""
        dead = self.node
        self.part("both", cut=True)
        self.store = Distant(self._fleet.raw, self._fleet.mishaps)
        self.reach = Reach(self._fleet.members_of, self._fleet.random)
        self.node = self._new_node()
        ghost = asyncio.ensure_future(self._vanish(dead))
        self._fleet.ghosts.append(ghost)
        await self.start()

    async def _vanish(self, dead: Node) -> None:
        """Let the ghost of a dead life haunt for a while."""
        await asyncio.sleep(self._fleet.random.choice([0, 1.0, 10.0]))
        with suppress(StoreUnavailable):
            await dead.stop(0)


class Fleet(Crowd):
    """A store and some nodes that are a cluster."""

    troubles = ("part", "part", "renew", "kill")
    members: list[FleetMember]  # type: ignore[assignment]

    def __init__(
        self,
        store: Store,
        wall: WallClock | None,
        random: Random,
        mishaps: list[Mishap],
        burst: int,
    ) -> None:
        self.members_of = LocalCluster(SystemClock())
        self.ghosts: list[asyncio.Task[None]] = []
        super().__init__(store, wall, random, mishaps, burst)

    @property
    def fleet_options(self) -> NodeOptions:
        """The options of its nodes."""
        return replace(self.options, lease_ms=LEASE_MS, handover_ms=2_000)

    def _new_member(self, name: str) -> FleetMember:
        return FleetMember(self, name)

    def _say(self) -> None:
        """Nobody says who owns what."""

    async def stop(self) -> None:
        """Stop all of them."""
        for member in self.members:
            member.part("both", cut=False)
            await member.stop()
        await asyncio.gather(*self.ghosts)

    # ------------------------------------------------------------ trouble

    async def part(self) -> None:
        """Cut a node off, and let it come back before or after its lease is over."""
        member = self.random.choice(self.members)
        what = self.random.choice(["store", "cluster", "both"])
        member.part(what, cut=True)
        await asyncio.sleep(self.random.choice([0.01, 0.5, 2.9, 4.0, 12.0]))
        member.part(what, cut=False)

    async def kill(self) -> None:
        """End a life of a node without its knowledge."""
        await self.random.choice(self.members).die()

    async def calm(self) -> None:
        """Nothing goes wrong any more, and every scope has exactly one owner that knows it."""
        for member in self.members:
            member.part("both", cut=False)
        async with asyncio.timeout(self.patience_s):
            while not self._is_placed():
                await asyncio.sleep(0.1)

    def _is_placed(self) -> bool:
        owned: list[str] = []
        for member in self.members:
            states = member.node.scopes
            if set(states.values()) - {"serving"}:
                return False
            owned += states
        return sorted(owned) == sorted(scopes_of(self.raw.info.shards))
