"""Calls between two processes: `python -m benchmarks.transport [--loop uvloop] [--count N]`.

A client and a server, each a process of its own, over TCP on this machine. `bare` is an echo of length-prefixed
messages on an asyncio Protocol: no envelopes, numbers or deadlines, one write for each message. It shows what the
system and asyncio cost by themselves. Rounds alternate between the two, and the median round is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from statistics import median

from benchmarks.contenders import ROOT
from benchmarks.summary import significant
from perdure.ports.store import Incarnation
from perdure.ports.transport import Link, Peer, Request, TransportError
from perdure.transport.tcp import TcpTransport

BODY = bytes(200)
IN_FLIGHT = (1, 64, 1_000)
TIMEOUT_MS = 60_000
LENGTH_BYTES = 4
NOW = time.perf_counter

Call = Callable[[bytes], Awaitable[bytes]]


def peer(name: str) -> Peer:
    return Peer(Incarnation(name, name), "benchmark")


class Echo:
    """Answers each call with its body, and `cpu` with the processor time of this process."""

    def opened(self, link: Link) -> None: ...

    def closed(self, link: Link, error: TransportError | None) -> None: ...

    def tell(self, link: Link, kind: str, body: bytes) -> None: ...

    def call(self, request: Request) -> bytes:
        if request.kind == "cpu":
            return repr(time.process_time()).encode()
        return request.body


class BareServer(asyncio.Protocol):
    """Sends back what comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class BareClient(asyncio.Protocol):
    """Cuts the answers by their lengths. They come in the order of the calls."""

    def __init__(self) -> None:
        self.waiting: deque[asyncio.Future[bytes]] = deque()
        self.data = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        place = 0
        while len(self.data) >= place + LENGTH_BYTES:
            end = (
                place
                + LENGTH_BYTES
                + int.from_bytes(self.data[place : place + LENGTH_BYTES], "big")
            )
            if len(self.data) < end:
                break
            self.waiting.popleft().set_result(bytes(self.data[place + LENGTH_BYTES : end]))
            place = end
        del self.data[:place]

    async def call(self, body: bytes) -> bytes:
        answer = asyncio.get_running_loop().create_future()
        self.waiting.append(answer)
        self.transport.write(len(body).to_bytes(LENGTH_BYTES, "big") + body)
        return await answer


async def serve() -> None:
    """The server process: prints the two addresses, and serves until its stdin ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(BareServer, "127.0.0.1", 0)
    async with TcpTransport(peer("server")) as transport:
        address = await transport.listen(Echo())
        print(json.dumps([address, server.sockets[0].getsockname()[1]]), flush=True)
        await loop.run_in_executor(None, sys.stdin.read)
    server.close()


async def measured(call: Call, count: int, in_flight: int) -> dict[str, float]:
    """Calls of so many callers, each of which waits for its answer."""
    times: list[float] = []

    async def caller() -> None:
        for _ in range(count // in_flight):
            begun = NOW()
            await call(BODY)
            times.append(NOW() - begun)

    begun, cpu = NOW(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(in_flight)))
    took = NOW() - begun
    cpu_us = (time.process_time() - cpu) / len(times) * 1e6
    return {"calls/s": len(times) / took, "client us": cpu_us, "p50 us": median(times) * 1e6}


async def told(link: Link, count: int) -> dict[str, float]:
    """Tells as fast as the queue takes them, until the server has read the last."""
    begun, cpu = NOW(), time.process_time()
    for number in range(count):
        while not link.tell("mark", BODY):
            await asyncio.sleep(0)
        if number % 256 == 0:
            await asyncio.sleep(0)
    await link.call("echo", b"", TIMEOUT_MS)
    took = NOW() - begun
    return {"tells/s": count / took, "client us": (time.process_time() - cpu) / count * 1e6}


@contextlib.asynccontextmanager
async def connected(loop: str) -> AsyncIterator[tuple[Link, BareClient]]:
    command = [sys.executable, "-m", "benchmarks.transport", "--serve", "--loop", loop]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    server = await asyncio.create_subprocess_exec(*command, cwd=ROOT, **pipes)
    assert server.stdin is not None
    assert server.stdout is not None
    address, port = json.loads(await server.stdout.readline())
    running = asyncio.get_running_loop()
    _, bare = await running.create_connection(BareClient, "127.0.0.1", port)
    async with TcpTransport(peer("client")) as transport:
        yield await transport.connect(address), bare
    bare.transport.close()
    server.stdin.close()
    await server.wait()


async def compare(options: argparse.Namespace) -> None:
    """All rounds, and a line for each kind of work."""
    found: dict[str, list[dict[str, float]]] = {}
    async with connected(options.loop) as (link, bare):

        async def ours(body: bytes) -> bytes:
            return await link.call("echo", body, TIMEOUT_MS)

        async def server_cpu() -> float:
            return float(await link.call("cpu", b"", TIMEOUT_MS))

        for _ in range(options.rounds):
            for in_flight in IN_FLIGHT:
                count = options.count if in_flight > 1 else options.count // 10
                for name, call in (("bare", bare.call), ("link", ours)):
                    before = await server_cpu()
                    figures = await measured(call, count, in_flight)
                    figures["server us"] = (await server_cpu() - before) / count * 1e6
                    found.setdefault(f"{name}, {in_flight:,} in flight", []).append(figures)
            before = await server_cpu()
            figures = await told(link, options.count)
            figures["server us"] = (await server_cpu() - before) / options.count * 1e6
            found.setdefault("link, tells", []).append(figures)
    for what, rounds in sorted(found.items()):
        names = list(rounds[0])
        values = (median(one[name] for one in rounds) for name in names)
        figures = (
            f"{name} {significant(value)}" for name, value in zip(names, values, strict=True)
        )
        print(f"{what}: {', '.join(figures)}")


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.transport", description=__doc__)
    arguments.add_argument(
        "--count", type=int, default=100_000, help="calls of a round (default 100,000)"
    )
    arguments.add_argument("--rounds", type=int, default=3, help="rounds (default 3)")
    arguments.add_argument(
        "--loop", choices=("asyncio", "uvloop"), default="asyncio", help="the event loop"
    )
    arguments.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    factory = asyncio.new_event_loop
    if options.loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve() if options.serve else compare(options))


if __name__ == "__main__":
    main()
