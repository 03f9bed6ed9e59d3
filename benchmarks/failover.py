"""Three nodes on a PostgreSQL server, and the longest time in which an instance stood still.

`python -m benchmarks.failover kill` ends a node with SIGKILL under load. `drain` ends it in order,
`freeze` stops it for three leases (SIGSTOP), and `database` stops the server for 20 s. 300 instances
go through steps of 50 ms meanwhile. Each step notes its time, its process and its number in a file.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from perdure import App, Client

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "fixtures"))

if TYPE_CHECKING:
    from postgres_server import Server

INSTANCES = 300
NODES = 3
FREEZE_S = 30
AWAY_S = 20
STEPS = {"kill": 200, "drain": 100, "freeze": 500, "database": 500}
NOTES = "PERDURE_FAILOVER_NOTES"

app = App("failover")


@app.activity
async def step(instance: str, number: int) -> int:
    """Take 50 ms, and note it."""
    await asyncio.sleep(0.05)
    note = f"{time.time():.3f} {os.getpid()} {instance} {number}\n"
    # One write of a few bytes to the end of a file is not mixed with those of other processes.
    with Path(os.environ[NOTES]).open("a") as notes:
        notes.write(note)
    return number + 1


@app.workflow
async def steps(instance: str, count: int) -> int:
    """Take so many steps, one after the other."""
    number = 0
    for _ in range(count):
        number = await step(instance, number)
    return number


@dataclass(frozen=True)
class Note:
    """A step that was taken."""

    at_s: float
    process: int
    number: int


def serve(url: str) -> subprocess.Popen[bytes]:
    """Start a node."""
    command = [sys.executable, "-m", "perdure", "serve", f"{__file__}:app", "--store", url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def wait_until_ready(node: subprocess.Popen[bytes]) -> None:
    """Wait for the line that it runs."""
    assert node.stdout is not None
    node.stdout.readline()


async def disturb(what: str, node: subprocess.Popen[bytes], server: Server) -> None:
    """Let it happen."""
    if what == "kill":
        node.kill()
    elif what == "drain":
        node.terminate()
    elif what == "freeze":
        node.send_signal(signal.SIGSTOP)
        await asyncio.sleep(FREEZE_S)
        node.send_signal(signal.SIGCONT)
    else:
        server.stop(signal.SIGQUIT)
        await asyncio.sleep(AWAY_S)
        server.start()


async def play(what: str, url: str, server: Server) -> tuple[float, int]:
    """Run the load, and disturb it. Returns when, and the process that was disturbed."""
    nodes = [serve(url) for _ in range(NODES)]
    try:
        for node in nodes:
            wait_until_ready(node)
        async with Client.open(url) as client:
            handles = [client.workflow(steps, id=f"w{n}") for n in range(INSTANCES)]
            await asyncio.gather(*(handle.start(handle.id, STEPS[what]) for handle in handles))
            await asyncio.sleep(3)
            at_s = time.time()
            await disturb(what, nodes[1], server)
            results = await asyncio.gather(*(handle.result(timeout=600) for handle in handles))
        assert results == [STEPS[what]] * INSTANCES
        return at_s, nodes[1].pid
    finally:
        for node in nodes:
            node.terminate()
        for node in nodes:
            node.wait()


def report(what: str, notes: Path, at_s: float, process: int) -> str:
    """The figures of a run, from the notes of its steps."""
    by_instance: defaultdict[str, list[Note]] = defaultdict(list)
    for line in notes.read_text().splitlines():
        time_s, pid, instance, number = line.split()
        by_instance[instance].append(Note(float(time_s), int(pid), int(number)))
    gaps: list[float] = []
    repeated = 0
    for taken in by_instance.values():
        taken.sort(key=lambda note: note.at_s)
        late = [note.at_s for note in taken if note.at_s >= at_s - 1]
        gaps += [after - before for before, after in itertools.pairwise(late)]
        repeated += len(taken) - len({note.number for note in taken})
    all_notes = [note for taken in by_instance.values() for note in taken]
    after = sum(note.process == process and note.at_s > at_s + 1 for note in all_notes)
    return (
        f"{what}: {INSTANCES} instances ended as they should; the longest time without a step "
        f"{max(gaps):.2f} s; {repeated} steps ran twice; {after} steps by that node afterwards"
    )


def main() -> None:
    """Play one of them."""
    from postgres_server import new_server

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=sorted(STEPS))
    what: str = parser.parse_args().what
    server = new_server(fsync=True)
    server.start()
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder) / "notes"
        os.environ[NOTES] = str(notes)
        at_s, process = asyncio.run(play(what, f"{server.url}?schema=failover", server))
        sys.stdout.write(report(what, notes, at_s, process) + "\n")
    server.remove()


if __name__ == "__main__":
    main()
