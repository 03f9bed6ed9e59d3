"""The door of a node: where it listens, and who may come in."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from perdure.errors import UsageError
from perdure.ports.store import Incarnation
from perdure.ports.transport import Peer
from perdure.transport.address import host_and_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from perdure.ports.clock import Clock
    from perdure.ports.transport import Transport
    from perdure.transport.tls import Tls


@dataclass(frozen=True, slots=True)
class Door:
    """How a node listens: on TCP at `listen`, or by a transport of the caller's.

    `advertise` is the address by which others reach the node, as HOST or HOST:PORT.
    """

    listen: str | None = None
    advertise: str | None = None
    token: bytes | None = None
    tls: Tls | None = None
    transport: Callable[[Peer], Transport] | None = None

    def check(self, clock: Clock) -> None:
        """Refuse what cannot work, before the node starts.

        Raises:
            UsageError: naming the option.
        """
        if self.transport is not None:
            if self.listen is not None or self.advertise is not None or self.tls is not None:
                msg = "a node with a transport of yours takes no listen, advertise and tls"
                raise UsageError(msg)
            return
        if self.listen is None:
            msg = "advertise, token and tls are for a node that listens; give listen='HOST:PORT'"
            raise UsageError(msg)
        host, _ = host_and_port(self.listen)
        if not self.token and not _is_of_this_machine(host):
            # Whoever reaches the address could start, read and delete everything.
            msg = (
                f"a node that listens at {self.listen!r} can be reached from other machines, so it "
                "needs a token; give the same token=... to all nodes and clients"
            )
            raise UsageError(msg)
        self.make(Peer(Incarnation("none", ""), ""), clock)

    def make(self, me: Peer, clock: Clock) -> Transport:
        """The transport of one life of the node."""
        if self.transport is not None:
            return self.transport(me)
        # A node that does not listen need not import Python's TLS.
        from perdure.transport.tcp import TcpTransport

        assert self.listen is not None
        host, port = host_and_port(self.listen)
        return TcpTransport(
            me,
            token=self.token or b"",
            host=host,
            port=port,
            advertise=self.advertise,
            tls=self.tls,
            clock=clock,
        )


def door_of(listen: str | Door | None, clock: Clock) -> Door | None:
    """The door of a node, checked. None: it does not listen.

    Raises:
        UsageError: naming the option that cannot work.
    """
    if listen is None:
        return None
    if isinstance(listen, str):
        listen = Door(listen)
    listen.check(clock)
    return listen


def _is_of_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False  # a name, which may be any address
