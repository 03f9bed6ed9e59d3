"""The seat of a node in its cluster, as the node's own event loop sees it.

The membership works on a thread of its own. It tells the seat of each renewal and each change, and
the seat passes that on: to the lease, which freezes the node, and to the owner, which gains scopes
and gives them up.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from perdure.kernel.data.placement import scopes_of
from perdure.kernel.placement.pins import place_pins
from perdure.kernel.placement.rendezvous import place
from perdure.node.ownership.helm import Helm
from perdure.node.ownership.membership import Membership
from perdure.node.ownership.reports import Reports
from perdure.ports.cluster import Assignment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from perdure.node.ownership.lease import Lease
    from perdure.node.ownership.ownership import Ownership
    from perdure.node.ownership.pins import Pins
    from perdure.ports.clock import Clock
    from perdure.ports.cluster import Cluster, Load, Member, Standing, View
    from perdure.ports.store import Incarnation

_TICK_S = 0.5
"""How often the event loop shows that it turns."""


@dataclass(frozen=True, slots=True)
class Told:
    """The parts of a node that a seat tells of its news."""

    failed: Callable[[Exception], None]
    code_changed: Callable[[], None]
    """There is other code among the members."""
    members_changed: Callable[[View], None] | None = None


class Seat:
    """Joins the cluster, follows what it says, and leaves it."""

    def __init__(
        self,
        cluster: Cluster,
        member: Member,
        lease: Lease,
        ownership: Ownership,
        clock: Clock,
        *,
        pins: Pins,
        needed: Sequence[str],
        shards: int,
        hung_ms: int,
        load: Callable[[], Load],
        told: Told,
    ) -> None:
        """Nothing is joined. An event loop that stands still for `hung_ms` loses its lease.

        `needed` are the groups of the app's workflows.
        """
        self._member = member
        self._pins = pins
        self._shards = shards
        self._told = told
        self._reports = Reports(member.incarnation.node)
        self._reports.need(needed)
        self._lease = lease
        self._ownership = ownership
        self._clock = clock
        self._scopes = self._scopes_of(member)
        self._load = load
        self._hung_ms = hung_ms + int(_TICK_S * 1000)
        self._view: View | None = None
        self._assignment = Assignment(frozenset())
        self._placed: dict[str, str] = {}
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._ticked_ms = clock.boot_ms()
        self._tick_handle: asyncio.Handle | None = None
        self._membership = Membership(
            cluster, member, self, boot_ms=clock.boot_ms, ticks=self._ticks
        )
        self._helm = Helm(cluster, self._membership, told.failed)
        pins.listen(self._news.set)

    def _scopes_of(self, member: Member) -> dict[str, list[str]]:
        """All shards of the groups that a member serves."""
        return {group: scopes_of(self._shards, group) for group in member.groups}

    # ------------------------------------------------------------ joining and leaving

    async def take(self) -> None:
        """Join the cluster, and renew the lease from now on.

        Raises:
            UsageError: a living node has this name.
            StoreUnavailable: the cluster does not answer.
        """
        self._tick()
        await self._helm.begin()

    def announce_leave(self) -> None:
        """Tell the others that the scopes of this node are soon free."""
        self._member = _leaving(self._member)
        self._helm.call(lambda: self._membership.describe(_leaving))

    def describe(
        self, groups: tuple[str, ...], code: tuple[str, ...], needed: Sequence[str]
    ) -> None:
        """Tell the others what this node serves and can run from now on."""
        self._reports.need(needed)

        def change(member: Member) -> Member:
            return msgspec.structs.replace(member, groups=groups, code=code)

        self._member = change(self._member)
        self._scopes = self._scopes_of(self._member)
        # The members come back as another view, and then the placement is computed anew.
        self._helm.call(lambda: self._membership.describe(change))

    def describe_soon(
        self, groups: tuple[str, ...], code: tuple[str, ...], needed: Sequence[str]
    ) -> None:
        """The same, from any thread."""
        with suppress(RuntimeError):  # the loop is closed, and the next life says it
            self._loop.call_soon_threadsafe(self.describe, groups, code, needed)

    async def leave(self) -> None:
        """Give up the seat. The scopes have been released by now."""
        self._lease.give_up()
        if self._tick_handle is not None:
            self._tick_handle.cancel()
        await self._helm.end()

    # ------------------------------------------------------------ the tick of the event loop

    def _tick(self) -> None:
        self._ticked_ms = self._clock.boot_ms()
        self._tick_handle = self._loop.call_later(_TICK_S, self._tick)

    def _ticks(self) -> bool:
        """Whether the event loop turns. The membership asks from its thread."""
        return self._clock.boot_ms() - self._ticked_ms <= self._hung_ms

    # ------------------------------------------------------------ told by the membership

    def renewed(self, until_ms: int, view: View) -> None:
        """The lease lasts until `until_ms` (boot time)."""
        self._helm.tell(self._renewed, until_ms, view)

    def seen(self, view: View) -> None:
        """Other members have come, gone or changed."""
        self._helm.tell(self._seen, view)

    def removed(self, incarnation: Incarnation) -> None:
        """The members have taken this node for dead."""
        self._helm.tell(self._removed, incarnation)

    def load(self) -> Load:
        """How busy the node is now."""
        return self._load()

    async def standings(self) -> list[Standing]:
        """All members, with their loads.

        Raises:
            StoreUnavailable: the cluster does not answer.
        """
        return await self._helm.ask(self._membership.standings)

    def _renewed(self, until_ms: int, view: View) -> None:
        self._lease.renew(until_ms)
        self._pins.note_round()
        self._seen(view)

    def _seen(self, view: View) -> None:
        is_new = self._view is None or view.revision != self._view.revision
        self._view = view
        if is_new:
            self._note_members([seen.member for seen in view.members])
            self._pins.expect_others()
            self._assignment = self._assigned(view)
            if self._told.members_changed is not None:
                self._told.members_changed(view)
        # Also when it is the same. A node with an older view may have claimed late and won, and its
        # scope would have no owner.
        self._news.set()

    def _note_members(self, members: list[Member]) -> None:
        self._reports.see(self._member, members)
        if self._ownership.see(members):
            self._told.code_changed()

    def _removed(self, incarnation: Incarnation) -> None:
        self._view = None
        self._member = msgspec.structs.replace(self._member, incarnation=incarnation)
        self._ownership.lose_all(incarnation)

    # ------------------------------------------------------------ told to the owner

    async def assignments(self) -> AsyncIterator[Assignment]:
        """What the node should own, after each change of the members and each renewal."""
        while True:
            await self._news.wait()
            self._news.clear()
            if await self._pins.look() and self._view is not None:
                self._assignment = self._assigned(self._view)
            if self._view is not None:
                yield self._assignment

    def _assigned(self, view: View) -> Assignment:
        own = self._member.incarnation.id
        members = [seen.member for seen in view.members]
        placed = place(self._scopes, members) | place_pins(self._pins.names, members)
        names = {member.incarnation.id: member.incarnation.node for member in members}
        self._placed = {scope: names[owner] for scope, owner in placed.items()}
        scopes = frozenset(scope for scope, owner in placed.items() if owner == own)
        return Assignment(scopes, frozenset(member.incarnation.id for member in members))

    def owner_of(self, scope: str) -> str | None:
        """The name of the node to which a scope falls, by the last view. None: there is none."""
        return self._placed.get(scope)

    @property
    def holds(self) -> bool:
        """Whether the node holds its lease now."""
        return self._lease.holds

    @property
    def view(self) -> View | None:
        """The members, as they were seen last. None: the node is not one of them now."""
        return self._view

    def why_not_member(self) -> list[str]:
        """Why the node has no part in the cluster now, for people. Empty: it has."""
        if self._view is None:
            return ["it is no member of its cluster now"]
        return []

    def beats_of_others(self) -> dict[str, int]:
        """The beats of the other members by their ids, as they were seen last."""
        beats: dict[str, int] = {}
        if self._view is not None:
            for seen in self._view.members:
                beats[seen.member.incarnation.id] = seen.beat
        beats.pop(self._member.incarnation.id, None)
        return beats


def _leaving(member: Member) -> Member:
    return msgspec.structs.replace(member, state="leaving")
