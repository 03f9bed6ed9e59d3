"""Guarantee 3: a deadline travels as time left, and nothing runs for a caller that is gone."""

# ruff: noqa: D102 - the name of a test says what it proves

from __future__ import annotations

import asyncio

from perdure.ports.transport import DeadlineExceeded
from perdure.testing.clock import ManualClock
from perdure.testing.conformance.transport.scene import (
    LONG_MS,
    TransportFactory,
    error_of,
    met,
)


class Deadlines:
    """Guarantee 3."""

    async def test_a_call_without_time_is_not_sent(
        self, transport_factory: TransportFactory
    ) -> None:
        async with met(transport_factory) as pair:
            for timeout_ms in (0, -1):
                error = await error_of(pair.link.call("echo", b"", timeout_ms))
                assert isinstance(error, DeadlineExceeded)
                assert error.outcome == "none"
            assert await pair.link.call("echo", b"next", LONG_MS) == b"next"
            assert [request.body for request in pair.two.requests] == [b"next"]

    async def test_a_call_ends_when_its_time_is_up_and_its_work_is_cancelled(
        self, transport_factory: TransportFactory
    ) -> None:
        clock = ManualClock()
        async with met(transport_factory, clocks=(clock, ManualClock())) as pair:
            call = asyncio.create_task(pair.link.call("hold", b"", 1_000))
            await pair.two.until(lambda: len(pair.two.requests) == 1)
            clock.advance(900)
            assert await pair.link.call("echo", b"", LONG_MS) == b""
            assert not call.done()
            clock.advance(150)
            error = await error_of(call)
            assert isinstance(error, DeadlineExceeded)
            assert error.outcome == "unknown"
            await pair.two.until(lambda: pair.two.cancelled == 1)
            assert pair.link.is_open

    async def test_a_caller_that_is_cancelled_cancels_the_work(
        self, transport_factory: TransportFactory
    ) -> None:
        async with met(transport_factory) as pair:
            call = asyncio.create_task(pair.link.call("hold", b"", LONG_MS))
            await pair.two.until(lambda: len(pair.two.requests) == 1)
            call.cancel()
            await asyncio.wait([call])
            assert call.cancelled()
            await pair.two.until(lambda: pair.two.cancelled == 1)
            assert await pair.link.call("echo", b"next", LONG_MS) == b"next"

    async def test_the_time_left_is_counted_on_the_clock_of_the_receiver(
        self, transport_factory: TransportFactory
    ) -> None:
        # Its clock is years away from that of the sender.
        theirs = ManualClock(5_000_000)
        async with met(transport_factory, clocks=(ManualClock(), theirs)) as pair:
            await pair.link.call("echo", b"", 30_000)
            (request,) = pair.two.requests
            left_ms = request.deadline_ms - theirs.now_ms()
            assert 0 < left_ms <= 30_000

    async def test_an_answer_that_comes_too_late_goes_nowhere(
        self, transport_factory: TransportFactory
    ) -> None:
        clock = ManualClock()
        async with met(transport_factory, clocks=(clock, ManualClock())) as pair:
            call = asyncio.create_task(pair.link.call("hold", b"late", 1_000))
            await pair.two.until(lambda: len(pair.two.requests) == 1)
            clock.advance(1_100)
            # The answer and the cancellation of its call are on their way at the same time.
            pair.two.release()
            assert isinstance(await error_of(call), DeadlineExceeded)
            for number in range(10):
                body = str(number).encode()
                assert await pair.link.call("echo", body, LONG_MS) == body
