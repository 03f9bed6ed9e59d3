"""A client that sends what it is told to, well formed or not."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from perdure.transport.address import host_and_port


@dataclass(frozen=True)
class Seen:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def seen(data: bytes) -> Seen:
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    version, status, *_ = first.split()
    assert version == "HTTP/1.1"
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return Seen(int(status), headers, body)


async def raw(address: str, data: bytes) -> bytes:
    """All that comes back for these bytes."""
    reader, writer = await asyncio.open_connection(*host_and_port(address))
    try:
        writer.write(data)
        async with asyncio.timeout(30):
            return await reader.read()
    finally:
        writer.transport.abort()


async def ask(address: str, path: str, method: str = "GET", **headers: str) -> Seen:
    lines = [f"{method} {path} HTTP/1.1", f"host: {address}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return seen(await raw(address, "\r\n".join([*lines, "", ""]).encode()))
