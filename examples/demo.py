"""`make demo`: the shop is killed with `kill -9` in the middle and restarted, and every step is shown to happen once.

It ends with 1, and says why, if a side effect happened twice, if a step that was recorded before the kill ran again,
or if an order did not end as it must.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from perdure import Client
from perdure.kernel.data.events import ActivityCompleted, ActivityScheduled

SHOP = Path(__file__).with_name("shop.py")
BIG_ORDER = "order-1002"
ENDS = {
    "order-1001": "parcel for Ada",
    "order-1002": "parcel for Grace",
    "order-1003": "parcel for Linus",
    "order-1004": "given up",
}

console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)


@dataclass(frozen=True)
class Step:
    """A line of the ledger: what an activity did to the outside world, and in which process."""

    at: float
    pid: int
    order: str
    step: str
    what: str
    key: str
    attempt: int
    text: str


Recorded = set[tuple[str, str]]


def problems(steps: Iterable[Step], recorded: Recorded, first_pid: int) -> list[str]:
    """What a correct run cannot have. `recorded`: the (order, step) pairs that were in the journals at the kill."""
    lines = list(steps)
    done = Counter((line.order, line.step) for line in lines if line.what == "done")
    found = [
        f"{order}: {step} happened {count} times"
        for (order, step), count in done.items()
        if count > 1
    ]
    found += [
        f"{line.order}: {line.step} had been recorded before the kill, and ran again after it"
        for line in lines
        if line.what == "began" and line.pid != first_pid and (line.order, line.step) in recorded
    ]
    begun = {(line.order, line.step) for line in lines if line.what == "began"}
    return found + [
        f"{order}: {step} was begun and never done" for order, step in sorted(begun - set(done))
    ]


class Shop:
    """The shop in a process of its own, and what it has told us."""

    def __init__(self, folder: Path, began_at: float) -> None:
        self.began_at = began_at
        self.steps: list[Step] = []
        self.process = subprocess.Popen(
            [sys.executable, SHOP, folder], stdout=subprocess.PIPE, text=True
        )

    def follow(self, enough: Callable[[Step], bool] = lambda _: False) -> None:
        """Show its steps as they come, until one is enough or it ends."""
        assert self.process.stdout is not None
        for text in self.process.stdout:
            step = Step(**json.loads(text))
            self.steps.append(step)
            mark = {"began": "[dim]…[/]", "done": "[green]✓[/]", "failed": "[yellow]✗[/]"}[
                step.what
            ]
            note = f"[dim]{step.text}[/]" if step.text else ""
            console.print(
                f"  {step.at - self.began_at:5.1f} s  {mark} {step.order}  {step.step:8} {note}"
            )
            if enough(step):
                return

    def kill(self) -> None:
        self.process.kill()  # SIGKILL: no handler, no goodbye
        self.process.communicate()


async def recorded_steps(url: str) -> Recorded:
    """The steps whose results are in the journals, read by a client while no process runs the shop."""
    recorded: Recorded = set()
    async with Client.open(url) as client:
        for order in ENDS:
            events = [entry.event for entry in await client.get(order).history()]
            names = {
                event.seq: event.name for event in events if isinstance(event, ActivityScheduled)
            }
            recorded |= {
                (order, names[event.seq])
                for event in events
                if isinstance(event, ActivityCompleted)
            }
    return recorded


async def approve(url: str) -> None:
    async with Client.open(url) as client:
        await client.get(BIG_ORDER).send("approved", True)


async def wrong_ends(url: str) -> list[str]:
    async with Client.open(url) as client:
        ends = {order: await client.get(order).result(timeout=1) for order in ENDS}
    return [
        f"{order}: ended with {ends[order]!r}, not {end!r}"
        for order, end in ENDS.items()
        if ends[order] != end
    ]


def timeline(steps: list[Step], first_pid: int, began_at: float, killed_at: float) -> Table:
    """Every step that happened, order by order."""
    table = Table(
        "order",
        "step",
        "at",
        "process",
        "what happened",
        title="The timeline",
        title_justify="left",
    )
    begun = {(line.order, line.step): line for line in steps if line.what == "began"}
    interrupted = {
        (line.order, line.step) for line in steps if line.what == "began" and line.pid == first_pid
    }
    for order in ENDS:
        for line in (line for line in steps if line.order == order and line.what == "done"):
            key = (order, line.step)
            again = line.pid != first_pid and key in interrupted
            which = "first" if line.pid == first_pid else "[cyan]second[/]"
            note = " [yellow](cut off by the kill, done now)[/]" if again else ""
            if begun[key].attempt > 1:
                note += f" [yellow](attempt {begun[key].attempt})[/]"
            table.add_row(order, line.step, f"{line.at - began_at:.1f} s", which, line.text + note)
        table.add_section()
    table.caption = f"kill -9 at {killed_at - began_at:.1f} s"
    return table


def run(folder: Path) -> list[str]:
    """The whole demo; returns what was wrong."""
    url = f"sqlite:///{folder / 'shop.db'}"
    began_at = time.time()
    console.print(
        "[bold]Four orders come in.[/] The shop runs in a process of its own, on one SQLite file.\n"
    )
    shop = Shop(folder, began_at)
    try:
        shop.follow(lambda step: step.step == "ship" and step.what == "began")
        time.sleep(0.2)  # into the middle of shipping
    finally:
        shop.kill()
    killed_at = time.time()
    if not shop.steps or shop.steps[-1].step != "ship":
        return ["the shop ended before it could be killed"]
    console.print(
        f"\n[bold red]kill -9 {shop.process.pid}[/]  A parcel was being packed, a payment waited for its retry."
    )
    recorded = asyncio.run(recorded_steps(url))
    console.print(
        f"The file knows {len(recorded)} steps that are done. Nobody runs now; Grace's order is approved all the same:"
    )
    asyncio.run(approve(url))
    console.print(f"  [green]sent[/] approved to {BIG_ORDER}: it waits in the file\n")
    console.print(
        "[bold]A new process takes over.[/] It was told nothing but the name of the file.\n"
    )
    second = Shop(folder, began_at)
    try:
        second.follow()
        ended = second.process.wait(timeout=10)
    finally:
        second.kill()
    if ended != 0:
        return [f"the second process ended with {ended}"]
    ledger = [
        Step(**json.loads(line)) for line in (folder / "ledger.jsonl").read_text().splitlines()
    ]
    console.print()
    console.print(timeline(ledger, shop.process.pid, began_at, killed_at))
    return problems(ledger, recorded, shop.process.pid) + asyncio.run(wrong_ends(url))


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="perdure-demo-") as folder:
        wrong = run(Path(folder))
    for problem in wrong:
        console.print(f"[bold red]WRONG[/] {problem}")
    if not wrong:
        console.print(
            "[bold green]Every step happened once.[/] No charge was lost, none was made twice."
        )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
