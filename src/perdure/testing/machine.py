"""What figures were measured on: facts about the machine without names and paths, and what SQLite does on its disk."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from perdure.store.sqlite.connection import opened


def processor() -> str:
    """What the processor calls itself."""
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
    """The type of the file system that holds `folder`; unknown where there is no /proc."""
    mounts = Path("/proc/mounts")
    best, kind = "", "unknown"
    if mounts.exists():
        for line in mounts.read_text().splitlines():
            _, point, found, *_ = line.split()
            if len(point) >= len(best) and folder.resolve().is_relative_to(point):
                best, kind = point, found
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
    """Rows of 100 bytes that SQLite writes per second into a new file, `rows` of them in each transaction."""
    connection = opened(str(path))
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA synchronous={synchronous}")
    connection.execute(
        "CREATE TABLE journal (id TEXT, seq INTEGER, data BLOB, PRIMARY KEY (id, seq)) WITHOUT ROWID"
    )
    numbers = iter(range(sys.maxsize))
    done, begin = 0, time.perf_counter()
    while (took := time.perf_counter() - begin) < seconds:
        batch = [("instance-0", next(numbers), b"x" * 100) for _ in range(rows)]
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO journal VALUES (?, ?, ?)", batch)
        connection.execute("COMMIT")
        done += rows
    connection.close()
    return done / took


def commits_per_s(folder: Path, seconds: float = 0.3) -> float:
    """Durable transactions per second on the disk of this folder: the limit of one chain of steps."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="perdure-disk-") as place:
        return sqlite_rows_per_s(Path(place) / "disk.db", "FULL", 1, seconds)
