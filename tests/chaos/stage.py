"""Where the chaos plays: a store, the node that runs on it at the moment, and doors to both."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random
from typing import Any, Literal, Protocol, TypeVar, cast

from ledger import Ledger
from programs import app
from virtual_time import WallClock

from perdure import Client, Limits, Node, NodeOptions, NotFound
from perdure.client.gateway import Gateway, StoreGateway
from perdure.errors import PerdureError, StoreUnavailable, UsageError
from perdure.kernel.data.commit import CLOSED
from perdure.kernel.data.message import AnyBody, Message
from perdure.ports.store import Inbox, Store
from perdure.testing.mishaps import Mishap, Mishaps, UnreliableStore

T = TypeVar("T")

Door = Literal["inside", "outside"]

PATIENCE_S = 180
"""Virtual seconds for what must come to an end. Nothing is slow here: it comes, or it never does."""

IMPATIENCE_S = 5
"""The same once something has not come: what follows tells little more."""

OUTSIDE: tuple[Mishap, ...] = ("post refused", "post unanswered")
"""What befalls clients that only post; all else befalls the node."""

COMMON_RATES: dict[Mishap, float] = {
    "commit refused": 0.05,
    "commit unanswered": 0.05,
    "commit overtaken": 0.05,
    "commit late": 0.3,
    "read fails": 0.08,
    "read late": 0.3,
    "hint lost": 0.2,
    "post refused": 0.1,
    "post unanswered": 0.1,
}


class Stuck(AssertionError):
    """Something that must come to an end does not."""


class HasNode(Protocol):
    """Runs one node after the other."""

    node: Node


class Present:
    """The gateway of whichever node runs at the moment: a handle outlives the node that it was made for."""

    def __init__(self, place: HasNode) -> None:
        self._place = place

    def __getattr__(self, name: str) -> Any:
        return getattr(self._place.node.gateway, name)


class Stage:
    """One store and one node after the other."""

    def __init__(
        self,
        store: Store,
        wall: WallClock | None,
        random: Random,
        mishaps: list[Mishap],
        burst: int,
    ) -> None:
        self.raw = store
        self.burst = burst
        self.patience_s = PATIENCE_S
        self.wall = wall
        self.ledger = Ledger()
        self.random = random
        rates = {mishap: COMMON_RATES[mishap] for mishap in mishaps}
        self.mishaps = Mishaps(random.randrange(2**32), rates)
        self.options = NodeOptions(
            residents=random.choice([2, 5, 1_000]),
            loads=random.choice([1, 64]),
            horizon_ms=random.choice([2_000, 3_600_000]),
            sweep_ms=2_000,
            stop_ms=100,
            store_retry_ms=60_000,
            turn_limit_ms=5_000,  # of real time, on a machine that may be busy
            limits=Limits(turn_messages=random.choice([5, 100]), kv_keys=4, commit_bytes=400_000),
        )
        self.node = self._new_node()
        self._churning = asyncio.Lock()
        self._outside = StoreGateway(UnreliableStore(store, self.mishaps))

    def _new_node(self) -> Node:
        return Node(app, UnreliableStore(self.raw, self.mishaps), options=self.options)

    # ------------------------------------------------------------ nodes

    async def start(self) -> None:
        """Start the node, again and again while the store fails."""
        while True:
            try:
                await self.node.start()
            except StoreUnavailable:
                await asyncio.sleep(0.01)
            else:
                return

    async def churn(self, change: Callable[[], Awaitable[None]]) -> None:
        """One change of nodes at a time."""
        async with self._churning:
            await change()

    async def restart(self) -> None:
        """Stop the node in order, and start the next one."""
        await self._stopped(self.node, None)
        self.node = self._new_node()
        await self.start()

    async def stop(self) -> None:
        """Stop the node in order."""
        await self.node.stop()

    async def take_over(self) -> None:
        """Start the next node while the last one still believes that it owns everything."""
        old, new = self.node, self._new_node()
        self.node = new
        await self.start()
        await asyncio.sleep(self.random.random())
        await self._stopped(old, 0)

    async def _stopped(self, node: Node, grace: float | None) -> None:
        try:
            async with asyncio.timeout(self.patience_s):
                while True:
                    try:
                        await node.stop(grace)
                    except StoreUnavailable:
                        await asyncio.sleep(0.1)  # the release of its scopes failed
                    else:
                        return
        except TimeoutError:
            self.ledger.breach("stuck: a node does not stop")

    # ------------------------------------------------------------ doors

    def client(self, door: Door) -> Client:
        """The node's own client, or one that only knows the store."""
        return Client(cast(Gateway, Present(self))) if door == "inside" else Client(self._outside)

    async def insist(self, what: str, act: Callable[[], Awaitable[T]]) -> T:
        """Do it until it is acknowledged: it must be something that may be done twice."""
        self.ledger.operations[what.split()[0]] += 1
        delay_s = 0.02
        try:
            async with asyncio.timeout(self.patience_s):
                while True:
                    try:
                        return await act()
                    except StoreUnavailable:
                        await asyncio.sleep(delay_s)
                    except UsageError as error:
                        if "is not running" not in str(error):
                            raise
                        await asyncio.sleep(delay_s)
                    delay_s = min(2 * delay_s, 2)
        except TimeoutError:
            self.patience_s = IMPATIENCE_S
            state = await self.state_of(what.split()[-1])
            raise Stuck(f"stuck: {what} is not answered; {state}") from None

    async def post_until_answered(self, to: str, body: AnyBody) -> str:
        """Post one message, the same again and again until the store has answered; its outcome."""
        message = Message(os.urandom(16), to, body, self._outside.clock.now_ms())
        return await self.insist(f"post to {to}", lambda: self._outside.send(message))

    async def quiet(self) -> None:
        """Wait until no change of nodes is on its way."""
        async with self._churning:
            pass

    # ------------------------------------------------------------ looking

    async def state_of(self, id: str) -> str:
        """What the store says about an instance, for a message."""
        client = Client(StoreGateway(self.raw))
        with suppress(NotFound):
            found = await client.get(id).describe()
            inbox = (await self.raw.query(Inbox(unit=id))).items
            kinds = dict(Counter(type(message.body).__name__ for message in inbox))
            why = f": {found.failure.message:.200}" if found.failure else ""
            return f"{id} is {found.status} ({found.reason}){why}, in its inbox {kinds}"
        return f"{id} is not there"

    async def ended(self, id: str, tag: str) -> str:
        """Wait until the instance has ended: its status."""

        async def look() -> str:
            while True:
                status = (await Client(StoreGateway(self.raw)).get(id).describe()).status
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
                    await Client(StoreGateway(self.raw)).get(id).describe()
                except NotFound:
                    return
                await asyncio.sleep(0.1)

        await self.insist(f"the deletion of {id}", look)

    async def attempt(
        self, act: Callable[[], Awaitable[Any]]
    ) -> Literal["acknowledged", "refused", "unknown"]:
        """Do it once."""
        try:
            await act()
        except StoreUnavailable as error:
            return (
                "refused" if error.outcome == "none" and "on purpose" in str(error) else "unknown"
            )
        except PerdureError:
            return "unknown"
        return "acknowledged"
