"""Links over TCP, with TLS and a token.

    transport = TcpTransport(me, token=b"...", host="10.0.0.7", port=7000, tls=Tls(...))
    address = await transport.bind()       # as others reach it
    await transport.listen(handler)
    link = await transport.connect("10.0.0.8:7000")

It accepts connections itself, so that it can count those that are unfinished and say why one was
dropped. It uses only protocols and transports, so it works on uvloop as well.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal, Self

from perdure.errors import UsageError
from perdure.ports.clock import Clock, SystemClock
from perdure.ports.transport import (
    DEFAULT_OPTIONS,
    Handler,
    Link,
    Peer,
    Refused,
    TransportError,
    TransportOptions,
    Unreachable,
)
from perdure.transport.address import address_of, host_and_port
from perdure.transport.exchange import Exchange
from perdure.transport.handshake import Handshake
from perdure.transport.opening import Opening
from perdure.transport.silence import Silence
from perdure.transport.tls import Tls
from perdure.transport.wire import Wire

logger = logging.getLogger("perdure.transport")

BACKLOG = 1_024
WILDCARDS = {"", "0.0.0.0", "::"}  # noqa: S104 - told apart, not bound to
"""Hosts that mean all addresses of a machine, so that no peer can connect to them."""
REST_S = 0.2
"""How long a node that has no descriptor left waits before it accepts again."""
_ACCEPTING = "perdure-accept"
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class TcpTransport:
    """Nodes talk over TCP.

    `host` and `port` say where it listens, and port 0 takes a free one. `advertise` is the address
    by which others reach it, `HOST` or `HOST:PORT`. It is needed where the host stands for all
    addresses of the machine. All nodes of a cluster have the same `token`.
    """

    def __init__(
        self,
        me: Peer,
        *,
        token: bytes = b"",
        host: str = "127.0.0.1",
        port: int = 0,
        advertise: str | None = None,
        tls: Tls | None = None,
        options: TransportOptions = DEFAULT_OPTIONS,
        clock: Clock | None = None,
    ) -> None:
        """Open nothing yet.

        Raises:
            UsageError: no address, or no certificate, that others could use.
        """
        self._me = me
        self._token = token
        self._host = host
        self._port = port
        self._advertised_host, self._advertised_port = _advertised(host, advertise)
        self._options = options
        self._clock = clock or SystemClock()
        self._tls = tls
        self._listening_tls: ssl.SSLContext | None = None
        self._connecting_tls: ssl.SSLContext | None = None
        if tls is not None:
            # Made now, so that a wrong file is found before the node serves.
            self._listening_tls = tls.listening()
            self._connecting_tls = tls.connecting()
        self._listener: socket.socket | None = None
        self._address: str | None = None
        self._handler: Handler = Silence()
        # Made once to find a name that is too long, and again for each connection.
        Handshake("connecting", me, token, options)
        self._wires: set[Wire] = set()
        # Those of them that others have opened, from the first packet to the last.
        self._arrived: set[Wire] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    # ------------------------------------------------------------ the port

    @property
    def address(self) -> str | None:
        """Where others reach this node. None: it is not bound."""
        return self._address

    async def bind(self) -> str:
        """Take the address, and return it as others reach it."""
        if self._address is None:
            self._check_open()
            self._listener, port = await self._bound()
            # The port of a proxy before it, or its own, which is known only now.
            self._address = address_of(self._advertised_host, self._advertised_port or port)
        return self._address

    async def listen(self, handler: Handler) -> str:
        """Serve peers from now on."""
        address = await self.bind()
        assert self._listener is not None
        self._handler = handler
        self._spawn(self._accept(self._listener), _ACCEPTING)
        return address

    async def connect(
        self, address: str, handler: Handler | None = None, timeout_ms: int = 5_000
    ) -> Link:
        """Open a link to a peer."""
        self._check_open()
        host, port = host_and_port(address)
        opening = self._opening("connecting", address, handler or self._handler)
        wire = self._wire(opening)
        try:
            return await self._opened(opening, wire, self._reach(wire, host, port), timeout_ms)
        # A time that is up is an OSError, and so is an error of TLS.
        except TimeoutError as error:
            msg = f"{address} did not answer within {timeout_ms:,} ms; is the node alive?"
            raise Unreachable(msg) from error
        except ssl.SSLError as error:
            raise Refused(f"TLS with {address} failed: {error}", "tls") from error
        except OSError as error:
            msg = f"no node answers at {address}: {error}; is it running there?"
            raise Unreachable(msg) from error

    async def close(self) -> None:
        """Stop listening, and close all links."""
        self._is_closed = True
        # First those that accept. Each accepted connection has its first step then. A task that is
        # cancelled before it would leave the socket open.
        await _cancel([task for task in self._tasks if task.get_name() == _ACCEPTING])
        await _cancel(list(self._tasks))
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        wires = list(self._wires)
        await asyncio.gather(*(wire.end() for wire in wires))

    async def __aenter__(self) -> Self:
        """Nothing happens yet."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        await self.close()

    # ------------------------------------------------------------ listening

    async def _bound(self) -> tuple[socket.socket, int]:
        loop = asyncio.get_running_loop()
        where = address_of(self._host, self._port)
        try:
            found = await loop.getaddrinfo(
                self._host or None, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            # The first address of a name. A node has one address, by which the others know it.
            family, _, _, _, place = found[0]
            both = self._host == "::" and socket.has_dualstack_ipv6()
            listener = socket.create_server(
                place[:2], family=family, backlog=BACKLOG, dualstack_ipv6=both
            )
        except OSError as error:
            msg = f"this node cannot listen at {where}: {error}; name a free address of the machine"
            raise Unreachable(msg) from error
        listener.setblocking(False)
        return listener, listener.getsockname()[1]

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        logger.info("node %r listens at %s", self._me.node.node, self._address)
        while True:
            try:
                arrived, place = await loop.sock_accept(listener)
            except OSError as error:
                # A connection that broke before it was accepted concerns itself only.
                logger.warning("a connection could not be accepted: %s", error)
                if error.errno in _NO_ROOM:
                    await asyncio.sleep(REST_S)
                continue
            where = address_of(place[0], place[1])
            if len(self._arrived) >= self._options.links:
                text = "a connection from %s was dropped: %d are open already, as many as may be"
                logger.warning(text, where, len(self._arrived))
                arrived.close()
                continue
            self._spawn(self._welcome(arrived, where), f"perdure-welcome {where}")

    async def _welcome(self, arrived: socket.socket, where: str) -> None:
        """Lead an arrived connection to an open link, or say why there is none."""
        opening = self._opening("listening", where, self._handler)
        wire = self._wire(opening)
        self._arrived.add(wire)
        taking = self._take(wire, arrived)
        try:
            await self._opened(opening, wire, taking, self._options.handshake_ms)
        except TimeoutError:
            text = "a connection from %s was dropped: it has not shown who it is within %d ms"
            logger.warning(text, where, self._options.handshake_ms)
        except (OSError, TransportError) as error:
            # asyncio has errors without a text.
            reason = str(error) or type(error).__name__
            logger.warning("a connection from %s was dropped: %s", where, reason)

    # ------------------------------------------------------------ both

    def _opening(
        self, role: Literal["connecting", "listening"], address: str, handler: Handler
    ) -> Opening:
        handshake = Handshake(role, self._me, self._token, self._options)
        return Opening(handshake, address, handler, self._options, self._clock)

    def _wire(self, opening: Opening) -> Wire:
        wire = Wire(opening, self._gone)
        self._wires.add(wire)
        return wire

    def _gone(self, wire: Wire) -> None:
        self._wires.discard(wire)
        self._arrived.discard(wire)

    async def _reach(self, wire: Wire, host: str, port: int) -> None:
        name: str | None = None
        if self._tls is not None:
            name = self._tls.server_name or host
        await asyncio.get_running_loop().create_connection(
            lambda: wire, host, port, ssl=self._connecting_tls, server_hostname=name
        )

    async def _take(self, wire: Wire, arrived: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: wire, arrived, ssl=self._listening_tls
            )
        except BaseException:
            # With a transport the loop closes it, and without one nobody else does.
            arrived.close()
            raise

    async def _opened(
        self, opening: Opening, wire: Wire, connecting: Coroutine[Any, Any, None], timeout_ms: int
    ) -> Exchange:
        """The link of a connection, when the handshake has led to it."""
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await connecting
                return await opening.wait()
        except TransportError:
            raise  # the peer may still read why
        except BaseException:
            wire.give_up()
            raise

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _check_open(self) -> None:
        if self._is_closed:
            msg = f"the transport of node {self._me.node.node!r} is closed; make a new one"
            raise Unreachable(msg)


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def _advertised(host: str, advertise: str | None) -> tuple[str, int | None]:
    """The host by which others reach this node, and the port, if it is another than its own."""
    if advertise is None:
        if host in WILDCARDS:
            msg = (
                f"host={host!r} stands for all addresses of this machine, and others need one; "
                "say which one with advertise='HOST'"
            )
            raise UsageError(msg)
        return host, None
    with suppress(UsageError):  # it is a host without a port
        return host_and_port(advertise)
    shown = advertise.strip("[]")
    if shown in WILDCARDS or any(character.isspace() for character in shown):
        msg = f"advertise={advertise!r} is no address; write HOST or HOST:PORT"
        raise UsageError(msg)
    return shown, None
