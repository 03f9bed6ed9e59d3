"""The way from a connection to an open link, whatever carries the messages of the handshake."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from perdure.ports.clock import Clock
from perdure.ports.transport import Handler, TransportError, TransportOptions, Unreachable
from perdure.transport.exchange import Exchange
from perdure.transport.handshake import Agreement, Handshake, Step
from perdure.transport.outgoing import Pipe


class Opening:
    """A connection that is not a link yet. It ends in a link or in an error, and takes no longer
    than a handshake may.
    """

    def __init__(
        self,
        handshake: Handshake,
        address: str,
        handler: Handler,
        options: TransportOptions,
        clock: Clock,
    ) -> None:
        """Wait for the connection."""
        self._handshake = handshake
        self._handler = handler
        self._clock = clock
        self.address = address
        self.options = options
        self._opened: asyncio.Future[Exchange | TransportError] = (
            asyncio.get_running_loop().create_future()
        )

    def watch(self, on_slow: Callable[[TransportError], None]) -> Callable[[], None]:
        """Call `on_slow` when the handshake has taken too long. Returns what prevents it."""
        ms = self.options.handshake_ms
        error = Unreachable(f"{self.address} has not shown who it is within {ms:,} ms")
        return self._clock.call_after(ms, lambda: on_slow(error)).cancel

    async def wait(self) -> Exchange:
        """Wait for the link.

        Raises:
            TransportError: there is none.
        """
        # Shielded: a caller that gives up must not end it for the connection itself.
        opened = await asyncio.shield(self._opened)
        if isinstance(opened, TransportError):
            raise opened
        return opened

    def begin(self) -> bytes | None:
        """The first message of the handshake, if it is this node's."""
        return self._handshake.begin()

    def received(self, message: bytes) -> Step:
        """Take a message of the handshake."""
        return self._handshake.received(message)

    def open(self, agreement: Agreement, pipe: Pipe) -> Exchange:
        """Make the link. The connection notes it, and then starts it."""
        exchange = Exchange(pipe, agreement, self.address, self._handler, self.options, self._clock)
        self._settle(exchange)
        return exchange

    def fail(self, error: TransportError) -> None:
        """There is no link."""
        self._settle(error)

    def _settle(self, opened: Exchange | TransportError) -> None:
        # The connection of an attempt that has failed tells of its end once more.
        if not self._opened.done():
            self._opened.set_result(opened)
