"""Addresses: binding before listening, and what cannot be reached."""

# ruff: noqa: D102 - the name of a test says what it proves

from __future__ import annotations

import asyncio

from perdure.errors import UsageError
from perdure.ports.transport import Unreachable
from perdure.testing.conformance.transport.scene import (
    LONG_MS,
    Recorder,
    TransportFactory,
    error_of,
    met,
    peer,
)


class Addresses:
    """Addresses."""

    async def test_a_node_knows_its_address_before_it_listens(
        self, transport_factory: TransportFactory
    ) -> None:
        seen = Recorder()
        async with transport_factory(peer("two")) as two, transport_factory(peer("one")) as one:
            unbound = two.address
            assert unbound is None
            address = await two.bind()
            assert two.address == address == await two.bind()
            # A connection that comes before it listens waits.
            connecting = asyncio.create_task(one.connect(address, timeout_ms=LONG_MS))
            await asyncio.sleep(0)
            assert not connecting.done()
            assert await two.listen(seen) == address
            link = await connecting
            assert await link.call("echo", b"", LONG_MS) == b""

    async def test_each_transport_has_an_address_of_its_own(
        self, transport_factory: TransportFactory
    ) -> None:
        async with transport_factory(peer("one")) as one, transport_factory(peer("two")) as two:
            assert await one.bind() != await two.bind()

    async def test_a_node_that_is_gone_is_unreachable(
        self, transport_factory: TransportFactory
    ) -> None:
        async with transport_factory(peer("one")) as one:
            async with transport_factory(peer("two")) as two:
                address = await two.listen(Recorder())
            error = await error_of(one.connect(address))
            assert isinstance(error, Unreachable)
            assert address in str(error)
            assert error.outcome == "none"

    async def test_what_is_no_address_is_a_usage_error(
        self, transport_factory: TransportFactory
    ) -> None:
        async with transport_factory(peer("one")) as one:
            for text in ("", "host", "host:", "host:99999", "::1:7000", "[::1]", "a b:1"):
                assert isinstance(await error_of(one.connect(text)), UsageError), text

    async def test_a_node_is_met_again_after_its_link_ended(
        self, transport_factory: TransportFactory
    ) -> None:
        async with met(transport_factory) as pair:
            one, two = pair.transports
            assert two.address is not None
            await pair.link.close()
            link = await one.connect(two.address)
            assert await link.call("echo", b"again", LONG_MS) == b"again"
