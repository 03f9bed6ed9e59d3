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
    from perdure.ports.cluster import View
    from perdure.ports.transport import Transport


class Listening:
    """Binds, serves, and hangs up."""

    def __init__(
        self,
        transport: Transport,
        gateway: NodeGateway,
        name: str,
        random: Random,
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
        self._front = Front(gateway, name, self._may_act, self._addresses, self._look)
        self.peers = Peers(name, transport, self._front, random, self._owner_of)
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
        await self.peers.close()
        await self._transport.close()

    # ------------------------------------------------------------ the node, for its front

    def _may_act(self) -> bool:
        """Whether the node may answer: it runs, holds its lease, and is not frozen."""
        life = self._life()
        if life is None or life.ownership.is_frozen:
            return False
        # The alarm of a lease rings late behind a stop of the process, so the lease is asked.
        seat = self._seat()
        return seat is None or seat.holds

    def _owner_of(self, unit: str) -> str | None:
        """The name of the node to which a unit falls, as far as this node knows."""
        life = self._life()
        seat = self._seat()
        if life is None or seat is None:
            return None
        return seat.owner_of(scope_of(unit, life.turns.store.info.shards))

    def _look(self, unit: str) -> None:
        """Messages wait for a unit. Have them read, if it is this node's."""
        life = self._life()
        if life is not None and life.turns.memory.owns(unit):
            life.turns.memory.read_inbox(unit)

    def _addresses(self) -> list[str]:
        return addresses_of(self._view, self._transport.address)
