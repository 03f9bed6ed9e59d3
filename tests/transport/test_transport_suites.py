"""Our own transports pass the suite that is published for others."""

from __future__ import annotations

import pytest

from perdure.ports.clock import Clock
from perdure.ports.transport import DEFAULT_OPTIONS, Peer, Transport, TransportOptions
from perdure.testing.conformance.transport import TransportFactory, TransportSuite
from perdure.transport.inprocess import InProcessNetwork, InProcessTransport
from perdure.transport.tcp import TcpTransport


class TestInProcess(TransportSuite):
    @pytest.fixture
    def transport_factory(self) -> TransportFactory:
        network = InProcessNetwork()

        def make(
            me: Peer,
            token: bytes = b"",
            options: TransportOptions = DEFAULT_OPTIONS,
            clock: Clock | None = None,
        ) -> Transport:
            return InProcessTransport(me, network, token=token, options=options, clock=clock)

        return make


class TestTcp(TransportSuite):
    @pytest.fixture
    def transport_factory(self) -> TransportFactory:
        def make(
            me: Peer,
            token: bytes = b"",
            options: TransportOptions = DEFAULT_OPTIONS,
            clock: Clock | None = None,
        ) -> Transport:
            return TcpTransport(me, token=token, options=options, clock=clock)

        return make
