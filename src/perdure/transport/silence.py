"""The handler of a node that only asks: it answers no call, and takes note of nothing."""

from __future__ import annotations

from collections.abc import Awaitable

from perdure.errors import UsageError
from perdure.ports.transport import Link, Request, TransportError


class Silence:
    """A client's handler."""

    def opened(self, link: Link) -> None:
        """Nothing depends on it."""

    def closed(self, link: Link, error: TransportError | None) -> None:
        """The calls that were open say so themselves."""

    def call(self, request: Request) -> bytes | Awaitable[bytes]:
        """Refuse it."""
        msg = f"this node answers no calls, so {request.kind!r} was not run"
        raise UsageError(msg)

    def tell(self, link: Link, kind: str, body: bytes) -> None:
        """Nothing depends on it."""
