"""Addresses of nodes: `host:port`, and `[host]:port` for IPv6."""

from __future__ import annotations

import re

from perdure.errors import UsageError

_FORM = re.compile(r"(?:\[(?P<six>[^\[\]]+)\]|(?P<host>[^:\[\]\s]+)):(?P<port>\d{1,5})")
PORT_MAX = 65_535


def address_of(host: str, port: int) -> str:
    """Host and port in one text."""
    if ":" in host:
        return f"[{host}]:{port}"
    return f"{host}:{port}"


def host_and_port(address: str) -> tuple[str, int]:
    """The two parts of an address.

    Raises:
        UsageError: this is no address.
    """
    found = _FORM.fullmatch(address)
    if found is None or int(found["port"]) > PORT_MAX:
        msg = f"{address!r} is no address of a node; write it as HOST:PORT, or [HOST]:PORT for IPv6"
        raise UsageError(msg)
    return found["six"] or found["host"], int(found["port"])
