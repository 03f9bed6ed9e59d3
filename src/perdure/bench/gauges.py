"""Figures of a run: memory and processor time of this process, percentiles of latencies."""

from __future__ import annotations

import asyncio
import math
import os
import resource
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

MB = 1_000_000
SAMPLE_S = 0.1
CPU_SAMPLES = 5
"""Samples of the memory between two of the processor.

Half a second is long against the ticks in which Linux counts processor time.
"""

_STATM = Path("/proc/self/statm")
# Each class of durations is 1 % wider than the one below it.
_RATIO = math.log(1.01)


class Latencies:
    """Percentiles of any number of durations in constant memory.

    Durations are counted in classes that are 1 % wide.
    """

    def __init__(self) -> None:
        """No duration yet."""
        self._classes: Counter[int] = Counter()
        self.count = 0
        self.highest = 0.0

    def add(self, ms: float) -> None:
        """One duration, in milliseconds."""
        self.count += 1
        self.highest = max(self.highest, ms)
        self._classes[math.ceil(math.log(max(ms, 0.001)) / _RATIO)] += 1

    def percentile(self, percent: float) -> float:
        """The duration that so many percent of all do not exceed. 0 without any.

        It is at most 1 % too high.
        """
        # The nearest rank. No interpolation: the classes are finer than it could be.
        rank = max(1, math.ceil(self.count * percent / 100))
        for number in sorted(self._classes):
            rank -= self._classes[number]
            if rank <= 0:
                return min(math.exp(number * _RATIO), self.highest)
        return 0.0

    def summary(self) -> dict[str, float]:
        """p50, p95, p99 and the highest."""
        percents = {f"p{percent}": self.percentile(percent) for percent in (50, 95, 99)}
        return percents | {"max": self.highest}


@dataclass(frozen=True)
class Use:
    """The resident memory (MB) and the processor time (percent of one core) of a process in a span.

    `rss_growth_mb` is the peak of the last third less the peak of the second one. It is 0 or less
    when memory is bounded.
    """

    rss_before_mb: float
    rss_peak_mb: float
    rss_growth_mb: float
    cpu_percent: float
    cpu_peak_percent: float


class Gauges:
    """Samples this process while it is open: `async with Gauges() as gauges: ...`, then
    `gauges.use()`.
    """

    def __init__(self) -> None:
        """Nothing is sampled before it is opened."""
        self._memory: list[float] = []
        self._first = self._last = (0.0, 0.0)
        self._peak = 0.0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin."""
        self._memory = [resident_mb()]
        self._first = self._last = (time.perf_counter(), cpu_seconds())
        self._task = asyncio.get_running_loop().create_task(self._sample(), name="perdure-gauges")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End. The last sample is taken now."""
        assert self._task is not None
        self._task.cancel()
        # Awaited without an exception, because the task ends by being cancelled.
        await asyncio.wait([self._task])
        self._memory.append(resident_mb())
        self._look_at_processor()

    @property
    def resident_mb(self) -> float:
        """Memory at the last sample."""
        return self._memory[-1]

    def use(self) -> Use:
        """The use from the beginning to the last sample."""
        third = len(self._memory) // 3
        # The first third is left out: pools and caches fill in it.
        grown = 0.0
        if third:
            grown = max(self._memory[-third:]) - max(self._memory[third:-third])
        spent = _share(self._first, self._last)
        return Use(self._memory[0], max(self._memory), grown, spent, max(self._peak, spent))

    async def _sample(self) -> None:
        while True:
            for _ in range(CPU_SAMPLES):
                await asyncio.sleep(SAMPLE_S)
                self._memory.append(resident_mb())
            before = self._last
            self._look_at_processor()
            self._peak = max(self._peak, _share(before, self._last))

    def _look_at_processor(self) -> None:
        self._last = (time.perf_counter(), cpu_seconds())


def _share(begin: tuple[float, float], end: tuple[float, float]) -> float:
    took = end[0] - begin[0]
    if took > 0:
        return 100 * (end[1] - begin[1]) / took
    return 0.0


def cpu_seconds() -> float:
    """Processor time of this process so far, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def resident_mb() -> float:
    """Resident memory now. Where there is no /proc, the highest so far."""
    if _STATM.exists():
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MB
    # macOS reports bytes here, Linux and the BSDs kilobytes.
    unit = 1024
    if sys.platform == "darwin":
        unit = 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MB
