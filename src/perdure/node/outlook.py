"""The outlook of a running node: whether it is ready, what waits for it, and whether it may go."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

import msgspec

from perdure.errors import StoreUnavailable
from perdure.node.scale import Scale, read_scale, read_waiting
from perdure.ports.cluster import Member, Seen, Standing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from perdure.node.ownership.seat import Seat
    from perdure.node.wiring import Life
    from perdure.ports.store import Incarnation, Store

_LOOK_S = 1.0
"""How often to look whether a node is idle. A short wait is looked at more often."""

_LOOKS = 4
"""How many looks a wait has at least."""


class Outlook:
    """What can be said of a node at this moment."""

    def __init__(
        self, store: Store, life: Life, seat: Seat | None, incarnation: Incarnation, lease_ms: int
    ) -> None:
        """`seat` None: the node has no cluster of members."""
        self._store = store
        self._life = life
        self._seat = seat
        self._incarnation = incarnation
        self._lease_ms = lease_ms

    def why_not_ready(self) -> list[str]:
        """Why the node does not do all that falls to it, for people. Empty: it does."""
        why = self._life.ownership.why_frozen()
        if self._seat is not None:
            why += self._seat.why_not_member()
        return why + self._life.owner.why_unsettled()

    async def scale(self) -> Scale:
        """How much waits for the nodes of the store, and how busy they are."""
        return await read_scale(self._store, await self._standings(), await self._store.now())

    async def _standings(self) -> list[Standing]:
        """All members of the cluster. Without one there is this node."""
        load = self._life.attempts.load()
        if self._seat is None:
            member = Member(incarnation=self._incarnation, lease_ms=self._lease_ms)
            return [Standing(Seen(member, 0), 0, load)]
        found: list[Standing] = []
        for standing in await self._seat.standings():
            if standing.seen.member.incarnation == self._incarnation:
                # The cluster has what this node said at its last renewal.
                found.append(msgspec.structs.replace(standing, load=load))
            else:
                found.append(standing)
        return found

    async def why_busy(self, within_ms: int) -> list[str]:
        """What the node has to do now or soon, for people. Empty: nothing."""
        attempts = self._life.attempts
        if attempts.running or attempts.waiting or not self._life.ending.quiet:
            return ["it works"]
        why = self.why_not_ready()
        if why:
            return why
        # Those that are members are believed to live. A dead one does not move its beat.
        living: tuple[str, ...] | None = None
        if self._seat is not None:
            living = (self._incarnation.id, *self.beats_of_others())
        soon = await self._store.now() + within_ms
        waiting = await read_waiting(self._store, living, soon)
        if waiting.instances:
            why.append(f"{waiting.instances} instances need a node")
        if waiting.tasks or waiting.leased:
            why.append(f"{waiting.tasks + waiting.leased} tasks wait or are leased")
        return why

    def beats_of_others(self) -> dict[str, int]:
        """The beats of the other members, as this node has seen them last."""
        if self._seat is None:
            return {}
        return self._seat.beats_of_others()


async def until_idle(outlook: Callable[[], Outlook], seconds: float) -> None:
    """Wait until there was nothing to do for so long. `outlook` gives that of the moment.

    The work of a member that dies is nobody's until its lease is over. So each of the others must
    have shown that it lives since there was something to do.
    """
    idle_s: float | None = None
    before: Mapping[str, int] = {}
    pause_s = min(_LOOK_S, seconds / _LOOKS)
    while True:
        now = outlook()
        try:
            is_busy = bool(await now.why_busy(int(seconds * 1000)))
        except StoreUnavailable:
            is_busy = True  # nobody knows
        if is_busy:
            idle_s = None
        elif idle_s is None:
            idle_s = monotonic()
            before = now.beats_of_others()
        elif monotonic() - idle_s >= seconds and _have_moved(before, now.beats_of_others()):
            return
        await asyncio.sleep(pause_s)


def _have_moved(before: Mapping[str, int], now: Mapping[str, int]) -> bool:
    return all(beat != before.get(member) for member, beat in now.items())
