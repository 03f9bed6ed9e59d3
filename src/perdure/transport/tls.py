"""TLS between nodes: both peers show a certificate, and both look at that of the other."""

from __future__ import annotations

import ssl
from os import PathLike

import msgspec

from perdure.errors import UsageError

Path = str | PathLike[str]


class Tls(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a node's certificate and key, and of the authority that has signed all of them.

    A node checks that the certificate of the node to which it connects names the host of its
    address. `server_name` is the name to look for in place of the host, for a cluster whose nodes
    share one certificate.
    """

    cert: Path
    key: Path
    ca: Path
    server_name: str | None = None

    def listening(self) -> ssl.SSLContext:
        """The context of the peer that listens. It asks for a certificate of the other.

        Raises:
            UsageError: a file is missing, or not what it should be.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._fill(context)
        # PROTOCOL_TLS_SERVER does not ask for one by itself.
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def connecting(self) -> ssl.SSLContext:
        """The context of the peer that connects.

        Raises:
            UsageError: a file is missing, or not what it should be.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._fill(context)
        return context

    def _fill(self, context: ssl.SSLContext) -> None:
        # Both peers are nodes of ours, so nothing older has to be spoken.
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            context.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as error:
            msg = f"the certificate {self.cert} and the key {self.key} cannot be used: {error}"
            raise UsageError(msg) from error
        try:
            context.load_verify_locations(self.ca)
        except (OSError, ssl.SSLError) as error:
            msg = f"the authority's certificate {self.ca} cannot be used: {error}"
            raise UsageError(msg) from error
