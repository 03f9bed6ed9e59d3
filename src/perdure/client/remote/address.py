"""The address of nodes: `perdure://host1:7420,host2:7420?token_file=token`."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import msgspec

from perdure.client.remote import SCHEME
from perdure.errors import UsageError
from perdure.transport.address import address_of, host_and_port
from perdure.transport.tls import Tls

PORT = 7420
"""The port of an address that names none."""
_FORM = "perdure://HOST:PORT, or several: perdure://HOST1:PORT,HOST2:PORT"
_OPTIONS = ("token_file", "cert", "key", "ca", "server_name")


class Nodes(msgspec.Struct, frozen=True):
    """Where nodes answer, and how to talk to them. The token is not part of its text."""

    addresses: tuple[str, ...]
    token: bytes = b""
    tls: Tls | None = None

    def __repr__(self) -> str:
        """The addresses."""
        return f"{SCHEME}://{','.join(self.addresses)}"


def read_token(path: str | Path) -> bytes:
    """The token of a file, without the space around it.

    Raises:
        UsageError: the file cannot be read, or has no token.
    """
    try:
        token = Path(path).read_bytes().strip()
    except OSError as error:
        msg = f"the token cannot be read from {path}: {error}"
        raise UsageError(msg) from error
    if not token:
        msg = f"{path} has no token; write one into it, for example with `openssl rand -hex 32`"
        raise UsageError(msg)
    return token


def nodes_of(url: str, token: bytes | None = None, tls: Tls | None = None) -> Nodes:
    """The nodes that a URL names. A `token` or `tls` that is given counts before the URL's.

    Raises:
        UsageError: this is no such URL, or a file that it names cannot be used.
    """
    try:
        parts = urlsplit(url)
        given = dict(
            parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        )
    except ValueError as error:
        msg = f"{url!r} names no nodes ({error}); write {_FORM}"
        raise UsageError(msg) from error
    if parts.scheme != SCHEME or not parts.netloc or parts.path not in ("", "/") or parts.fragment:
        msg = f"{url!r} names no nodes; write {_FORM}"
        raise UsageError(msg)
    if "@" in parts.netloc:
        msg = f"{url!r}: nodes know no user and no password; give the token with ?token_file=FILE"
        raise UsageError(msg)
    unknown = sorted(set(given) - set(_OPTIONS))
    if unknown:
        msg = f"{url!r} has the unknown option {unknown[0]!r}; known are {', '.join(_OPTIONS)}"
        raise UsageError(msg)
    if token is None:
        token = b""
        if "token_file" in given:
            token = read_token(given.pop("token_file"))
    # What is left are options of TLS. A file whose token does not count is not read.
    given.pop("token_file", None)
    if tls is None and given:
        tls = _tls(url, given)
    # An address that stands twice would be tried twice.
    addresses = [_address(text) for text in parts.netloc.split(",")]
    return Nodes(tuple(dict.fromkeys(addresses)), token, tls)


def _address(text: str) -> str:
    # The port may be left out, also behind the brackets of IPv6.
    if text and (":" not in text or text.endswith("]")):
        text = f"{text}:{PORT}"
    return address_of(*host_and_port(text))


def _tls(url: str, given: dict[str, str]) -> Tls:
    missing = [name for name in ("cert", "key", "ca") if name not in given]
    if missing:
        msg = f"{url!r}: TLS needs the files cert, key and ca; {missing[0]} is missing"
        raise UsageError(msg)
    return Tls(
        cert=given["cert"],
        key=given["key"],
        ca=given["ca"],
        server_name=given.get("server_name"),
    )
