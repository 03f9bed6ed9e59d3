"""The world of a simulated run: a store, its nodes, and the doors to both."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from perdure.client.client import Client
from perdure.client.gateway import StoreGateway
from perdure.cluster.local import LocalCluster
from perdure.errors import NotFound, PerdureError, StoreUnavailable, UsageError
from perdure.kernel.data.commit import CLOSED
from perdure.kernel.data.limits import Limits
from perdure.kernel.data.message import AnyBody, Message
from perdure.kernel.data.placement import scopes_of
from perdure.node import NodeOptions
from perdure.ports.store import Inbox
from perdure.simulation.ledger import Ledger
from perdure.simulation.programs import app
from perdure.simulation.witness import Witness
from perdure.testing.cluster import MemoryCluster
from perdure.testing.mishaps import Mishap, Mishaps, UnreliableStore
from perdure.testing.nodes import TestCluster

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from perdure.ports.cluster import Assigner
    from perdure.ports.store import Store
    from perdure.testing.cluster_node import ClusterNode

T = TypeVar("T")

Kind = Literal["leases", "dealt", "alone"]
"""How scopes find their owners.

`leases`: the nodes are a cluster. `dealt`: the run itself deals them, at times to two nodes at
once. `alone`: one node has all of them.
"""

PATIENCE_S = 180
"""Virtual seconds for what must come to an end. Nothing is slow here: it comes, or never does."""

IMPATIENCE_S = 5
"""The same once something has not come: what follows tells little more."""

LEASE_MS = 3_000

RATES: dict[Mishap, float] = {
    "commit refused": 0.05,
    "commit unanswered": 0.05,
    "commit overtaken": 0.05,
    "commit late": 0.3,
    "read fails": 0.08,
    "read late": 0.3,
    "hint lost": 0.2,
    "hint late": 0.2,
    "hint twice": 0.2,
    "post refused": 0.1,
    "post unanswered": 0.1,
}
"""The probability of each mishap, in a run that has it."""


class Stuck(AssertionError):
    """Something that must come to an end does not."""


class Playground(TestCluster):
    """The nodes of a world."""

    __test__ = False

    def __init__(self, kind: Kind, nodes: int, options: NodeOptions) -> None:
        """Nothing runs yet."""
        self._kind = kind
        self.dealer: MemoryCluster | None = None
        super().__init__(app, nodes=nodes, options=options)

    def _make_store(self) -> Store:
        self.witness = Witness(self.clock)
        return self.witness

    def _members(self) -> LocalCluster | Assigner | None:
        if self._kind == "alone":
            return None
        if self._kind == "dealt":
            self.dealer = MemoryCluster()
            return self.dealer
        return super()._members()


class World:
    """The nodes, their store, and what was promised to those who act."""

    def __init__(
        self,
        kind: Kind,
        nodes: int,
        random: Random,
        rates: Mapping[Mishap, float],
        burst: int,
    ) -> None:
        """Nothing runs yet. `burst` is the length of the longest backlog."""
        self.kind = kind
        self.burst = burst
        self.random = random
        # Shorter once something has not come: each wait that follows would take as long again.
        self.patience_s = float(PATIENCE_S)
        self.ledger = Ledger()
        self.cluster = Playground(kind, nodes, options(random))
        self.raw = self.cluster.witness
        self._rates = dict(rates)
        self._outside_mishaps = Mishaps(random.randrange(2**32), {})
        self._outside = StoreGateway(
            UnreliableStore(self.raw, self._outside_mishaps), self.cluster.clock
        )
        self._changing = asyncio.Lock()
        self._dealt: dict[str, set[str]] = {}
        self.deal()

    @property
    def nodes(self) -> tuple[ClusterNode, ...]:
        """The nodes, whether they run or not."""
        return self.cluster.nodes

    # ------------------------------------------------------------ what goes wrong

    def disturb(self) -> None:
        """Let the mishaps of this run happen from now on."""
        for node in self.nodes:
            node.disturb(self._rates, seed=self.random.randrange(2**32))
        self._outside_mishaps.begin(self._rates, self.random.randrange(2**32))

    async def calm(self) -> None:
        """End all that goes wrong, and wait until every scope has one owner that knows it."""
        async with self._changing:
            self._outside_mishaps.end()
            for node in self.nodes:
                node.calm()
                if not node.is_running:
                    await node.start()
        self.deal()
        try:
            async with asyncio.timeout(self.patience_s):
                while True:
                    if self._is_placed():
                        return
                    await asyncio.sleep(0.1)
        except TimeoutError:
            states = {node.name: node.scopes for node in self.nodes}
            self.ledger.breach(f"stuck: scopes have not one owner each: {states}")

    def _is_placed(self) -> bool:
        if self._dealt:
            owned = {node.name: set(node.scopes) for node in self.nodes}
            return owned == self._dealt
        # Frozen, draining or lost is not at rest, also if every scope has one owner.
        states: list[tuple[str, str]] = []
        for node in self.nodes:
            states += node.scopes.items()
        wanted = sorted((scope, "serving") for scope in scopes_of(self.raw.info.shards))
        return sorted(states) == wanted

    async def change(self, change: Callable[[], Awaitable[None]]) -> None:
        """One change of nodes at a time, and each to its end."""
        # Two at once could kill a node in the middle of its start, of which nobody else would know.
        async with self._changing:
            await change()

    # ------------------------------------------------------------ scopes that are dealt

    def deal(self, *, overlap: float = 0.0, orphans: float = 0.0) -> None:
        """Assign every scope to a node at random, sometimes to one more, and sometimes to none."""
        if self.cluster.dealer is None:
            return
        wanted: dict[str, set[str]] = {node.name: set() for node in self.nodes}
        names = sorted(wanted)
        for scope in scopes_of(self.raw.info.shards):
            if self.random.random() < orphans:
                continue
            wanted[self.random.choice(names)].add(scope)
            if self.random.random() < overlap:
                wanted[self.random.choice(names)].add(scope)
        self._dealt = wanted
        self.say()

    def say(self) -> None:
        """Tell the nodes again what they should own, because a late claim may have won."""
        if self.cluster.dealer is not None:
            for name, scopes in self._dealt.items():
                self.cluster.dealer.assign(name, scopes)

    # ------------------------------------------------------------ doors

    def doors(self) -> list[str]:
        """The doors by which a customer may come. It keeps its own: order is per sender."""
        return [*(node.name for node in self.nodes), "outside"]

    def client(self, door: str) -> Client:
        """The client of the node of this name, or one that knows the store only."""
        for node in self.nodes:
            if node.name == door:
                return node.client
        return Client(self._outside)

    @property
    def reader(self) -> Client:
        """A client for which nothing goes wrong."""
        return Client(StoreGateway(self.raw, self.cluster.clock))

    async def insist(self, what: str, act: Callable[[], Awaitable[T]]) -> T:
        """Do it until it is acknowledged. It must be something that may be done twice.

        Raises:
            Stuck: it is never acknowledged.
        """
        self.ledger.operations[what.split(maxsplit=1)[0]] += 1
        delay_s = 0.02
        try:
            async with asyncio.timeout(self.patience_s):
                while True:
                    try:
                        return await act()
                    # It may have been done. That is why it must be something to do twice.
                    except StoreUnavailable:
                        await asyncio.sleep(delay_s)
                    except UsageError as error:
                        if not _is_not_running(error):
                            raise
                        await asyncio.sleep(delay_s)
                    delay_s = min(2 * delay_s, 2)
        except TimeoutError:
            self.patience_s = IMPATIENCE_S
            state = await self.state_of(what.rsplit(maxsplit=1)[-1])
            raise Stuck(f"stuck: {what} is not answered; {state}") from None

    async def post_until_answered(self, to: str, body: AnyBody) -> str:
        """Post one message, the same again and again until the store has answered: its outcome."""
        # Made once: the store knows it by its id when it comes again.
        message = Message(os.urandom(16), to, body, self._outside.clock.now_ms())
        return await self.insist(f"post to {to}", lambda: self._outside.send(message))

    async def attempt(
        self, act: Callable[[], Awaitable[Any]]
    ) -> Literal["acknowledged", "refused", "unknown"]:
        """Do it once."""
        try:
            await act()
        except StoreUnavailable as error:
            if error.outcome == "none" and "on purpose" in str(error):
                return "refused"
            return "unknown"
        except PerdureError:
            return "unknown"
        return "acknowledged"

    # ------------------------------------------------------------ looking

    async def state_of(self, id: str) -> str:
        """What the store says about an instance, for a message."""
        with suppress(NotFound):
            found = await self.reader.get(id).describe()
            inbox = (await self.raw.query(Inbox(unit=id))).items
            kinds = dict(Counter(type(message.body).__name__ for message in inbox))
            why = ""
            if found.failure is not None:
                why = f": {found.failure.message:.200}"
            return f"{id} is {found.status} ({found.reason}){why}, in its inbox {kinds}"
        return f"{id} is not there"

    async def ended(self, id: str, tag: str) -> str:
        """Wait until the instance has ended. Return its status."""

        async def look() -> str:
            while True:
                status = (await self.reader.get(id).describe()).status
                if status in CLOSED:
                    self.ledger.has_ended(tag)
                    return status
                await asyncio.sleep(0.1)

        return await self.insist(f"the end of {id}", look)

    async def gone(self, id: str) -> None:
        """Wait until the instance is deleted."""

        async def look() -> None:
            while True:
                try:
                    await self.reader.get(id).describe()
                except NotFound:
                    return
                await asyncio.sleep(0.1)

        await self.insist(f"the deletion of {id}", look)

    @property
    def mishaps(self) -> int:
        """How much has gone wrong between the nodes, the clients and the store."""
        counts = [node.mishaps.counts.total() for node in self.nodes]
        return sum(counts) + self._outside_mishaps.counts.total()


def _is_not_running(error: UsageError) -> bool:
    text = str(error)
    return "does not run" in text or "is not running" in text


def options(random: Random) -> NodeOptions:
    """Options that make rare things frequent."""
    return NodeOptions(
        residents=random.choice([2, 5, 1_000]),
        loads=random.choice([1, 64]),
        horizon_ms=random.choice([2_000, 3_600_000]),
        sweep_ms=2_000,
        stop_ms=100,
        lease_ms=LEASE_MS,
        handover_ms=2_000,
        store_retry_ms=60_000,
        turn_limit_ms=60_000,  # of real time, on a machine that may be busy
        limits=Limits(turn_messages=random.choice([5, 100]), kv_keys=4, commit_bytes=400_000),
    )
