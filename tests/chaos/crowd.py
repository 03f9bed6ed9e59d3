"""Several nodes on one store, and scopes that are handed to and fro between them.

Nodes gain and give up scopes at random, two of them are assigned the same scope, a node is cut off from
its store until it freezes and comes back late, and nodes are stopped and started.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from random import Random
from typing import cast

from programs import app
from stage import COMMON_RATES, Door, Present, Stage
from virtual_time import WallClock

from perdure import Client, Node
from perdure.client.gateway import Gateway
from perdure.errors import StoreUnavailable
from perdure.kernel.data.commit import Commit, Verdict
from perdure.kernel.data.placement import scopes_of
from perdure.ports.store import Store
from perdure.store.memory import MemoryStore
from perdure.testing.cluster import MemoryCluster
from perdure.testing.mishaps import Mishap, Mishaps, UnreliableStore

SHARDS = 5


class Witness(MemoryStore):
    """Sees that no commit of an old epoch is applied, whatever the store itself believes."""

    def __init__(self) -> None:
        super().__init__(shards=SHARDS)
        self.breaches: list[str] = []
        self._epochs: defaultdict[str, tuple[int, str]] = defaultdict(lambda: (0, ""))
        self._seen: set[bytes] = set()

    async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        verdicts = await super().commit(batch)
        for commit, verdict in zip(batch, verdicts, strict=True):
            if verdict == "applied" and commit.id not in self._seen:
                self._seen.add(commit.id)
                self._witness(commit)
        return verdicts

    def _witness(self, commit: Commit) -> None:
        fence = commit.fence
        newest, owner = self._epochs[fence.scope]
        if fence.epoch < newest or (fence.epoch == newest and fence.incarnation != owner):
            self.breaches.append(f"old epoch: a commit of {commit.unit} in {fence.scope}")
        self._epochs[fence.scope] = (fence.epoch, fence.incarnation)


class Distant(UnreliableStore):
    """A store as one node sees it, which can be cut off from it."""

    def __init__(self, store: Store, mishaps: Mishaps) -> None:
        super().__init__(store, mishaps)
        self.is_cut_off = False

    def _reach(self) -> Store:
        if self.is_cut_off:
            raise StoreUnavailable("cut off on purpose", "none")
        return super()._reach()

    async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        """Commit, if the store can be reached. The answer may be cut off, too."""
        self._reach()
        verdicts = await super().commit(batch)
        if self.is_cut_off:
            raise StoreUnavailable("cut off on purpose before the answer", "unknown")
        return verdicts

    async def _before_reading(self) -> None:
        self._reach()
        await super()._before_reading()


class Member:
    """A node of the crowd, and its way to the store."""

    def __init__(self, crowd: Crowd, name: str) -> None:
        self.name = name
        self.store = Distant(crowd.raw, crowd.mishaps)
        self._crowd = crowd
        self.node = self._new_node()

    def _new_node(self) -> Node:
        options, cluster = self._crowd.options, self._crowd.cluster
        return Node(app, self.store, name=self.name, options=options, cluster=cluster)

    async def start(self) -> None:
        """Start a new life of the node, again and again while the store fails.

        It is the same node, because an actor keeps its client: what goes through two nodes has no order.
        """
        while True:
            try:
                await self.node.start()
            except StoreUnavailable:
                await asyncio.sleep(0.01)
            else:
                return

    async def stop(self) -> None:
        while True:
            try:
                await self.node.stop(0)
            except StoreUnavailable:
                await asyncio.sleep(0.1)
            else:
                return


class Crowd(Stage):
    """A store and some nodes that share it."""

    troubles: tuple[str, ...] = ("hand_over", "cut_off", "renew")

    def __init__(
        self,
        store: Store,
        wall: WallClock | None,
        random: Random,
        mishaps: list[Mishap],
        burst: int,
    ) -> None:
        self.cluster = MemoryCluster()
        self.members: list[Member] = []
        self._dealt: dict[str, set[str]] = {}
        super().__init__(store, wall, random, mishaps, burst)
        self.members = [self._new_member(name) for name in "abc"[: random.choice([2, 2, 3])]]

    def _new_member(self, name: str) -> Member:
        return Member(self, name)

    def _new_node(self) -> Node:
        # The stage is made before its members are. What it asks of "the node" goes to the first.
        return (
            self.members[0].node
            if self.members
            else Node(app, UnreliableStore(self.raw, self.mishaps))
        )

    def client(self, door: Door) -> Client:
        """The client of a node, by the door of its name, or one that only knows the store.

        An actor keeps its door: messages of one sender have an order, those of several have none.
        """
        for member in self.members:
            if door == member.name:
                return Client(cast(Gateway, Present(member)))
        if door == "inside":  # the checks at the end do not mind which node they ask
            return Client(cast(Gateway, Present(self.members[0])))
        return super().client(door)

    def door(self) -> Door:
        """The door of an actor, at random."""
        names = [member.name for member in self.members]
        return cast(Door, self.random.choice([*names, *names, "outside"]))

    # ------------------------------------------------------------ who owns what

    def deal(self, *, overlap: float = 0.0, orphans: float = 0.0) -> None:
        """Assign every scope to a node at random; sometimes to one more, sometimes to none."""
        wanted: dict[str, set[str]] = {member.name: set() for member in self.members}
        names = sorted(wanted)
        for scope in scopes_of(SHARDS):
            if self.random.random() < orphans:
                continue
            wanted[self.random.choice(names)].add(scope)
            if self.random.random() < overlap:
                wanted[self.random.choice(names)].add(scope)
        self._dealt = wanted
        self._say()

    def _say(self) -> None:
        for name, scopes in self._dealt.items():
            self.cluster.assign(name, scopes)

    async def keep_saying(self) -> None:
        """Say again who should own what, as a cluster does: a claim may have come late and won."""
        while True:
            await asyncio.sleep(1)
            self._say()

    async def start(self) -> None:
        """Start all of them."""
        self.deal()
        await asyncio.gather(*(member.start() for member in self.members))
        self.node = self.members[0].node

    async def restart(self) -> None:
        """Stop all of them in order, and start them again."""
        await self.stop()
        await self.start()

    async def stop(self) -> None:
        """Stop all of them."""
        for member in self.members:
            member.store.is_cut_off = False
            await member.stop()

    # ------------------------------------------------------------ trouble

    async def hand_over(self) -> None:
        """Deal the scopes anew, again and again."""
        for _ in range(self.random.randrange(1, 12)):
            await asyncio.sleep(self.random.choice([0, 0.001, 0.01, 0.1, 0.5]))
            self.deal(overlap=self.random.choice([0, 0.3]), orphans=self.random.choice([0, 0, 0.2]))
        self.deal()

    async def cut_off(self) -> None:
        """Cut a node off from the store, give its scopes to others, and let it come back late."""
        member = self.random.choice(self.members)
        member.store.is_cut_off = True
        await asyncio.sleep(self.random.choice([0.01, 0.5, 3.0]))
        if self.random.random() < 0.7:
            self.deal()
            await asyncio.sleep(self.random.choice([0, 0.1, 2.0]))
        member.store.is_cut_off = False

    async def renew(self) -> None:
        """Stop a node and start it again, while the others go on."""
        member = self.random.choice(self.members)
        await member.stop()
        await asyncio.sleep(self.random.choice([0, 0.01, 0.5]))
        with suppress(StoreUnavailable):
            await member.start()

    async def calm(self) -> None:
        """Nothing goes wrong any more, and every scope has exactly one owner that knows it."""
        for member in self.members:
            member.store.is_cut_off = False
        self.deal()
        async with asyncio.timeout(self.patience_s):
            while {m.name: set(m.node.scopes) for m in self.members} != self._dealt:
                await asyncio.sleep(0.1)


def crowd_mishaps(random: Random) -> list[Mishap]:
    """What goes wrong between nodes and store in a run."""
    # Nobody else writes with an owner's own fence, so that mishap would only hide others.
    return [m for m in COMMON_RATES if random.random() < 0.3 and m != "commit overtaken"]
