"""The conformance suite of the transport port, for every transport, also those of others.

A few lines in a test module run it (with pytest and pytest-asyncio in auto mode):

    import pytest
    from perdure.testing.conformance.transport import TransportFactory, TransportSuite

    class TestMyTransport(TransportSuite):
        @pytest.fixture
        def transport_factory(self) -> TransportFactory:
            def make(me, token=b"", options=DEFAULT_OPTIONS, clock=None):
                return MyTransport(me, token=token, options=options, clock=clock)
            return make

All transports that the factory makes in one test can reach each other. One section stands for each
guarantee of `perdure.ports.transport`, and one for addresses.
"""

from __future__ import annotations

from perdure.testing.conformance.transport.addresses import Addresses
from perdure.testing.conformance.transport.calls import Calls
from perdure.testing.conformance.transport.deadlines import Deadlines
from perdure.testing.conformance.transport.endings import Endings
from perdure.testing.conformance.transport.greetings import Greetings
from perdure.testing.conformance.transport.queues import Queues
from perdure.testing.conformance.transport.scene import Recorder, TransportFactory, met, peer

__all__ = ["Recorder", "TransportFactory", "TransportSuite", "met", "peer"]


class TransportSuite(Calls, Deadlines, Queues, Greetings, Endings, Addresses):
    """The rules of every transport. Subclass it and give it the fixture `transport_factory`."""
