"""One node process against several on the same PostgreSQL server, under workload W1.

`python -m benchmarks.nodes --rounds 3` measures one process and two, in turn, on a server that waits
for the disk at each commit. Each process has a node and a client of it, and starts one-activity
workflows with ids of its own, 100 at a time. Their ids fall to any node of the cluster, as they do
behind a load balancer. `--own` takes ids that fall to the node that starts them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.contenders import server_url
from perdure import App, Node
from perdure.kernel.data.placement import scope_of

ROOT = Path(__file__).resolve().parents[1]
IN_FLIGHT = 100
WARM_UP_S = 2.0

app = App("nodes")


@app.activity
async def echo(payload: str) -> str:
    """Give it back."""
    return payload


@app.workflow
async def one(payload: str) -> str:
    """Do one activity."""
    return await echo(payload)


def own_scopes(node: Node) -> frozenset[str]:
    """The scopes that a node serves now."""
    life = node._life  # there is no public word for this, and only this program asks
    assert life is not None
    return frozenset(scope.name for scope in life.ownership.all())


async def load(node: Node, until: float, *, own: bool) -> int:
    """Run workflows until then. Return how many have ended."""
    done = 0
    shards = node.store.info.shards
    scopes = own_scopes(node)

    async def worker() -> None:
        nonlocal done
        while time.monotonic() < until:
            key = secrets.token_hex(8)
            if own and scope_of(key, shards) not in scopes:
                continue
            assert await node.client.workflow(one, id=key).run("payload") == "payload"
            done += 1

    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return done


async def member(url: str, name: str, nodes: int, seconds: float, *, own: bool) -> None:
    """One process. It says when it is ready, and waits for the word to begin."""
    async with Node(app, url, name=name) as node:
        # Each has its share of the scopes once all have come.
        share = node.store.info.shards / nodes
        while not 0.5 * share <= len(own_scopes(node)) <= 1.5 * share:
            await asyncio.sleep(0.05)
        await load(node, time.monotonic() + WARM_UP_S, own=own)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        done = await load(node, time.monotonic() + seconds, own=own)
        print(json.dumps(done), flush=True)
        # None leaves before all have finished: the scopes would move under load.
        await asyncio.to_thread(sys.stdin.readline)


def measure(nodes: int, seconds: float, *, own: bool) -> float:
    """Workflows in a second, of all processes together."""
    url = f"{server_url()}?schema=nodes_{secrets.token_hex(4)}"
    command = [sys.executable, "-m", "benchmarks.nodes", "--member", url]
    command += ["--seconds", str(seconds), "--nodes", str(nodes)]
    if own:
        command.append("--own")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    members = [
        subprocess.Popen([*command, "--name", f"node-{n}"], cwd=ROOT, text=True, **pipes)
        for n in range(nodes)
    ]
    done = 0
    try:
        for process in members:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in members:
            print(file=process.stdin, flush=True)
        for process in members:
            assert process.stdout is not None
            done += json.loads(process.stdout.readline())
        for process in members:
            print(file=process.stdin, flush=True)
            process.wait(30)
    finally:
        for process in members:
            process.kill()
    return done / seconds


def main() -> None:
    """Measure in turn, and print the medians and the median of the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--own", action="store_true")
    parser.add_argument("--member", help=argparse.SUPPRESS)
    parser.add_argument("--name", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.member:
        work = member(options.member, options.name, options.nodes, options.seconds, own=options.own)
        asyncio.run(work)
        return
    ratios: list[float] = []
    for number in range(1, options.rounds + 1):
        alone = measure(1, options.seconds, own=options.own)
        together = measure(options.nodes, options.seconds, own=options.own)
        ratios.append(together / alone)
        text = f"round {number}: 1 node {alone:,.0f}, {options.nodes} nodes {together:,.0f}"
        print(f"{text} workflows/s: {ratios[-1]:.2f} x", flush=True)
    print(f"median of the ratios: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
