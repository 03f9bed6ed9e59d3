"""The front of a node: answers what clients and other nodes ask.

It answers only while the node may act. A node that is frozen, or whose lease is over, says so, and
the client asks another one. This is looked at before the work and before the answer.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol

from perdure.client.remote.protocol import (
    HINT,
    LETTERS_MAX,
    LOADS_MAX,
    NODES,
    TEXTS,
    UNREADABLE,
    Ask,
    Await,
    AwaitHere,
    Begin,
    BeginAll,
    Changed,
    Drop,
    Elsewhere,
    Greet,
    Load,
    Owner,
    Post,
    PostAll,
    Started,
    StartHere,
    StartResult,
    Trouble,
    Welcome,
    check_message,
    decode_request,
    encode,
    reply_with,
    reply_with_trouble,
)
from perdure.client.remote.queries import query_of
from perdure.closing import is_held
from perdure.errors import PerdureError, StoreError, UsageError
from perdure.kernel.data.placement import check_id
from perdure.node.gateway import may_go_directly
from perdure.ports.store import OwnedStore

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from perdure.client.remote.protocol import Request
    from perdure.kernel.data.commit import UnitRow
    from perdure.kernel.data.message import Message
    from perdure.node.front.peers import Peers
    from perdure.node.gateway import NodeGateway
    from perdure.ports.transport import Link, TransportError
    from perdure.ports.transport import Request as Call

logger = logging.getLogger("perdure.node")

# A wait that its client has forgotten ends by itself.
_CHANGE_MS_MAX = 60_000
"""How long a client may wait for a change in one request."""


class House(Protocol):
    """The node behind the front."""

    def may_act(self) -> bool:
        """Whether it runs, holds its lease, and is not frozen."""
        ...

    def takes_starts(self, unit: str) -> bool:
        """Whether a start may begin at once, and need not go by the store."""
        ...

    def look(self, unit: str) -> None:
        """Messages wait for a unit. Have them read, if it is this node's."""
        ...

    def addresses(self) -> list[str]:
        """Where clients find the nodes."""
        ...


class Front:
    """What others reach of a node."""

    def __init__(
        self,
        gateway: NodeGateway,
        name: str,
        house: House,
    ) -> None:
        """Nothing is connected."""
        self._gateway = gateway
        self._name = name
        self._house = house
        self._peers: Peers | None = None
        self._clients: dict[Link, None] = {}

    def meet(self, peers: Peers) -> None:
        """Tell these of links with nodes."""
        self._peers = peers

    # ------------------------------------------------------------ links

    def opened(self, link: Link) -> None:
        """A link has come to be. A peer that serves no store is a client."""
        # Only who knows the token gets here, so a peer that says it is a node is believed.
        if link.peer.store:
            if self._peers is not None:
                self._peers.opened(link)
        else:
            self._clients[link] = None

    def closed(self, link: Link, error: TransportError | None) -> None:
        """A link has ended."""
        if link in self._clients:
            del self._clients[link]
        elif self._peers is not None:
            self._peers.closed(link)

    def nodes_changed(self) -> None:
        """Nodes have come or gone: tell the clients where nodes are."""
        if self._clients:
            body = encode(self._house.addresses())
            for link in self._clients:
                link.tell(NODES, body)

    # ------------------------------------------------------------ what comes

    def tell(self, link: Link, kind: str, body: bytes) -> None:
        """Take a hint of another node."""
        if kind != HINT or not link.peer.store:
            return  # a later release may tell more
        try:
            units = TEXTS.decode(body)
        except UNREADABLE as error:
            text = "a hint of node %s cannot be read: %s"
            logger.warning(text, link.peer.node.node, error, extra={"node": self._name})
            return
        if self._house.may_act():
            for unit in units:
                self._house.look(unit)

    def call(self, request: Call) -> Awaitable[bytes]:
        """Answer a client, or another node."""
        return self._answer(request.kind, request.body, is_node=bool(request.link.peer.store))

    async def _answer(self, kind: str, body: bytes, *, is_node: bool) -> bytes:
        try:
            self._check_may_act()
            request = decode_request(kind, body)
            if isinstance(request, StartHere | AwaitHere) and not is_node:
                msg = f"only a node asks {kind!r}"
                raise UsageError(msg)
            value = await self._do(request)
            # The lease may be over by now, and the answer would be that of an owner before.
            self._check_may_act()
        except PerdureError as error:
            # A node that stops fails in many ways, and each means the same to the client.
            if not self._house.may_act():
                return reply_with_trouble(self._elsewhere())
            return reply_with_trouble(error)
        return reply_with(value)

    def _check_may_act(self) -> None:
        if not self._house.may_act():
            raise self._elsewhere()

    def _elsewhere(self) -> Elsewhere:
        return Elsewhere(f"node {self._name!r} stops, or may not act now; ask another one")

    async def _do(self, request: Request) -> Any:
        """Do what is asked, and return the value of the answer."""
        gateway = self._gateway
        match request:
            case Post(message):
                return await gateway.post(check_message(message, gateway.limits))
            case Begin(message, again):
                check_message(message, gateway.limits)
                if again or not self._may_begin(message):
                    return Started.of(*await gateway.begin_by_store(message))
                return Started.of(*await gateway.begin(message))
            case PostAll(messages):
                checked = [check_message(one, gateway.limits) for one in messages]
                return await gateway.post_all(checked)
            case BeginAll(messages, again):
                return await self._begin_all(messages, again=again)
            case StartHere(message):
                check_message(message, gateway.limits)
                if not self._may_begin(message):
                    return None
                return await gateway.begin_here(message)
            case AwaitHere(unit):
                return await gateway.closed_here(
                    unit, request.begun, through_suspension=request.through_suspension
                )
            case Await(unit):
                check_id(unit)
                return await self._closed(request)
            case _:
                return await self._read(request)

    async def _closed(self, request: Await) -> UnitRow:
        row = await self._gateway.closed(
            request.unit, request.begun, through_suspension=request.through_suspension
        )
        if is_held(row) and not request.through_suspension:
            # A `retry` that the same client has posted may be on its way, which the store shows.
            return await self._gateway.closed_by_store(request.unit, request.begun)
        return row

    async def _begin_all(self, messages: list[Message], *, again: bool) -> list[StartResult]:
        """Begin many, all at once or all by the store."""
        for message in messages:
            check_message(message, self._gateway.limits)
        if again or not all(map(self._may_begin, messages)):
            began = await self._gateway.begin_all_by_store(messages)
        else:
            began = await self._gateway.begin_all(messages)
        results: list[StartResult] = []
        for one in began:
            if isinstance(one, StoreError):
                results.append(StartResult(trouble=Trouble.of(one)))
            else:
                results.append(StartResult(Started.of(*one)))
        return results

    def _may_begin(self, message: Message) -> bool:
        return may_go_directly(message) and self._house.takes_starts(message.to)

    async def _read(self, request: Request) -> Any:
        """Answer what only reads, or has no unit."""
        store = self._gateway.store
        match request:
            case Greet():
                return Welcome(store.info, self._gateway.limits, self._house.addresses())
            case Ask():
                return await store.query(query_of(request))
            case Load(units):
                return await store.load([check_id(unit) for unit in units[:LOADS_MAX]])
            case Changed(unit, version, within_ms):
                within_ms = max(0, min(within_ms, _CHANGE_MS_MAX))
                return await store.wait_change(check_id(unit), version, within_ms)
            case Drop(letters):
                return await store.drop_letters(letters[:LETTERS_MAX])
            case Owner():
                if isinstance(store, OwnedStore):
                    return await store.owner()
                return f"node {self._name!r}"
            case _:
                msg = f"this node cannot answer a {type(request).__name__}"
                raise UsageError(msg)
