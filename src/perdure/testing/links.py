"""The links of a node to its store, to its cluster and to other nodes, which a test can cut.

A cut link answers nothing: what was asked may have been done. A link that is gone belongs to a
process that was killed, and nothing comes by there any more.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self, TypeVar

from perdure.errors import StoreUnavailable
from perdure.testing.mishaps import UnreliableStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Sequence
    from types import TracebackType
    from typing import Any

    from perdure.cluster.local import LocalCluster
    from perdure.kernel.data.commit import Commit, Verdict
    from perdure.kernel.data.message import Message
    from perdure.ports.cluster import Load, Member, Standing, View
    from perdure.ports.store import Hint, Incarnation, Posted, Store
    from perdure.testing.mishaps import Mishaps
    from perdure.transport.inprocess import Faults, InProcessNetwork

T = TypeVar("T")


class Cable:
    """The state of a link: whole, cut for a while, or gone for ever."""

    def __init__(self, what: str) -> None:
        """Begin whole. `what` is at its other end, for errors."""
        self._what = what
        self.is_cut = False
        self.is_gone = False
        # What each call takes on its way, in seconds of virtual time.
        self.latency_s = 0.0

    def check(self) -> None:
        """Ask whether anything comes by.

        Raises:
            StoreUnavailable: it does not.
        """
        if self.is_gone:
            msg = f"this process was killed, and has no way to the {self._what} any more"
            raise StoreUnavailable(msg, "unknown", permanent=True)
        if self.is_cut:
            msg = f"the way to the {self._what} is cut on purpose; heal the node"
            raise StoreUnavailable(msg, "unknown")

    async def carry(self, call: Coroutine[Any, Any, T]) -> T:
        """Make a call at its other end. The question or the answer may be lost on the way.

        Raises:
            StoreUnavailable: one of the two is lost.
        """
        try:
            self.check()
            if self.latency_s:
                # Checked again behind the sleep: the way may be cut while the question is on it.
                await asyncio.sleep(self.latency_s)
                self.check()
        except BaseException:
            call.close()  # it was never made
            raise
        answer = await call
        # It was done. Whoever asked does not hear of it if the way was cut meanwhile.
        self.check()
        return answer


class StoreLink(UnreliableStore):
    """A store as one node sees it."""

    def __init__(self, store: Store, mishaps: Mishaps, cable: Cable) -> None:
        """Wrap an open store."""
        super().__init__(store, mishaps)
        self._cable = cable

    def _reach(self) -> Store:
        self._cable.check()
        return super()._reach()

    async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        """Commit, if the store can be reached. The answer may be lost."""
        return await self._cable.carry(super().commit(batch))

    async def post(self, batch: Sequence[Message]) -> list[Posted]:
        """Post, if the store can be reached. The answer may be lost."""
        return await self._cable.carry(super().post(batch))

    async def _before_reading(self) -> None:
        await self._cable.carry(super()._before_reading())

    async def _after_reading(self) -> None:
        await self._cable.carry(super()._after_reading())

    async def wait_change(self, unit: str, version: int, timeout_ms: int) -> int:
        """Wait for a change, of which nothing is heard while the link is cut."""
        return await self._cable.carry(super().wait_change(unit, version, timeout_ms))

    async def hints(self) -> AsyncIterator[Hint]:
        """The hints that come while the link is whole."""
        async for hint in super().hints():
            # A hint that is lost costs time and no message: the next scan of the inbox finds it.
            if not self._cable.is_cut and not self._cable.is_gone:
                yield hint


class ClusterLink:
    """A cluster as one node sees it."""

    shares_loop = True

    def __init__(self, cluster: LocalCluster, cable: Cable) -> None:
        """Wrap a cluster."""
        self._cluster = cluster
        self._carry = cable.carry

    async def __aenter__(self) -> Self:
        """Nothing is to be opened."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing is to be closed."""

    async def join(self, member: Member) -> View:
        """Join, if the cluster can be reached."""
        return await self._carry(self._cluster.join(member))

    async def renew(self, member: Member, load: Load | None = None) -> View | None:
        """Renew the lease, if the cluster can be reached."""
        return await self._carry(self._cluster.renew(member, load))

    async def leave(self, incarnation: Incarnation) -> None:
        """Leave, if the cluster can be reached."""
        await self._carry(self._cluster.leave(incarnation))

    async def remove(self, incarnation: Incarnation, beat: int) -> bool:
        """Remove a dead member, if the cluster can be reached."""
        return await self._carry(self._cluster.remove(incarnation, beat))

    async def view(self) -> View:
        """The members, if the cluster can be reached."""
        return await self._carry(self._cluster.view())

    async def standings(self) -> list[Standing]:
        """The members with their loads, if the cluster can be reached."""
        return await self._carry(self._cluster.standings())

    async def changed(self, revision: int, within_ms: int) -> View:
        """Wait for other members, of which nothing is heard while the link is cut."""
        return await self._carry(self._cluster.changed(revision, within_ms))


class Links:
    """The network between the nodes."""

    def __init__(self, network: InProcessNetwork) -> None:
        """All nodes reach each other."""
        self.network = network
        self._parted: dict[str, None] = {}

    def part(self, node: str, *, is_cut: bool) -> None:
        """Cut a node off from all others, or let it reach those that are not cut off."""
        if is_cut:
            self._parted[node] = None
        else:
            self._parted.pop(node, None)
        self.network.partition(*({name} for name in self._parted))

    def resume(self, node: str) -> None:
        """A new life reads what comes, also if the one before was killed while it was frozen."""
        self.network.resume(node)

    def use(self, faults: Faults) -> None:
        """Let messages between nodes be lost, late, doubled or out of order from now on."""
        self.network.use(faults)
