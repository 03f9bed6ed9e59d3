"""A TCP listener that serves a neighbour, while strangers do what they should not."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from perdure.ports.transport import DEFAULT_OPTIONS, Link, TransportOptions
from perdure.testing.conformance.transport import Recorder, peer
from perdure.testing.conformance.transport.scene import LONG_MS, PATIENCE_S
from perdure.transport.frame import framed
from perdure.transport.handshake import Handshake
from perdure.transport.tcp import TcpTransport

TOKEN = b"a token"


@dataclass
class Served:
    """The listening node, and the link of its neighbour, which must not notice anything."""

    seen: Recorder
    address: str
    neighbour: Link
    sockets: list[socket.socket] = field(default_factory=list)

    async def stranger(self) -> socket.socket:
        """A bare connection."""
        host, _, port = self.address.rpartition(":")
        sock = socket.socket()
        self.sockets.append(sock)
        # Small pieces are sent at once: time is virtual, and would pass before they arrive.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
        return sock

    async def member(self) -> socket.socket:
        """A bare connection of a node that knows the token, behind its handshake."""
        loop = asyncio.get_running_loop()
        sock = await self.stranger()
        handshake = Handshake("connecting", peer("stranger"), TOKEN, TransportOptions())
        hello = handshake.begin()
        assert hello is not None
        await loop.sock_sendall(sock, framed(hello))
        while True:
            step = handshake.received(await frame_of(sock))
            if step.send is not None:
                await loop.sock_sendall(sock, framed(step.send))
            if step.agreement is not None:
                return sock

    async def works(self) -> None:
        """The neighbour's link is as before."""
        assert await self.neighbour.call("later", b"works", LONG_MS) == b"works"


async def frame_of(sock: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < 4 or len(data) < 4 + struct.unpack(">I", data[:4])[0]:
        more = await loop.sock_recv(sock, 1)
        assert more, "hung up"
        data += more
    return data[4:]


async def hung_up(sock: socket.socket) -> bytes:
    """Wait until the other end hangs up. Returns what it said before."""
    loop = asyncio.get_running_loop()
    said = b""
    # It is reset where what was sent was not read.
    with suppress(ConnectionError):
        async with asyncio.timeout(PATIENCE_S):
            while more := await loop.sock_recv(sock, 65_536):
                said += more
    sock.close()
    return said


@asynccontextmanager
async def serving(
    options: TransportOptions = DEFAULT_OPTIONS, **how: object
) -> AsyncGenerator[Served]:
    seen = Recorder()
    listening = TcpTransport(peer("listener"), token=TOKEN, options=options, **how)
    connecting = TcpTransport(peer("neighbour"), token=TOKEN)
    async with connecting, listening:
        address = await listening.listen(seen)
        neighbour = await connecting.connect(address)
        await seen.until(lambda: bool(seen.links))
        served = Served(seen, address, neighbour)
        try:
            yield served
        finally:
            for sock in served.sockets:
                sock.close()
