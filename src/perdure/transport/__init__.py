"""Transports: how nodes talk. Each adapter carries the envelopes of `perdure.ports.transport`.

- `inprocess`: between nodes of one process, with faults that a test asks for.
- `tcp`: frames over TCP, with TLS and a token.

Beside them stands what they share: the handshake, and the exchange of envelopes on an open link.
"""
