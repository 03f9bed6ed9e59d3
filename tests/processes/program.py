"""A program of several processes on one file: `python program.py URL`.

It runs a node, says `ready`, and goes on until its input ends.
With LEDGER in the environment each activity writes a line to that file. With HANG in it, `second` never ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path

from perdure import App, activity, workflow

app = App("processes")
numbers = workflow.Channel[int]("numbers")


def note(what: str) -> None:
    if "LEDGER" in os.environ:
        with Path(os.environ["LEDGER"]).open("a") as ledger:
            ledger.write(f"{what} {activity.info().instance}\n")


@app.activity
async def first(n: int) -> int:
    note("first")
    return n + 1


@app.activity
async def second(n: int) -> int:
    note("second")
    if "HANG" in os.environ:
        await asyncio.Event().wait()
    return n * 2


@app.activity
async def third(n: int) -> int:
    note("third")
    return n + 3


@app.workflow
async def steps(n: int) -> int:
    return await third(await second(await first(n)))


@app.workflow
async def add_up(count: int) -> list[int]:
    return [await numbers.receive() for _ in range(count)]


@app.workflow
async def work_and_listen(count: int) -> list[int]:
    work = second(1)
    heard = [await numbers.receive() for _ in range(count)]
    return [*heard, await work]


@app.workflow
async def waits() -> str:
    try:
        await asyncio.sleep(3_600)
    except asyncio.CancelledError:
        await third(0)
        raise
    return "slept"


async def main(url: str) -> None:
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="%(message)s")
    async with app.node(url):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
