"""What this process has used so far: processor time, memory, context switches."""

from __future__ import annotations

import gc
import os
import resource
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Usage:
    """Use of this process, all threads, since it began."""

    cpu_seconds: float
    switches: int

    def __sub__(self, earlier: Usage) -> Usage:
        return Usage(self.cpu_seconds - earlier.cpu_seconds, self.switches - earlier.switches)


def usage() -> Usage:
    """Processor time and voluntary context switches (a thread went to sleep and will have to be woken)."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Usage(used.ru_utime + used.ru_stime, used.ru_nvcsw)


def resident_bytes() -> int:
    """Resident memory now, garbage collected; without /proc, the peak of this process."""
    gc.collect()
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
