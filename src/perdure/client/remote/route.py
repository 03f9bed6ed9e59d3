"""The route of a client to the nodes: one link, to any of them, and another when that one ends.

A request that fails on its way is sent again by the next link. Its sender says how: a request that
may have been done is repeated in a form that is safe to repeat.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from random import Random
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from perdure.client.remote.address import Nodes
from perdure.client.remote.protocol import (
    CALL_MS,
    KIND_OF,
    NODES,
    TEXTS,
    WELCOME,
    Elsewhere,
    Greet,
    Request,
    Welcome,
    encode,
    value_of_reply,
)
from perdure.errors import DecodeError, StoreUnavailable, UsageError
from perdure.ports.clock import Clock
from perdure.ports.transport import (
    DeadlineExceeded,
    FrameTooLarge,
    Garbage,
    Link,
    Outcome,
    Refused,
    Transport,
    TransportError,
    Unreachable,
)
from perdure.ports.transport import Request as Call

T = TypeVar("T")

logger = logging.getLogger("perdure.client")

PATIENCE_MS = 30_000
"""How long a request is tried again while no node answers. One that waits is for ever."""
_CONNECT_MS = 5_000
_PAUSE_S = 0.05
_PAUSE_MAX_S = 2.0
_ADDRESSES_MAX = 1_000
"""Addresses that a client learns from the nodes. More are not believed."""


class Route:
    """The way to some node. It runs on the event loop on which it was opened."""

    def __init__(
        self,
        nodes: Nodes,
        transport: Transport,
        clock: Clock,
        random: Random,
        patience_ms: int = PATIENCE_MS,
    ) -> None:
        """Connect to nothing yet. The transport is closed with the route."""
        self.nodes = nodes
        self._transport = transport
        self._clock = clock
        self._random = random
        self._patience_ms = patience_ms
        self._learned: tuple[str, ...] = ()
        self._link: Link | None = None
        self._welcome: Welcome | None = None
        # All requests that find no link wait for the same attempt.
        self._connecting = asyncio.Lock()

    @property
    def welcome(self) -> Welcome:
        """What the node has said of its store.

        Raises:
            UsageError: the client is not open.
        """
        if self._welcome is None:
            msg = f"the client of {self.nodes!r} is not open; use `async with`"
            raise UsageError(msg)
        return self._welcome

    async def __aenter__(self) -> Self:
        """Connect to one of the nodes.

        Raises:
            Refused, Unreachable, Garbage: none of them takes this client. The error names each.
        """
        try:
            await self._connected()
        except BaseException:
            await self._transport.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Hang up."""
        await self._transport.close()

    # ------------------------------------------------------------ asking

    async def ask(
        self,
        request: Request,
        decoder: msgspec.msgpack.Decoder[T],
        timeout_ms: int = CALL_MS,
        *,
        again: Request | None = None,
        is_wait: bool = False,
    ) -> T:
        """The answer of some node.

        `again` is the request to send when an earlier one may have been done. `is_wait`: it may be
        asked for as long as it takes.

        Raises:
            StoreUnavailable: no node has answered in time. The outcome says whether it was done.
            PerdureError: the answer is an error.
        """
        began_ms = self._clock.boot_ms()
        pause_s = _PAUSE_S
        outcome: Outcome = "none"
        has_said = False
        link: Link | None = None
        while True:
            try:
                link = await self._connected()
                body = await link.call(KIND_OF[type(request)], encode(request), timeout_ms)
                return value_of_reply(body, decoder)
            except FrameTooLarge:
                raise  # it would be as large the next time
            except DeadlineExceeded as error:
                trouble: Exception = error
                if is_wait and self._clock.boot_ms() - began_ms >= timeout_ms:
                    began_ms = self._clock.boot_ms()
                    continue  # nothing is wrong: it lasts
                outcome = _worse(outcome, error.outcome)
            except TransportError as error:
                trouble = error
                outcome = _worse(outcome, error.outcome)
            # The link is sound, and the node is not: the next try must find another one.
            except Elsewhere as error:
                trouble = error
                await self._leave(link)
            except StoreUnavailable as error:
                trouble = error
                outcome = _worse(outcome, error.outcome)
                await self._leave(link)
            if again is not None and outcome == "unknown":
                request = again
            is_over = self._clock.boot_ms() - began_ms >= self._patience_ms
            if is_over and not is_wait:
                msg = f"{self.nodes!r} has not answered for {self._patience_ms:,} ms: {trouble}"
                raise StoreUnavailable(msg, outcome) from trouble
            if is_over and not has_said:
                text = "no node of %r answers, and this wait goes on until one does: %s"
                logger.warning(text, self.nodes, trouble)
                has_said = True
            # With jitter, so that the clients of a node that died do not come all at once.
            await asyncio.sleep(pause_s * self._random.uniform(0.5, 1.5))
            pause_s = min(2 * pause_s, _PAUSE_MAX_S)

    # ------------------------------------------------------------ the link

    async def _connected(self) -> Link:
        link = self._link
        if link is not None and link.is_open:
            return link
        async with self._connecting:
            if self._link is None or not self._link.is_open:
                self._link = await self._connect()
            return self._link

    async def _leave(self, link: Link | None) -> None:
        """The node at the other end cannot answer. Ask another one the next time."""
        # Others may have left it already, and use another link by now.
        if link is not None and link is self._link:
            self._link = None
            await link.close()

    async def _connect(self) -> Link:
        """Connect to any node, in random order: many clients then spread over the nodes."""
        addresses = list(dict.fromkeys((*self.nodes.addresses, *self._learned)))
        self._random.shuffle(addresses)
        failures: list[TransportError] = []
        for address in addresses:
            try:
                return await self._greeted(
                    await self._transport.connect(address, self, _CONNECT_MS)
                )
            except (FrameTooLarge, Garbage) as error:
                failures.append(Garbage(f"what answers at {address} is no node: {error}"))
            except Refused as error:
                failures.append(Refused(f"at {address}: {error}", error.reason))
            except Unreachable as error:
                failures.append(error)  # it names the address
            except TransportError as error:
                failures.append(Unreachable(f"at {address}: {error}"))
            except (Elsewhere, StoreUnavailable, DecodeError) as error:
                failures.append(Unreachable(f"the node at {address} does not serve: {error}"))
        raise _one_error(failures)

    async def _greeted(self, link: Link) -> Link:
        """Ask a node for what a client must know."""
        try:
            body = await link.call(KIND_OF[Greet], encode(Greet()), _CONNECT_MS)
            welcome = value_of_reply(body, WELCOME)
            # Ids mean other instances there, so going on would mix them up.
            before = self._welcome
            if before is not None and before.info.id != welcome.info.id:
                msg = f"the node at {link.address} serves another store than the ones before"
                raise Refused(msg, "store")
        except BaseException:
            await link.close()
            raise
        self._welcome = welcome
        self._learn(welcome.addresses)
        return link

    def _learn(self, addresses: Sequence[str]) -> None:
        self._learned = tuple(addresses[:_ADDRESSES_MAX])

    # ------------------------------------------------------------ what the node says by itself

    def opened(self, link: Link) -> None:
        """A link has come to be. Its node is greeted before it is used."""

    def closed(self, link: Link, error: TransportError | None) -> None:
        """A link has ended. The next request opens another one."""

    def call(self, request: Call) -> bytes:
        """A client answers nothing."""
        msg = f"a client cannot answer {request.kind!r}"
        raise UsageError(msg)

    def tell(self, link: Link, kind: str, body: bytes) -> None:
        """Take note of the addresses of the nodes."""
        if kind == NODES:
            self._learn(TEXTS.decode(body))


def _worse(before: Outcome, now: Outcome) -> Outcome:
    """Whether a request may have been done, after several tries."""
    if before == "unknown":
        return before
    return now


def _one_error(failures: Sequence[TransportError]) -> TransportError:
    """The error of a client that no node has taken. Each failure names its address."""
    if len(failures) == 1:
        return failures[0]
    text = "; ".join(sorted(map(str, failures)))
    for failure in failures:
        # A wrong token is what people can mend. That another node is down is no news beside it.
        if isinstance(failure, Refused):
            return Refused(f"no node takes this client: {text}", failure.reason)
    return Unreachable(f"no node takes this client: {text}")
