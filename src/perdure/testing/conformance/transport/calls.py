"""Guarantees 1 and 2: what a call ends in, and what arrives."""

# ruff: noqa: D102 - the name of a test says what it proves

from __future__ import annotations

import asyncio

from perdure.errors import UsageError
from perdure.ports.transport import (
    FrameTooLarge,
    HandlerFailed,
    Link,
    Overloaded,
    TransportOptions,
)
from perdure.testing.conformance.transport.scene import (
    LONG_MS,
    TransportFactory,
    error_of,
    met,
)


async def _telling(link: Link, body: bytes) -> bool:
    return link.tell("mark", body)


class Calls:
    """Guarantees 1 and 2."""

    async def test_a_call_is_answered_at_once_or_later(
        self, transport_factory: TransportFactory
    ) -> None:
        async with met(transport_factory) as pair:
            for kind in ("echo", "later"):
                for body in (b"", b"body", bytes(range(256)) * 400):
                    assert await pair.link.call(kind, body, LONG_MS) == body

    async def test_both_peers_call_over_one_link(self, transport_factory: TransportFactory) -> None:
        async with met(transport_factory) as pair:
            assert await pair.link.call("echo", b"there", LONG_MS) == b"there"
            assert await pair.back.call("echo", b"and back", LONG_MS) == b"and back"
            assert [request.body for request in pair.one.requests] == [b"and back"]
            assert [request.link for request in pair.one.requests] == [pair.link]

    async def test_each_caller_gets_its_own_answer(
        self, transport_factory: TransportFactory
    ) -> None:
        # Those that are held are overtaken by all others.
        async with met(transport_factory) as pair:
            kinds = ["hold", "echo", "later"] * 100
            bodies = [str(number).encode() for number in range(len(kinds))]
            calls = [
                asyncio.create_task(pair.link.call(kind, body, LONG_MS))
                for kind, body in zip(kinds, bodies, strict=True)
            ]
            quick = [call for call, kind in zip(calls, kinds, strict=True) if kind != "hold"]
            await asyncio.gather(*quick)
            pair.two.release()
            assert await asyncio.gather(*calls) == bodies
            assert len(pair.two.requests) == len(calls)

    async def test_ten_thousand_calls_at_once(self, transport_factory: TransportFactory) -> None:
        async with met(transport_factory) as pair:
            bodies = [str(number).encode() for number in range(10_000)]
            answers = await asyncio.gather(
                *(pair.link.call("echo", body, LONG_MS) for body in bodies)
            )
            assert answers == bodies
            assert len(pair.two.requests) == len(bodies)

    async def test_an_error_of_the_handler_arrives_with_its_name_and_text(
        self, transport_factory: TransportFactory
    ) -> None:
        async with met(transport_factory) as pair:
            error = await error_of(pair.link.call("strange", b"", LONG_MS))
            assert isinstance(error, HandlerFailed)
            assert error.type == "LookupError"
            assert error.outcome == "unknown"
            assert "no such kind: strange" in str(error)
            error = await error_of(pair.link.call("wrong", b"", LONG_MS))
            assert isinstance(error, HandlerFailed)
            assert error.type == "TypeError"
            assert await pair.link.call("echo", b"still here", LONG_MS) == b"still here"

    async def test_a_transport_error_of_the_handler_keeps_its_class(
        self, transport_factory: TransportFactory
    ) -> None:
        # A node that hands a call on passes the error of the third node back.
        async with met(transport_factory) as pair:
            error = await error_of(pair.link.call("full", b"", LONG_MS))
            assert isinstance(error, Overloaded)
            assert "a queue behind this node is full" in str(error)

    async def test_what_is_told_arrives_in_order(self, transport_factory: TransportFactory) -> None:
        async with met(transport_factory) as pair:
            sent = [("mark", str(number).encode()) for number in range(1_000)]
            for kind, body in sent:
                assert pair.link.tell(kind, body)
            await pair.two.until(lambda: len(pair.two.told) == len(sent))
            assert pair.two.told == sent
            assert pair.two.requests == []

    async def test_an_error_in_a_note_harms_nothing(
        self, transport_factory: TransportFactory
    ) -> None:
        async with met(transport_factory) as pair:
            assert pair.link.tell("fail", b"")
            assert pair.link.tell("mark", b"next")
            await pair.two.until(lambda: pair.two.told == [("mark", b"next")])
            assert pair.link.is_open

    async def test_what_does_not_fit_a_frame_is_refused_where_it_is_sent(
        self, transport_factory: TransportFactory
    ) -> None:
        options = TransportOptions(frame_bytes=10_000)
        async with met(transport_factory, options) as pair:
            assert await pair.link.call("echo", bytes(9_500), LONG_MS) == bytes(9_500)
            error = await error_of(pair.link.call("echo", bytes(10_000), LONG_MS))
            assert isinstance(error, FrameTooLarge)
            assert error.outcome == "none"
            error = await error_of(_telling(pair.link, bytes(10_000)))
            assert isinstance(error, FrameTooLarge)
            assert "10,000" in str(error)
            assert await pair.link.call("echo", b"next", LONG_MS) == b"next"
            assert (len(pair.two.requests), pair.two.told) == (2, [])

    async def test_an_answer_that_does_not_fit_a_frame_says_that_the_call_may_have_run(
        self, transport_factory: TransportFactory
    ) -> None:
        # The caller takes smaller frames than it sends.
        narrow = TransportOptions(frame_bytes=5_000)
        async with met(transport_factory, narrow) as pair:
            longest = pair.back.call("echo", bytes(4_900), LONG_MS)
            assert len(await longest) == 4_900
            # The kind of an answer is longer than this kind, so the answer is larger by a little.
            error = await error_of(pair.link.call("echo", bytes(4_913), LONG_MS))
            assert isinstance(error, FrameTooLarge)
            assert error.outcome == "unknown"
            assert pair.link.is_open

    async def test_kinds_of_the_transport_itself_are_refused(
        self, transport_factory: TransportFactory
    ) -> None:
        async with met(transport_factory) as pair:
            for kind in ("", ".answer", ".ping"):
                error = await error_of(pair.link.call(kind, b"", LONG_MS))
                assert isinstance(error, UsageError), kind

    async def test_a_node_without_a_handler_refuses_calls(
        self, transport_factory: TransportFactory
    ) -> None:
        async with met(transport_factory) as pair:
            one, two = pair.transports
            assert two.address is not None
            _ = await one.connect(two.address)
            await pair.two.until(lambda: len(pair.two.links) == 2)
            error = await error_of(pair.two.links[1].call("echo", b"", LONG_MS))
            assert isinstance(error, HandlerFailed)
