"""One TCP connection: bytes to frames, then the handshake, then the exchange of envelopes."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from typing import cast

from perdure.ports.transport import (
    Envelope,
    FrameTooLarge,
    Garbage,
    LinkLost,
    Refused,
    TransportError,
    Unreachable,
)
from perdure.transport.exchange import Exchange
from perdure.transport.frame import (
    BATCH_BYTES,
    GREETING_BYTES_MAX,
    FrameReader,
    decode,
    encode,
    framed,
)
from perdure.transport.handshake import Agreement
from perdure.transport.opening import Opening

logger = logging.getLogger("perdure.transport")

WRITE_HIGH_BYTES = 1 << 20
"""What asyncio keeps for a peer that reads slowly. More waits in the queue of the link."""


class Wire(asyncio.Protocol):
    """A connection in its three stages. It is also the `Pipe` of its exchange."""

    def __init__(self, opening: Opening, on_gone: Callable[[Wire], None]) -> None:
        """Wait for the connection. `on_gone` is called when it is no more."""
        self._opening = opening
        self._on_gone = on_gone
        self._frames = FrameReader(GREETING_BYTES_MAX)
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._is_paused = False
        self._written_bytes = 0
        self._batch_bytes = BATCH_BYTES
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stop_watching = opening.watch(self._too_slow)

    # ------------------------------------------------------------ asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the peer, or wait for its greeting."""
        # A cast, because the transports of uvloop are not of this class.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        greeting = self._opening.begin()
        if greeting is not None:
            self._write(framed(greeting))

    def data_received(self, data: bytes) -> None:
        """Take bytes of the peer."""
        exchange = self._exchange
        if exchange is not None:
            exchange.heard()
        self._frames.feed(data)
        try:
            self._take_frames()
        except (Garbage, FrameTooLarge) as error:
            self._fail(error)

    def pause_writing(self) -> None:
        """The peer reads slowly."""
        self._is_paused = True
        if self._exchange is not None:
            self._exchange.pause()

    def resume_writing(self) -> None:
        """The peer reads again."""
        self._is_paused = False
        if self._exchange is not None:
            self._exchange.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is no more."""
        if self._exchange is None:
            self._fail(self._why_not_opened(exc))
        elif exc is not None:
            self._fail(LinkLost(f"the connection broke: {exc}"))
        else:
            # Without a farewell: the peer's process has ended, or it has hung up on an error.
            self._fail(LinkLost("the peer has hung up without a farewell"))
        self._vanish()

    # ------------------------------------------------------------ the pipe

    def write(self, batch: Sequence[Envelope]) -> None:
        """Send envelopes."""
        self._write(encode(batch, self._batch_bytes))

    def unsent_bytes(self) -> int:
        """What the system has not taken yet."""
        if self._transport is None:
            return 0
        return self._transport.get_write_buffer_size()

    def taken_bytes(self) -> int:
        """What the system has taken."""
        return self._written_bytes - self.unsent_bytes()

    def close(self) -> None:
        """Send what was written, and hang up."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Hang up now."""
        if self._transport is not None:
            self._transport.abort()

    # ------------------------------------------------------------ its transport

    def give_up(self) -> None:
        """Hang up, whatever stage it is in."""
        if self._transport is None:
            # asyncio calls no `connection_lost` where it has called no `connection_made`.
            self._fail(Unreachable(f"no connection to {self._opening.address} came to be"))
            self._vanish()
        else:
            self._transport.abort()

    async def end(self) -> None:
        """Close the link in order, or give up the attempt, and wait for the connection's end."""
        if self._exchange is not None:
            await self._exchange.close()
        self.give_up()
        await asyncio.shield(self._gone)

    def _vanish(self) -> None:
        self._stop_watching()
        if not self._gone.done():
            self._gone.set_result(None)
            self._on_gone(self)

    # ------------------------------------------------------------ inside

    def _write(self, data: bytes) -> None:
        assert self._transport is not None
        self._written_bytes += len(data)
        self._transport.write(data)

    def _take_frames(self) -> None:
        # All envelopes that have come are one batch, so that a call meets its cancellation.
        batch: list[Envelope] = []
        while (frame := self._frames.next()) is not None:
            if self._exchange is not None:
                batch += decode(frame)
            elif not self._greeted(frame):
                return
        if batch and self._exchange is not None:
            self._exchange.received(batch)

    def _greeted(self, frame: bytes) -> bool:
        """Go on with the handshake. False: it has failed."""
        step = self._opening.received(frame)
        if step.send is not None:
            self._write(framed(step.send))
        if step.error is not None:
            self._fail(step.error)
            return False
        if step.agreement is not None:
            self._open(step.agreement)
        return True

    def _open(self, agreement: Agreement) -> None:
        self._stop_watching()
        self._frames.allow(self._opening.options.frame_bytes)
        self._batch_bytes = min(BATCH_BYTES, agreement.frame_bytes)
        self._exchange = self._opening.open(agreement, self)
        if self._is_paused:
            self._exchange.pause()
        self._exchange.start()

    def _too_slow(self, error: TransportError) -> None:
        self._fail(error)
        # It may also be a peer that does not read why it was refused.
        self.abort()

    def _fail(self, error: TransportError) -> None:
        """End the link, or the attempt to open one."""
        if self._exchange is not None:
            self._exchange.end(error)
            return
        self._opening.fail(error)
        # What was written last tells the peer why. It has the rest of the time of a handshake.
        self.close()

    def _why_not_opened(self, error: Exception | None) -> TransportError:
        address = self._opening.address
        # With TLS 1.3 the peer that connects learns only here that its certificate was refused.
        if isinstance(error, ssl.SSLError):
            return Refused(f"TLS with {address} failed: {error}", "tls")
        if error is not None:
            return Unreachable(f"{address} has hung up in the handshake: {error}")
        hint = "is it a node, and does it expect TLS?"
        # And asyncio often hangs up before it has told why, so that nothing better is known.
        if self._transport is not None and self._transport.get_extra_info("sslcontext") is not None:
            hint = "its log says why, which may be the certificate of this node"
        return Unreachable(f"{address} has hung up in the handshake; {hint}")
