"""A node for the tests of two processes: prints its address, and serves until it is killed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable

from perdure.ports.transport import Request
from perdure.testing.conformance.transport import Recorder, peer
from perdure.transport.tcp import TcpTransport


class Node(Recorder):
    def call(self, request: Request) -> bytes | Awaitable[bytes]:
        if request.kind == "ask back":
            return request.link.call("echo", b"from here", 5_000)
        return super().call(request)


async def main() -> None:
    async with TcpTransport(peer("there"), token=b"token") as transport:
        sys.stdout.write(f"{await transport.listen(Node())}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


asyncio.run(main())
