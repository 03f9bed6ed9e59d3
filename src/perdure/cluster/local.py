"""A cluster in memory, for the nodes of one process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from perdure.errors import StoreUnavailable
from perdure.ports.cluster import Member, NameTaken, Seen, View

if TYPE_CHECKING:
    from types import TracebackType

    from perdure.ports.clock import Clock
    from perdure.ports.store import Incarnation


class LocalCluster:
    """Who is alive, in memory. Its nodes share one event loop."""

    shares_loop = True

    def __init__(self, clock: Clock) -> None:
        """There are no members. Waits for changes end by `clock`."""
        self._clock = clock
        self._members: dict[str, Seen] = {}
        # For tests: no member is answered.
        self.is_away = False
        # For tests: those who join learn nothing of it.
        self.loses_answers = False
        self._silent: set[str] = set()
        self._revision = 0
        # A dict, so that they are told in one order in each run of a simulation.
        self._waiting: dict[asyncio.Event, None] = {}

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

    # ------------------------------------------------------------ for tests

    def silence(self, incarnation: Incarnation) -> None:
        """Answer this member no more, and take nothing of it, as if the network were cut."""
        self._silent.add(incarnation.id)

    def hear(self, incarnation: Incarnation) -> None:
        """Answer this member again."""
        self._silent.discard(incarnation.id)

    def _check(self, incarnation: Incarnation) -> None:
        self._check_all()
        if incarnation.id in self._silent:
            msg = f"the cluster does not answer node {incarnation.node!r}"
            raise StoreUnavailable(msg)

    def _check_all(self) -> None:
        if self.is_away:
            msg = "the cluster does not answer"
            raise StoreUnavailable(msg)

    # ------------------------------------------------------------ the port

    async def join(self, member: Member) -> View:
        """Become a member."""
        self._check(member.incarnation)
        if member.incarnation.id not in self._members:
            name = member.incarnation.node
            if any(seen.member.incarnation.node == name for seen in self._members.values()):
                raise NameTaken(name)
            self._members[member.incarnation.id] = Seen(member, 1)
            self._has_changed()
        if self.loses_answers:
            msg = "the answer of the cluster is lost"
            raise StoreUnavailable(msg, "unknown")
        return await self.view()

    async def renew(self, member: Member) -> View | None:
        """Show that a member lives."""
        self._check(member.incarnation)
        before = self._members.get(member.incarnation.id)
        if before is None:
            return None
        self._members[member.incarnation.id] = Seen(member, before.beat + 1)
        if before.member != member:
            self._has_changed()
        return await self.view()

    async def leave(self, incarnation: Incarnation) -> None:
        """End a membership."""
        self._check(incarnation)
        self._delete(incarnation)

    def _delete(self, incarnation: Incarnation) -> None:
        if self._members.pop(incarnation.id, None) is not None:
            self._has_changed()

    async def remove(self, incarnation: Incarnation, beat: int) -> bool:
        """Remove a member that has not moved since this beat."""
        self._check_all()
        seen = self._members.get(incarnation.id)
        if seen is None or seen.beat != beat:
            return False
        self._delete(incarnation)
        return True

    async def view(self) -> View:
        """All members."""
        self._check_all()
        members = [self._members[id_] for id_ in sorted(self._members)]
        return View(self._revision, tuple(members))

    async def changed(self, revision: int, within_ms: int) -> View:
        """Wait for another revision."""
        news = asyncio.Event()
        self._waiting[news] = None
        alarm = self._clock.call_after(within_ms, news.set)
        try:
            while self._revision == revision and not news.is_set():
                await news.wait()
        finally:
            alarm.cancel()
            del self._waiting[news]
        return await self.view()

    def _has_changed(self) -> None:
        self._revision += 1
        for news in self._waiting:
            news.set()
