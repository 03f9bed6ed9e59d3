"""Membership: a node's seat in its cluster, and the lease that it renews.

    join ──▶ renew every third of the lease ──▶ leave
                  │
                  └─ removed by another node ──▶ join as another incarnation

It has a thread and an event loop of its own, so that busy turns do not cost the node its lease. It
renews only while the node's own event loop ticks: a node that hangs should be taken for dead. It
also watches the other members, and removes those whose lease is over.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from perdure.errors import StoreUnavailable
from perdure.kernel.placement.observer import Observer
from perdure.ports.cluster import NameTaken
from perdure.ports.store import Incarnation

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from perdure.ports.cluster import Cluster, Load, Member, Seen, Standing, View

T = TypeVar("T")

logger = logging.getLogger("perdure.node")

_PARTS = 3
"""A lease is renewed so many times while it lasts. One renewal may fail, and another be slow."""

_RETRY_PARTS = 20
"""A renewal that failed is tried again after this part of the lease."""


_SUSPECT_MS = 500
"""How often to look while a member is disconnected. Its process has most likely ended."""

_LEAST_LOOK_MS = 50
"""Looks are no more frequent than this, however short the lease of a member is."""


class Told(Protocol):
    """The node, as its membership tells it what has become of it."""

    def renewed(self, until_ms: int, view: View) -> None:
        """The lease lasts until `until_ms` (boot time)."""
        ...

    def seen(self, view: View) -> None:
        """Other members have come, gone or changed."""
        ...

    def removed(self, incarnation: Incarnation) -> None:
        """The members have taken this node for dead. It goes on as this incarnation."""
        ...

    def load(self) -> Load | None:
        """How busy the node is now. None: that is not known. It is called on any thread."""
        ...


class Membership:
    """Keeps a node in its cluster. All of it runs on one event loop."""

    def __init__(
        self,
        cluster: Cluster,
        member: Member,
        told: Told,
        *,
        boot_ms: Callable[[], int],
        ticks: Callable[[], bool],
    ) -> None:
        """Nothing is joined. `ticks` says whether the node's event loop still turns."""
        self._cluster = cluster
        self._member = member
        self._told = told
        self._boot_ms = boot_ms
        self._ticks = ticks
        self._observer = Observer()
        self._changed = asyncio.Event()
        self._hung = False
        self._is_away = False

    @property
    def _ids(self) -> dict[str, str]:
        return {"node": self._member.incarnation.node}

    async def join(self) -> None:
        """Take a seat. A dead member of this name is removed first, which takes its lease.

        Raises:
            NameTaken: a living node has this name.
            StoreUnavailable: the cluster does not answer.
        """
        while True:
            asked_ms = self._boot_ms()
            try:
                view = await self._answered(self._cluster.join(self._member))
            except NameTaken as taken:
                await self._outlive(taken)
            else:
                self._told.renewed(asked_ms + self._member.lease_ms, view)
                return

    async def _outlive(self, taken: NameTaken) -> None:
        """Wait until the member of this node's name is removed.

        Raises:
            NameTaken: it has moved, so it lives.
        """
        name = self._member.incarnation.node
        text = "another life of node %s is a member. This one waits until its lease is over"
        logger.warning(text, name, extra=self._ids)
        first: Seen | None = None
        while True:
            view = await self._answered(self._cluster.view())
            namesakes = [seen for seen in view.members if seen.member.incarnation.node == name]
            if not namesakes:
                return
            if first is None:
                first = namesakes[0]
            if _has_moved(first, namesakes[0]):
                raise taken
            await self._bury(view)
            await asyncio.sleep(self._member.lease_ms / 1000 / _RETRY_PARTS)

    async def run(self) -> None:
        """Renew the lease and watch the others, until it is cancelled."""
        while True:
            try:
                await self._round()
            except StoreUnavailable as error:
                self._note_outage(error)
                await asyncio.sleep(self._member.lease_ms / 1000 / _RETRY_PARTS)

    def _note_outage(self, error: StoreUnavailable) -> None:
        # The node freezes when its lease is over. Until then nothing is lost.
        if not self._is_away:
            text = "node %s cannot renew its lease now, and tries again: %s"
            logger.warning(text, self._member.incarnation.node, error, extra=self._ids)
        self._is_away = True

    def _end_outage(self) -> None:
        if self._is_away:
            text = "node %s has renewed its lease: the cluster answers again"
            logger.warning(text, self._member.incarnation.node, extra=self._ids)
        self._is_away = False

    async def _round(self) -> None:
        """Renew the lease, and watch until it is to be renewed again."""
        lease_ms = self._member.lease_ms
        if not self._may_renew():
            await self._bury(await self._answered(self._cluster.view()))
            await asyncio.sleep(lease_ms / 1000 / _RETRY_PARTS)
            return
        asked_ms = self._boot_ms()
        self._changed.clear()
        view = await self._answered(self._cluster.renew(self._member, self._told.load()))
        self._end_outage()
        if view is None:
            await self._come_back()
            return
        self._told.renewed(asked_ms + lease_ms, view)
        await self._bury(view)
        next_ms = asked_ms + lease_ms // _PARTS
        while (left_ms := next_ms - self._boot_ms()) > 0 and not self._changed.is_set():
            next_view = await self._next_view(view.revision, min(left_ms, _look_ms(view)))
            if next_view is None:
                return
            if next_view.revision != view.revision:
                self._told.seen(next_view)
            view = next_view
            await self._bury(view)

    async def _next_view(self, revision: int, within_ms: int) -> View | None:
        """Wait for a change of the members, or of this one (None), or until the time is up (None).

        The next renewal must not wait for an answer about other nodes that is late.
        """
        looking = asyncio.ensure_future(self._cluster.changed(revision, within_ms))
        own = asyncio.ensure_future(self._changed.wait())
        try:
            first = asyncio.FIRST_COMPLETED
            await asyncio.wait([looking, own], timeout=within_ms / 1000, return_when=first)
            if looking.done():
                return looking.result()
            return None
        finally:
            looking.cancel()
            own.cancel()
            await asyncio.gather(looking, own, return_exceptions=True)

    async def _answered(self, question: Coroutine[Any, Any, T]) -> T:
        """The answer of the cluster.

        Raises:
            StoreUnavailable: it is late. The connection may be dead, and another try has a chance.
        """
        try:
            async with asyncio.timeout(self._member.lease_ms / 1000 / _PARTS):
                return await question
        except TimeoutError:
            msg = "the cluster has not answered for a third of the lease"
            raise StoreUnavailable(msg, "unknown") from None

    def _may_renew(self) -> bool:
        """Whether the node works. People are told once when it does not."""
        hung = not self._ticks()
        if hung and not self._hung:
            text = (
                "node %s does not renew its lease: its event loop stands still. Other nodes take"
                " its work over when the lease is over"
            )
            logger.error(text, self._member.incarnation.node, extra=self._ids)
        self._hung = hung
        return not hung

    async def _bury(self, view: View) -> None:
        """Remove the members whose lease is over."""
        for seen in self._observer.look(view, self._boot_ms()):
            who = seen.member.incarnation
            if who.id == self._member.incarnation.id:
                continue  # it would know by its renewals
            if await self._answered(self._cluster.remove(who, seen.beat)):
                text = "node %s has not renewed its lease: it counts as dead"
                logger.warning(text, who.node, extra=self._ids)

    async def _come_back(self) -> None:
        """Join again: the others have taken this node for dead."""
        name = self._member.incarnation.node
        text = "node %s was taken for dead: it gives up what it owned, and joins again"
        logger.error(text, name, extra=self._ids)
        incarnation = Incarnation(name, os.urandom(8).hex())
        self._member = msgspec.structs.replace(self._member, incarnation=incarnation)
        # Before it joins, so that the node has lost everything when it is assigned something.
        self._told.removed(incarnation)
        await self.join()

    def describe(self, change: Callable[[Member], Member]) -> None:
        """Change what the others see of the node, and tell them at once."""
        self._member = change(self._member)
        self._changed.set()

    async def standings(self) -> list[Standing]:
        """All members, with their loads.

        Raises:
            StoreUnavailable: the cluster does not answer.
        """
        return await self._answered(self._cluster.standings())

    async def leave(self) -> None:
        """Give up the seat.

        Raises:
            StoreUnavailable: the cluster does not answer. The lease ends by itself.
        """
        await self._answered(self._cluster.leave(self._member.incarnation))


def _look_ms(view: View) -> int:
    """How long the members may go without a look at them."""
    # A member that is looked at less often than its own lease asks for is never judged.
    look_ms = min(seen.member.lease_ms for seen in view.members) // _PARTS
    if any(seen.is_connected is False for seen in view.members):
        look_ms = min(look_ms, _SUSPECT_MS)
    return max(look_ms, _LEAST_LOOK_MS)


def _has_moved(before: Seen, after: Seen) -> bool:
    """Whether a member shows that it lives. The end of its session is no such sign."""
    return before.beat != after.beat or before.member.incarnation != after.member.incarnation
