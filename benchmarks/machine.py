"""What the figures were measured on: no names, no paths."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def memory_gib() -> int:
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
    return {
        "cores": f"{os.cpu_count()} ({processor()})",
        "memory": f"{memory_gib()} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "file system": file_system(folder),
        "load before the run": f"{os.getloadavg()[0]:.1f}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
    }
