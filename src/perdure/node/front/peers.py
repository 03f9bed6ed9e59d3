"""The other nodes of the cluster, and the links to them.

Two nodes have one link. Of the two, the one whose name comes first connects, so that there are no
two attempts at a time. A node that cannot be reached is tried again with growing pauses. Meanwhile
requests for its units go by the store.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, TypeVar

from perdure.client.remote.protocol import (
    HINT,
    KIND_OF,
    Elsewhere,
    encode,
    value_of_reply,
)
from perdure.errors import StoreUnavailable
from perdure.ports.transport import DeadlineExceeded, TransportError, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    import msgspec

    from perdure.client.remote.protocol import Request
    from perdure.ports.cluster import View
    from perdure.ports.transport import Handler, Link, Transport

T = TypeVar("T")

logger = logging.getLogger("perdure.node")

_CONNECT_MS = 5_000
_PAUSE_S = 0.1
_PAUSE_MAX_S = 5.0
_HINTS_MAX = 10_000
"""Units of which one envelope tells. More have come in one turn of the event loop than ever should,
and those are found by the store.
"""


class Peers:
    """Links to the other members, by the names of their nodes."""

    def __init__(
        self,
        name: str,
        transport: Transport,
        handler: Handler,
        random: Random,
        owner_of: Callable[[str], str | None],
    ) -> None:
        """No node is known. `owner_of` gives the name of the node to which a unit falls."""
        self._name = name
        self._transport = transport
        self._handler = handler
        self._random = random
        self._owner_of = owner_of
        self._loop = asyncio.get_running_loop()
        self._links: dict[str, Link] = {}
        # The address and the task of each node to which this one connects.
        self._keeping: dict[str, tuple[str, asyncio.Task[None]]] = {}
        self._hints: dict[str, dict[str, None]] = {}
        self._is_closed = False

    # ------------------------------------------------------------ who is there

    def follow(self, view: View) -> None:
        """The members are these from now on."""
        wanted = {
            seen.member.incarnation.node: seen.member.address
            for seen in view.members
            if seen.member.address is not None and seen.member.incarnation.node > self._name
        }
        for name, (address, task) in list(self._keeping.items()):
            if wanted.get(name) != address:
                task.cancel()
                del self._keeping[name]
        # A view may still come while the node stops.
        if self._is_closed:
            return
        for name, address in wanted.items():
            if name not in self._keeping:
                work = self._keep(name, address)
                task = self._loop.create_task(work, name=f"perdure-peer {name}")
                self._keeping[name] = (address, task)

    async def _keep(self, name: str, address: str) -> None:
        """Have a link to a node, and a new one when it ends."""
        pause_s = _PAUSE_S
        has_said = False
        link: Link | None = None
        try:
            while True:
                try:
                    link = await self._transport.connect(address, self._handler, _CONNECT_MS)
                    # An address may be given to another node, before the members are told so.
                    if link.peer.node.node != name:
                        await link.close()
                        msg = f"node {link.peer.node.node!r} answers at {address} by now"
                        raise Unreachable(msg)
                    pause_s = _PAUSE_S
                    has_said = False
                    await link.wait_closed()
                except TransportError as error:
                    # Once for each time that it is away.
                    if not has_said:
                        text = "node %s cannot reach node %s; requests for it go by the store: %s"
                        ids = {"node": self._name}
                        logger.warning(text, self._name, name, error, extra=ids)
                    has_said = True
                # With jitter, so that all nodes do not come to one that starts again at once.
                await asyncio.sleep(pause_s * self._random.uniform(0.5, 1.5))
                pause_s = min(2 * pause_s, _PAUSE_MAX_S)
        finally:
            if link is not None and link.is_open:
                await link.close()

    def opened(self, link: Link) -> None:
        """A link with a node has come to be, whichever of the two began."""
        self._links[link.peer.node.node] = link

    def closed(self, link: Link) -> None:
        """A link with a node has ended."""
        name = link.peer.node.node
        # A node that starts again may have another link by now.
        if self._links.get(name) is link:
            del self._links[name]

    async def close(self) -> None:
        """Connect to no node any more. The transport closes the links."""
        self._is_closed = True
        tasks = [task for _, task in self._keeping.values()]
        self._keeping.clear()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # ------------------------------------------------------------ asking

    def _link_to_owner(self, unit: str) -> Link | None:
        name = self._owner_of(unit)
        if name is None:
            return None
        return self._links.get(name)

    async def ask_owner(
        self,
        unit: str,
        request: Request,
        decoder: msgspec.msgpack.Decoder[T],
        timeout_ms: int,
        *,
        is_wait: bool = False,
    ) -> T | None:
        """The answer of the node that owns a unit. None: it cannot be asked, or is another by now.

        The request may have been done all the same. `is_wait`: it is asked again when its time is
        up.

        Raises:
            PerdureError: the owner has answered with this error.
        """
        while (link := self._link_to_owner(unit)) is not None:
            try:
                body = await link.call(KIND_OF[type(request)], encode(request), timeout_ms)
                return value_of_reply(body, decoder)
            except (TransportError, Elsewhere, StoreUnavailable) as error:
                # `unknown`: it took all of its time, and no more can be said against the owner.
                if isinstance(error, DeadlineExceeded) and error.outcome == "unknown" and is_wait:
                    continue
                text = "node %s was asked about %r, which goes by the store now: %s"
                logger.debug(text, link.peer.node.node, unit, error, extra={"node": self._name})
                return None
        return None

    # ------------------------------------------------------------ hints

    def hint(self, unit: str) -> None:
        """Tell the owner of a unit that messages wait for it. It may be lost."""
        name = self._owner_of(unit)
        if name is None or name not in self._links:
            return
        # A commit may post to many units, and a batch has many commits.
        if not self._hints:
            self._loop.call_soon(self._tell)
        units = self._hints.setdefault(name, {})
        if len(units) < _HINTS_MAX:
            units[unit] = None

    def _tell(self) -> None:
        """Send the hints of this turn of the event loop: one envelope for each node."""
        hints = self._hints
        self._hints = {}
        for name, units in hints.items():
            link = self._links.get(name)
            if link is not None:
                link.tell(HINT, encode(list(units)))


def addresses_of(view: View | None, own: str | None) -> list[str]:
    """Where clients find the nodes: those that serve, or this one alone."""
    found: list[str] = []
    if view is not None:
        for seen in view.members:
            address = seen.member.address
            if address is not None and seen.member.state == "serving":
                found.append(address)
    if not found and own is not None:
        found.append(own)
    return found
