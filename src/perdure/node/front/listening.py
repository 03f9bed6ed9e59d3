"""The parts of a node that listens, from its start to its stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.kernel.data.placement import scope_of
from perdure.node.front.front import Front
from perdure.node.front.peers import Peers, addresses_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from perdure.node.gateway import NodeGateway
    from perdure.node.ownership.seat import Seat
    from perdure.node.wiring import Life
    from perdure.ports.clock import Clock
    from perdure.ports.cluster import View
    from perdure.ports.transport import Transport


LINK_MS = 20_000
"""A link is lost before it has stood still for so long."""


class Listening:
    """Binds, serves, and hangs up."""

    def __init__(
        self,
        transport: Transport,
        gateway: NodeGateway,
        name: str,
        random: Random,
        clock: Clock,
        lease_ms: int,
        life: Callable[[], Life | None],
        seat: Callable[[], Seat | None],
    ) -> None:
        """Nothing is bound. `life` is the present life of the node, unless it is being ended.

        `seat` is that of the node in its cluster, if it has one.
        """
        self._transport = transport
        self._life = life
        self._seat = seat
        self._view: View | None = None
        self._clock = clock
        # How late a start can come: a process that stood still for longer has lost its lease.
        self._late_ms = LINK_MS + lease_ms
        # Units that were removed here lately, each with the time until which it is remembered.
        self._removed: dict[str, int] = {}
        self._front = Front(gateway, name, self)
        self.peers = Peers(name, transport, self._front, random, self.owner_of)
        self._front.meet(self.peers)

    @property
    def address(self) -> str | None:
        """Where others reach the node."""
        return self._transport.address

    async def bind(self) -> str:
        """Take the address. Connections wait until `begin`.

        Raises:
            Unreachable: the address is taken, or not one of this machine.
        """
        return await self._transport.bind()

    async def begin(self) -> None:
        """Serve from now on."""
        await self._transport.listen(self._front)

    def members_changed(self, view: View) -> None:
        """These nodes are members from now on."""
        self._view = view
        self.peers.follow(view)
        self._front.nodes_changed()

    async def close(self) -> None:
        """Hang up. Clients go on with other nodes."""
        # The tries first: they would open links that nobody closes.
        await self.peers.close()
        await self._transport.close()

    # ------------------------------------------------------------ told by turns

    def hint(self, unit: str) -> None:
        """Messages wait in the store for a unit of another node."""
        self.peers.hint(unit)

    def removed(self, unit: str) -> None:
        """A unit is gone. A start of it that comes late must not begin it anew."""
        now_ms = self._clock.boot_ms()
        # Behind those that are there, so that the oldest stand first.
        self._removed.pop(unit, None)
        self._removed[unit] = now_ms + self._late_ms
        for known, until_ms in list(self._removed.items()):
            if until_ms > now_ms:
                break
            del self._removed[known]

    # ------------------------------------------------------------ the node, for its front

    def takes_starts(self, unit: str) -> bool:
        """Whether a start of the unit that comes over a link may begin at once, if it is here.

        A start may come late, when its sender has posted it already. The run is known by the id of
        its start, unless it was removed since. Then only the store knows the start. So starts go by
        the store for a while after a removal, and after a scope has come from another node.
        """
        life = self._life()
        now_ms = self._clock.boot_ms()
        if life is None or self._removed.get(unit, 0) > now_ms:
            return False
        scope = life.turns.memory.home_of(unit)
        if scope is None:
            return True  # it goes to its owner, who looks as well
        is_first = scope.fence.epoch == 1
        return is_first or now_ms - scope.since_ms >= self._late_ms

    def may_act(self) -> bool:
        """Whether the node may answer: it runs, holds its lease, and is not frozen."""
        life = self._life()
        if life is None or life.ownership.is_frozen:
            return False
        # The alarm of a lease rings late behind a stop of the process, so the lease is asked.
        seat = self._seat()
        # A node without a cluster needs no lease.
        return seat is None or seat.holds

    def owner_of(self, unit: str) -> str | None:
        """The name of the node to which a unit falls, as far as this node knows."""
        life = self._life()
        seat = self._seat()
        if life is None or seat is None:
            return None
        return seat.owner_of(scope_of(unit, life.turns.store.info.shards))

    def look(self, unit: str) -> None:
        """Messages wait for a unit. Have them read, if it is this node's."""
        life = self._life()
        if life is not None and life.turns.memory.owns(unit):
            life.turns.memory.read_inbox(unit)

    def addresses(self) -> list[str]:
        """Where clients find the nodes."""
        return addresses_of(self._view, self._transport.address)
