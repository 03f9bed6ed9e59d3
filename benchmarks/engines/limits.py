"""What the machine itself can do: its disk, SQLite and asyncio. Nothing durable in Python can be faster than these.

`python -m benchmarks.engines.limits LIMITS PARAMETERS FOLDER`; `seconds` is the time given to each figure.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import apsw

from perdure.bench.machine import sqlite_rows_per_s

BLOCK = b"x" * 4096
TASKS_AT_ONCE = 1000


def rate(seconds: float, act: Callable[[], int]) -> float:
    """Units per second of an action that returns how many units it did."""
    units, start = 0, time.perf_counter()
    while (took := time.perf_counter() - start) < seconds:
        units += act()
    return units / took


def fsync_rates(folder: Path, seconds: float) -> dict[str, float]:
    """fdatasync of 4 KiB, at the end of a growing file and over the same place."""
    sync: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)
    descriptor = os.open(folder / "sync", os.O_RDWR | os.O_CREAT)

    def append() -> int:
        os.write(descriptor, BLOCK)
        sync(descriptor)
        return 1

    def overwrite() -> int:
        os.pwrite(descriptor, BLOCK, 0)
        sync(descriptor)
        return 1

    figures = {
        "fdatasync_append_per_s": rate(seconds, append),
        "fdatasync_overwrite_per_s": rate(seconds, overwrite),
    }
    os.close(descriptor)
    return figures


async def asyncio_rates(seconds: float) -> dict[str, float]:
    """How fast the event loop schedules: callbacks, wake-ups of one waiting task, new tasks."""
    loop = asyncio.get_running_loop()

    async def timed(act: Callable[[], object]) -> float:
        units, start = 0, time.perf_counter()
        while (took := time.perf_counter() - start) < seconds:
            for _ in range(TASKS_AT_ONCE):
                act()
            await asyncio.sleep(0)
            units += TASKS_AT_ONCE
        return units / took

    async def resumes() -> float:
        units, start = 0, time.perf_counter()
        while (took := time.perf_counter() - start) < seconds:
            for _ in range(TASKS_AT_ONCE):
                future = loop.create_future()
                loop.call_soon(future.set_result, None)
                await future
            units += TASKS_AT_ONCE
        return units / took

    async def nothing() -> None: ...

    kept: set[asyncio.Task[None]] = set()

    def task() -> None:
        created = loop.create_task(nothing())
        kept.add(created)
        created.add_done_callback(kept.discard)

    return {
        "call_soon_per_s": await timed(lambda: loop.call_soon(int)),
        "future_resume_per_s": await resumes(),
        "create_task_per_s": await timed(task),
    }


def limits(folder: Path, seconds: float) -> dict[str, float]:
    return (
        fsync_rates(folder, seconds)
        | {
            "sqlite_full_commits_per_s": sqlite_rows_per_s(folder / "full.db", "FULL", 1, seconds),
            "sqlite_normal_commits_per_s": sqlite_rows_per_s(
                folder / "normal.db", "NORMAL", 1, seconds
            ),
            "sqlite_full_rows_per_s": sqlite_rows_per_s(folder / "rows.db", "FULL", 100, seconds),
        }
        | asyncio.run(asyncio_rates(seconds))
    )


if __name__ == "__main__":
    figures = limits(Path(sys.argv[3]), json.loads(sys.argv[2])["seconds"])
    about = {
        "engine": f"apsw {apsw.apsw_version()}",
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
    }
    print(json.dumps({"figures": figures, "about": about}))
