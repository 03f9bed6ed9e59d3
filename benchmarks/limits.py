"""What a node must bear with thousands of instances: `python -m benchmarks.limits [ROW ...]`.

Each row runs in processes of its own, on a SQLite file in an empty folder, with the default options where the row
does not name others. It prints its figures beside what is required. `--scale 0.1` runs a tenth of everything.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import ROOT, workspace
from benchmarks.gaps import Gaps
from benchmarks.loads import Figures, bounded
from benchmarks.summary import significant
from perdure import App, workflow
from perdure.cli.serving import COLLECTOR, GC_RESIDENTS
from perdure.node import Node
from perdure.node.options import NodeOptions
from perdure.ports.clock import SystemClock

IN_FLIGHT = 200
HOUR_S = 3_600
TIMEOUT_S = 900

app = App("limits")
go = workflow.Channel[int]("go")
number = workflow.Channel[int]("number")


@app.activity
async def work(seconds: float) -> None:
    await asyncio.sleep(seconds)


@app.workflow
async def working(seconds: float) -> None:
    await work(seconds)


@app.workflow
async def asleep(until_s: float) -> None:
    await workflow.sleep(max(0.0, until_s - workflow.now().timestamp()))


@app.workflow
async def waiting(count: int) -> int:
    await go.receive()
    return sum([await number.receive() for _ in range(count)])


@app.workflow
async def brief() -> None:
    await work(0)


SERVED: dict[str, int] = {}
"""Options that `perdure serve` gives to its node and an embedding program does not."""


def options_of(**given: int) -> NodeOptions:
    """The options of a row's node."""
    return NodeOptions(**SERVED, **given)  # type: ignore[arg-type]  # all of these are numbers


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'limits.db'}"


def ahead_by_ns() -> int:
    return time.time_ns() + 2 * HOUR_S * 1_000_000_000


# ---------------------------------------------------------------- preparing, in a process of its own


async def begin_working(folder: Path, count: int) -> Node:
    """A node with instances that have an open activity each."""
    node = app.node(url(folder), options=options_of(residents=200_000, activities=200_000))
    await node.start()

    async def one(n: int) -> None:
        await node.client.workflow(working, id=f"w-{n}").start(HOUR_S)

    await bounded(count, IN_FLIGHT, one)
    return node


async def prepare_working(folder: Path, count: int) -> Figures:
    """The process then ends, without a stop of the node."""
    await begin_working(folder, count)
    return {}


async def prepare_working_and_stop(folder: Path, count: int) -> Figures:
    await (await begin_working(folder, count)).stop(0)
    return {}


async def prepare_asleep(folder: Path, count: int) -> Figures:
    """Instances that sleep for an hour, started with the default options."""
    until_s = time.time() + HOUR_S
    part = count // 10
    slowest = float("inf")
    async with app.node(url(folder), options=options_of()) as node, Gaps() as gaps:
        for first in range(0, count, part):

            async def one(n: int, first: int = first) -> None:
                await node.client.workflow(asleep, id=f"z-{first + n}").start(until_s)

            began = time.perf_counter()
            await bounded(part, IN_FLIGHT, one)
            slowest = min(slowest, part / (time.perf_counter() - began))
    return {"slowest tenth, starts/s": slowest, **gaps.figures()}


async def prepare_ended(folder: Path, count: int) -> Figures:
    async with app.node(url(folder), options=options_of()) as node:

        async def one(n: int) -> None:
            await node.client.workflow(brief, id=f"e-{n}").run()

        await bounded(count, IN_FLIGHT, one)
    return {}


# ---------------------------------------------------------------- measuring


async def start(folder: Path, count: int) -> Figures:
    """From the start of a node until each open activity is at work."""
    options = options_of(residents=1_000, activities=200_000)
    node = app.node(url(folder), options=options)
    async with Gaps() as gaps:
        began = time.perf_counter()
        await node.start()
        while node.metrics.running < count:
            await asyncio.sleep(0.005)
        took = time.perf_counter() - began
    await node.stop(0)
    return {"all at work after, s": took, **gaps.figures()}


async def timers(folder: Path, count: int) -> Figures:
    """Timers that come due at one moment, in a node that runs."""
    due_s = time.time() + 5 + count / 2_500
    async with app.node(url(folder), options=options_of()) as node:

        async def one(n: int) -> None:
            await node.client.workflow(asleep, id=f"z-{n}").start(due_s)

        await bounded(count, IN_FLIGHT, one)
        if time.time() > due_s - 0.5:
            raise RuntimeError(
                "the machine is too slow: the first timer is due before the last instance has started"
            )
        await asyncio.sleep(due_s - 0.1 - time.time())
        async with Gaps() as gaps:
            await _until_ended(node, count)
            took = time.time() - due_s
    return {"all done after, s": took, **gaps.figures()}


async def cold(folder: Path, count: int) -> Figures:
    """A node that starts when everything is due: its clock is two hours ahead."""
    node = Node(app, url(folder), options=options_of(), clock=SystemClock(wall_ns=ahead_by_ns))
    async with Gaps() as gaps:
        began = time.perf_counter()
        await node.start()
        ready = time.perf_counter() - began
        await _until_ended(node, count)
        took = time.perf_counter() - began
    await node.stop()
    return {"ready after, s": ready, "drained/s": count / took, **gaps.figures()}


async def inbox(folder: Path, count: int) -> Figures:
    """Messages that wait for one instance, from the moment in which it begins to take them."""
    async with app.node(url(folder), options=options_of()) as node:
        handle = node.client.workflow(waiting, id="one")
        await handle.start(count)

        async def one(n: int) -> None:
            await handle.send(number, n)

        await bounded(count, IN_FLIGHT, one)
        async with Gaps() as gaps:
            began = time.perf_counter()
            await handle.send(go, 1)
            found = await handle.result()
            took = time.perf_counter() - began
        if found != count * (count - 1) // 2:
            raise RuntimeError(f"a wrong sum: {found}")
    return {"ms each": 1_000 * took / count, **gaps.figures()}


async def sweep(folder: Path, count: int) -> Figures:
    """The time that a workflow takes beside four others, without and with a sweep that deletes ended instances."""
    plain, _ = await _brief_runs(folder, options_of(), "plain")
    swept, left = await _brief_runs(folder, options_of(retention_ms=6_000, sweep_ms=1), "swept")
    plain_ms, swept_ms = statistics.median(plain), statistics.median(swept)
    figures = {"p50 without, ms": plain_ms, "p50 while, ms": swept_ms, "times": swept_ms / plain_ms}
    return {**figures, "deleted": count + len(plain) + len(swept) - left}


async def _brief_runs(folder: Path, options: NodeOptions, name: str) -> tuple[list[float], int]:
    """The ms that each run took in five seconds, and how many ended instances there are then."""
    took_ms: list[float] = []
    async with app.node(url(folder), options=options) as node:
        ends = time.perf_counter() + 5

        async def client(n: int) -> None:
            run = 0
            while (began := time.perf_counter()) < ends:
                run += 1
                await node.client.workflow(brief, id=f"{name}-{n}-{run}").run()
                took_ms.append(1_000 * (time.perf_counter() - began))

        await asyncio.gather(*(client(n) for n in range(5)))
        left = (await node.client.counts()).get("completed", 0)
    return took_ms, left


async def leave(folder: Path, count: int) -> Figures:
    """A stop that takes waiting instances out of memory."""
    node = app.node(url(folder), options=options_of())
    await node.start()

    async def one(n: int) -> None:
        await node.client.workflow(waiting, id=f"w-{n}").start(1)

    await bounded(count, IN_FLIGHT, one)
    if node.residents != count:
        raise RuntimeError(f"{node.residents} instances are in memory, not {count}")
    async with Gaps() as gaps:
        began = time.perf_counter()
        await node.stop(0)
        took = time.perf_counter() - began
    return {"us each": 1e6 * took / count, **gaps.figures()}


async def stop(folder: Path, count: int) -> Figures:
    """A stop with a grace of one second while each instance has an activity at work."""
    node = await begin_working(folder, count)
    async with Gaps() as gaps:
        began = time.perf_counter()
        await node.stop(1)
        took = time.perf_counter() - began
    return {"stopped after, s": took, **gaps.figures()}


async def _until_ended(node: Node, count: int) -> None:
    while node.metrics.completed < count:
        await asyncio.sleep(0.02)


# ---------------------------------------------------------------- rows

Work = Callable[[Path, int], Awaitable[Figures]]


@dataclass(frozen=True)
class Row:
    """What is measured, with how many instances, and what is required."""

    count: int
    required: str
    measure: Work | None
    prepare: Work | None = None


ROWS = {
    "START": Row(16_000, "at most 3 s and 50 ms", start, prepare_working_and_stop),
    "CRASH": Row(16_000, "at most 3 s and 50 ms, after a crash", start, prepare_working),
    "TIMERS": Row(40_000, "at most 8 s and 50 ms", timers),
    "SLEEPERS": Row(200_000, "at least 3,000/s throughout", None, prepare_asleep),
    "COLD": Row(200_000, "ready in at most 1 s, at least 5,000/s", cold, prepare_asleep),
    "SWEEP": Row(20_000, "p50 at most doubled", sweep, prepare_ended),
    "INBOX": Row(10_000, "at most 0.2 ms each", inbox),
    "LEAVE": Row(10_000, "at most 30 us each and 50 ms", leave),
    "STOP": Row(10_000, "at most 2 s: the grace and 1 s", stop),
}


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.limits", description="What a node must bear."
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument(
        "--scale", type=float, default=1, help="the share of the instances (default: all)"
    )
    parser.add_argument(
        "--serving",
        action="store_true",
        help="with the garbage collector as `perdure serve` sets it",
    )
    parser.add_argument("--step", choices=("prepare", "measure"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    for name in options.rows:
        if name not in ROWS:
            parser.error(f"unknown row {name!r}; there is {', '.join(ROWS)}")
    return options


async def do(row: Row, options: argparse.Namespace) -> None:
    """One step of a row; its figures go to stdout. The process ends at once, as in a crash."""
    work = row.prepare if options.step == "prepare" else row.measure
    assert work is not None
    if options.serving:
        SERVED["gc_residents"] = GC_RESIDENTS
        gc.set_threshold(*COLLECTOR)
    print(json.dumps(await work(options.folder, int(row.count * options.scale))), flush=True)
    os._exit(0)


def run(name: str, options: argparse.Namespace) -> Figures:
    """All steps of a row, each in a process of its own."""
    row, figures = ROWS[name], Figures()
    common = ["--scale", str(options.scale), *(["--serving"] if options.serving else [])]
    with tempfile.TemporaryDirectory(dir=workspace(), prefix="run-") as folder:
        for step, work in (("prepare", row.prepare), ("measure", row.measure)):
            if work is None:
                continue
            command = [
                sys.executable,
                "-m",
                "benchmarks.limits",
                name,
                "--step",
                step,
                "--folder",
                folder,
            ]
            done = subprocess.run(
                [*command, *common],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                text=True,
                timeout=TIMEOUT_S,
                check=True,
            )
            figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    options = parse(sys.argv[1:])
    if options.step:
        asyncio.run(do(ROWS[options.rows[0]], options))
    for name in options.rows or ROWS:
        row = ROWS[name]
        found = ", ".join(
            f"{what} {significant(value)}" for what, value in run(name, options).items()
        )
        print(
            f"{name} ({int(row.count * options.scale):,}; required: {row.required}): {found}",
            flush=True,
        )


if __name__ == "__main__":
    main()
