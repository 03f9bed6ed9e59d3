"""How long the event loop of this thread was blocked, by what it did itself and by the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import time
from types import TracebackType
from typing import Any, Self

_EVERY_S = 0.002


class Gaps:
    """`async with Gaps() as gaps:` a task that wants to run every 2 ms, and notes what kept it from that.

    Other programs of the machine do so, too. Hence three figures, each the most in one gap: the time by the wall, the
    processor time of this thread without the collector, and the processor time of the collector.
    """

    def __init__(self) -> None:
        self.wall_ms = self.work_ms = self.collector_ms = 0.0
        self._collecting_s = 0.0
        self._began_s = 0.0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        gc.callbacks.append(self._collect)
        self._task = asyncio.create_task(self._watch())
        await asyncio.sleep(0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._task is not None
        await asyncio.sleep(2 * _EVERY_S)  # a gap that has just ended is seen, too
        self._task.cancel()
        gc.callbacks.remove(self._collect)

    def _collect(self, phase: str, _info: dict[str, Any]) -> None:
        if phase == "start":
            self._began_s = time.thread_time()
        else:
            self._collecting_s += time.thread_time() - self._began_s

    async def _watch(self) -> None:
        while True:
            wall_s, work_s, collecting_s = (
                time.perf_counter(),
                time.thread_time(),
                self._collecting_s,
            )
            await asyncio.sleep(_EVERY_S)
            wall_ms = 1_000 * (time.perf_counter() - wall_s - _EVERY_S)
            collector_ms = 1_000 * (self._collecting_s - collecting_s)
            work_ms = 1_000 * (time.thread_time() - work_s) - collector_ms
            self.wall_ms = max(self.wall_ms, wall_ms)
            self.work_ms = max(self.work_ms, work_ms)
            self.collector_ms = max(self.collector_ms, collector_ms)

    def figures(self) -> dict[str, float]:
        return {
            "longest gap ms": self.wall_ms,
            "work ms": self.work_ms,
            "collector ms": self.collector_ms,
        }
