"""The machine of a measurement: facts without names and paths, and SQLite's speed on its disk."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from perdure.store.sqlite.connection import opened


def processor() -> str:
    """The name of the processor."""
    # `platform.processor()` is empty or only the architecture on most Linux systems.
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def memory_gib() -> int:
    """Memory of the machine."""
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def file_system(folder: Path) -> str:
    """The type of the file system that holds `folder`. It is unknown where there is no /proc."""
    mounts = Path("/proc/mounts")
    kind = "unknown"
    if not mounts.exists():
        return kind
    place = folder.resolve()
    best = ""
    for line in mounts.read_text().splitlines():
        _, point, found, *_ = line.split()
        # The innermost mount counts, and of several at one point the last.
        if place.is_relative_to(point) and len(point) >= len(best):
            best = point
            kind = found
    return kind


def describe(folder: Path) -> dict[str, str]:
    """The machine, and the file system of a folder."""
    return {
        "cores": f"{os.cpu_count()} ({processor()})",
        "memory": f"{memory_gib()} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "file system": file_system(folder),
        "load before the run": f"{os.getloadavg()[0]:.1f}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def sqlite_rows_per_s(path: Path, synchronous: str, rows: int, seconds: float) -> float:
    """Rows of 100 bytes that SQLite writes per second into a new file.

    Each transaction has `rows` of them.
    """
    connection = opened(str(path))
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA synchronous={synchronous}")
    connection.execute(
        "CREATE TABLE journal (id TEXT, seq INTEGER, data BLOB, PRIMARY KEY (id, seq)) "
        "WITHOUT ROWID"
    )
    numbers = iter(range(sys.maxsize))
    done = 0
    begin = time.perf_counter()
    while (took := time.perf_counter() - begin) < seconds:
        batch = [("instance-0", next(numbers), b"x" * 100) for _ in range(rows)]
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO journal VALUES (?, ?, ?)", batch)
        connection.execute("COMMIT")
        done += rows
    connection.close()
    return done / took


def commits_per_s(folder: Path, seconds: float = 0.3) -> float:
    """Durable transactions per second on the disk of this folder.

    This is the limit of one chain of activities.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix="perdure-disk-") as place:
        return sqlite_rows_per_s(Path(place) / "disk.db", "FULL", 1, seconds)
