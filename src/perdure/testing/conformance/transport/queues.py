"""Guarantee 4: queues are bounded."""

# ruff: noqa: D102 - the name of a test says what it proves

from __future__ import annotations

import asyncio

from perdure.ports.transport import Overloaded, TransportOptions
from perdure.testing.conformance.transport.scene import (
    LONG_MS,
    TransportFactory,
    error_of,
    met,
)

SMALL = TransportOptions(queue_bytes=1 << 20, queue_messages=1_000)
BLOCK = bytes(64 << 10)
MANY = 2_000
"""Blocks that neither a queue nor a system takes while nobody reads."""


class Queues:
    """Guarantee 4."""

    async def test_a_full_queue_drops_what_is_told_and_counts_it(
        self, transport_factory: TransportFactory
    ) -> None:
        async with met(transport_factory, SMALL) as pair:
            # Without a pause, so that nothing can be read meanwhile.
            taken = [pair.link.tell("mark", BLOCK) for _ in range(MANY)]
            kept = taken.count(True)
            assert 0 < kept < MANY
            assert pair.link.dropped == MANY - kept
            # Exactly the others arrive, and the link lives.
            await pair.two.until(lambda: len(pair.two.told) == kept)
            assert await pair.link.call("echo", b"next", LONG_MS) == b"next"
            assert len(pair.two.told) == kept

    async def test_a_full_queue_refuses_calls(self, transport_factory: TransportFactory) -> None:
        async with met(transport_factory, SMALL) as pair:
            while pair.link.tell("mark", BLOCK):
                pass
            error = await error_of(pair.link.call("echo", BLOCK, LONG_MS))
            assert isinstance(error, Overloaded)
            assert error.outcome == "none"
            await pair.two.until(lambda: len(pair.two.told) > 0)
            assert await pair.link.call("echo", b"next", LONG_MS) == b"next"
            assert [request.body for request in pair.two.requests] == [b"next"]

    async def test_a_peer_runs_so_many_calls_at_a_time(
        self, transport_factory: TransportFactory
    ) -> None:
        async with met(transport_factory, TransportOptions(calls=3)) as pair:
            calls = [asyncio.create_task(pair.link.call("hold", b"", LONG_MS)) for _ in range(3)]
            await pair.two.until(lambda: len(pair.two.requests) == 3)
            error = await error_of(pair.link.call("hold", b"", LONG_MS))
            assert isinstance(error, Overloaded)
            assert error.outcome == "none"
            pair.two.release()
            await asyncio.gather(*calls)
            assert await pair.link.call("hold", b"next", LONG_MS) == b"next"
            assert len(pair.two.requests) == 4
