"""Guarantee 6: how links end."""

# ruff: noqa: D102 - the name of a test says what it proves

from __future__ import annotations

import asyncio

from perdure.ports.clock import SystemClock
from perdure.ports.transport import SILENT_INTERVALS, LinkLost, TransportOptions, Unreachable
from perdure.testing.clock import ManualClock
from perdure.testing.conformance.transport.scene import (
    LONG_MS,
    PATIENCE_S,
    TransportFactory,
    error_of,
    met,
)


class Endings:
    """Guarantee 6."""

    async def test_a_link_that_is_closed_ends_in_order_on_both_sides(
        self, transport_factory: TransportFactory
    ) -> None:
        async with met(transport_factory) as pair:
            assert pair.link.tell("mark", b"last")
            await pair.link.close()
            await pair.two.until(lambda: len(pair.two.ended) == 1)
            assert pair.one.ended == pair.two.ended == [None]
            assert await pair.link.wait_closed() is None
            assert await pair.back.wait_closed() is None
            assert not pair.link.is_open
            assert not pair.back.is_open
            # What was told before it closed has arrived.
            assert pair.two.told == [("mark", b"last")]
            await pair.link.close()

    async def test_nothing_is_sent_on_a_link_that_has_ended(
        self, transport_factory: TransportFactory
    ) -> None:
        async with met(transport_factory) as pair:
            await pair.link.close()
            error = await error_of(pair.link.call("echo", b"", LONG_MS))
            assert isinstance(error, LinkLost)
            assert error.outcome == "none"
            assert not pair.link.tell("mark", b"")
            assert pair.two.requests == []

    async def test_open_calls_end_with_the_link_and_may_have_run(
        self, transport_factory: TransportFactory
    ) -> None:
        for ends_here in (True, False):
            async with met(transport_factory) as pair:
                calls = [
                    asyncio.create_task(pair.link.call("hold", b"", LONG_MS)) for _ in range(3)
                ]
                await pair.two.until(lambda: len(pair.two.requests) == 3)
                if ends_here:
                    await pair.link.close()
                else:
                    await pair.back.close()
                for call in calls:
                    error = await error_of(call)
                    assert isinstance(error, LinkLost)
                    assert error.outcome == "unknown"
                # Nobody waits for the answers any more.
                await pair.two.until(lambda: pair.two.cancelled == 3)

    async def test_a_transport_that_closes_ends_all_links(
        self, transport_factory: TransportFactory
    ) -> None:
        async with met(transport_factory) as pair:
            one, two = pair.transports
            address = two.address
            assert address is not None
            await two.close()
            await pair.one.until(lambda: len(pair.one.ended) == 1)
            assert pair.one.ended == pair.two.ended == [None]
            assert isinstance(await error_of(one.connect(address)), Unreachable)
            assert isinstance(await error_of(two.connect(address)), Unreachable)
            await two.close()

    async def test_a_silent_peer_is_dead_after_three_intervals(
        self, transport_factory: TransportFactory
    ) -> None:
        # The clock of the peer stands still, so it gives no sign of life.
        clock = ManualClock()
        async with met(transport_factory, clocks=(clock, ManualClock())) as pair:
            call = asyncio.create_task(pair.link.call("hold", b"", LONG_MS))
            await pair.two.until(lambda: len(pair.two.requests) == 1)
            interval_ms = TransportOptions().keep_alive_ms
            # The handshake was heard in the first.
            for _ in range(SILENT_INTERVALS):
                clock.advance(interval_ms)
                assert pair.link.is_open
            clock.advance(interval_ms)
            assert not pair.link.is_open
            error = await error_of(call)
            assert isinstance(error, LinkLost)
            assert error.outcome == "unknown"
            (ended,) = pair.one.ended
            assert "nothing came for 15,000 ms" in str(ended)
            # The other peer learns that the connection is no more.
            await pair.two.until(lambda: len(pair.two.ended) == 1)
            assert isinstance(pair.two.ended[0], LinkLost)

    async def test_an_idle_link_lives(self, transport_factory: TransportFactory) -> None:
        options = TransportOptions(keep_alive_ms=10)
        async with met(transport_factory, options) as pair:
            passed = asyncio.Event()
            SystemClock().call_after(10 * options.keep_alive_ms, passed.set)
            async with asyncio.timeout(PATIENCE_S):
                await passed.wait()
            assert pair.link.is_open
            assert pair.back.is_open
            assert await pair.link.call("echo", b"still here", LONG_MS) == b"still here"
            assert pair.two.told == []

    async def test_one_link_ends_alone(self, transport_factory: TransportFactory) -> None:
        async with met(transport_factory) as pair:
            one, two = pair.transports
            assert two.address is not None
            second = await one.connect(two.address)
            await pair.link.close()
            assert await second.call("echo", b"still here", LONG_MS) == b"still here"
