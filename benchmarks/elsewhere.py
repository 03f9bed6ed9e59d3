"""Start to result of a workflow with one activity, through nodes that do not own it.

`python -m benchmarks.elsewhere` starts a PostgreSQL server and two node processes on it, and asks
one after the other, so that the cluster is idle. It prints the median and the 95th percentile of
each way, in milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import perdure
from perdure import App, Door, Node, NodeOptions
from perdure.kernel.data.placement import scope_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from perdure import Client

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "fixtures"))

TOKEN = b"benchmark"
RUNS = 300
WARM_UP = 30
SETTLED_S = 30

app = App("elsewhere")


@app.activity
async def double(n: int) -> int:
    """One activity."""
    return 2 * n


@app.workflow
async def once(n: int) -> int:
    """A workflow of one activity."""
    return await double(n)


def node_at(url: str, name: str, *, listens: bool = True) -> Node:
    """A node of this process."""
    door = None
    if listens:
        door = Door("127.0.0.1:0", token=TOKEN)
    return Node(app, url, name=name, options=NodeOptions(stop_ms=0), listen=door)


async def serve(url: str, name: str, listens: bool) -> None:
    """Run a node until the process is ended."""
    async with node_at(url, name, listens=listens) as node:
        sys.stdout.write(f"{node.address}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def ids_of(node: Node, shards: int, ours: bool, stem: str) -> Iterator[str]:
    """Ids of units that a node owns, or does not own."""
    for number in range(10**9):
        unit = f"{stem}-{number}"
        if (scope_of(unit, shards) in node.scopes) == ours:
            yield unit


async def measure(client: Client, ids: Iterator[str]) -> list[float]:
    """The milliseconds of each run, without the first ones."""
    found: list[float] = []
    for number in range(WARM_UP + RUNS):
        unit = next(ids)
        began = time.perf_counter()
        result = await client.workflow(once, id=unit).run(number)
        found.append((time.perf_counter() - began) * 1000)
        assert result == 2 * number
    return found[WARM_UP:]


def say(way: str, times: list[float]) -> None:
    """One line of the table."""
    p50 = statistics.median(times)
    p95 = statistics.quantiles(times, n=20)[-1]
    sys.stdout.write(f"{way:52} p50 {p50:6.1f} ms   p95 {p95:6.1f} ms\n")
    sys.stdout.flush()


async def compare(url: str) -> None:
    """All ways: the owner itself, another node, and a client without a store."""
    for listens in (True, False):
        command = [sys.executable, "-m", "benchmarks.elsewhere", "--serve", url]
        if not listens:
            command.append("--deaf")
        other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        try:
            assert other.stdout is not None
            await asyncio.to_thread(other.stdout.readline)
            async with node_at(url, "asked", listens=listens) as node:
                await settled(node)
                shards = node.store.info.shards
                run = os.urandom(4).hex()
                if listens:
                    say(
                        "the owner",
                        await measure(node.client, ids_of(node, shards, True, f"a{run}")),
                    )
                    times = await measure(node.client, ids_of(node, shards, False, f"b{run}"))
                    say("a node that does not own it", times)
                    address = f"perdure://{node.address}"
                    async with perdure.connect(address, token=TOKEN) as client:
                        times = await measure(client, ids_of(node, shards, True, f"c{run}"))
                        say("a client without a store, to the owner or not", times)
                else:
                    times = await measure(node.client, ids_of(node, shards, False, f"d{run}"))
                    say("a node that does not own it, by the store alone", times)
        finally:
            other.terminate()
            other.wait()


async def settled(node: Node) -> None:
    """Wait until each of the two nodes serves its part."""
    until = time.monotonic() + SETTLED_S
    while time.monotonic() < until:
        states = list(node.scopes.values())
        shards = node.store.info.shards
        if 0 < len(states) < shards and set(states) == {"serving"}:
            await asyncio.sleep(1)
            return
        await asyncio.sleep(0.05)
    msg = "the two nodes did not share the scopes in time"
    raise TimeoutError(msg)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", metavar="URL", help="(used by itself)")
    parser.add_argument("--deaf", action="store_true", help="(used by itself)")
    parser.add_argument("--store", metavar="URL", help="a server of yours, whose database is empty")
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve(given.serve, "other", not given.deaf))
        return
    if given.store:
        asyncio.run(compare(given.store))
        return
    from postgres_server import new_server

    server = new_server(fsync=True)
    server.start()
    asyncio.run(compare(server.url))


if __name__ == "__main__":
    main()
