"""The pulse of a node: its rates and latencies at this moment.

People see them live on a terminal, and programs read them line by line.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from perdure.activity import ActivityInfo
from perdure.cli import screen
from perdure.cli.listings import COLOURS
from perdure.errors import StoreUnavailable
from perdure.interceptor import Interceptor, NextActivity
from perdure.node import Node
from perdure.ports.store import Counts

if TYPE_CHECKING:
    from rich.console import RenderableType

_WINDOWS = 10
"""Number of readings whose attempts the latencies cover."""

_STEPS = 4
"""Buckets per power of two: a latency is known to within a tenth."""

_COUNTING_SHARE = 0.05
"""Share of the time for counting the rows of the store. A huge store is counted less often."""


class Latencies(Interceptor):
    """Durations of attempts of activities.

    They are counted in buckets, so that a million attempts need no more memory than ten.
    """

    def __init__(self, timer: Callable[[], float] = time.perf_counter) -> None:
        """Begin without measurements. `timer` returns seconds."""
        self._timer = timer
        self._windows: deque[dict[int, int]] = deque([{}], maxlen=_WINDOWS)

    async def activity(self, call: ActivityInfo, next: NextActivity) -> object:
        """Measure one attempt."""
        began = self._timer()
        try:
            return await next()
        finally:
            self.add(self._timer() - began)

    def add(self, seconds: float) -> None:
        """Count one."""
        # A logarithm of 0 does not exist. No attempt is shorter than a microsecond.
        bucket = math.ceil(math.log2(max(seconds, 1e-6)) * _STEPS)
        window = self._windows[-1]
        window[bucket] = window.get(bucket, 0) + 1

    def begin_window(self) -> None:
        """Begin the next window. The oldest one is forgotten."""
        self._windows.append({})

    def percentile_ms(self, share: float) -> float | None:
        """The time in ms that this share of the attempts did not exceed. None without attempts."""
        counts: dict[int, int] = {}
        for window in self._windows:
            for bucket, count in window.items():
                counts[bucket] = counts.get(bucket, 0) + count
        left = math.ceil(share * sum(counts.values()))
        for bucket in sorted(counts):
            left -= counts[bucket]
            if left <= 0:
                # The middle of the bucket, with no more digits than the bucket knows.
                return float(f"{2 ** ((bucket - 0.5) / _STEPS) * 1000:.2g}")
        return None


@dataclass(frozen=True, slots=True)
class Reading:
    """The figures of a node at one moment. Rates are those since the reading before."""

    instances: dict[str, int]
    inbox: int
    turns_per_s: float
    activities_per_s: float
    residents: int
    running: int
    waiting: int
    p50_ms: float | None
    p95_ms: float | None


class Pulse:
    """Takes readings of a node."""

    def __init__(
        self, node: Node, latencies: Latencies, timer: Callable[[], float] = time.monotonic
    ) -> None:
        """`timer` returns seconds."""
        self._node = node
        self._latencies = latencies
        self._timer = timer
        self._before = node.metrics
        self._before_s = timer()
        self._counts: dict[str, int] = {}
        self._count_again_s = self._before_s

    async def read(self) -> Reading:
        """Take a reading."""
        await self._count()
        now = self._node.metrics
        now_s = self._timer()
        before = self._before
        elapsed_s = max(now_s - self._before_s, 1e-3)
        self._before = now
        self._before_s = now_s
        p50_ms = self._latencies.percentile_ms(0.5)
        p95_ms = self._latencies.percentile_ms(0.95)
        self._latencies.begin_window()
        return Reading(
            {status: self._counts.get(status, 0) for status in COLOURS},
            self._counts.get("inbox", 0),
            round((now.turns - before.turns) / elapsed_s, 1),
            round((now.attempts - before.attempts) / elapsed_s, 1),
            now.residents,
            now.running,
            now.waiting,
            p50_ms,
            p95_ms,
        )

    async def _count(self) -> None:
        """Count the rows of the store, unless that would take too large a share of the time."""
        began_s = self._timer()
        if began_s < self._count_again_s:
            return
        try:
            page = await self._node.store.query(Counts(at=self._node.clock.now_ms()))
        except StoreUnavailable:
            # The last numbers stay. If the store is gone for good, the node says so.
            return
        self._counts = dict(page.items)
        ended_s = self._timer()
        self._count_again_s = ended_s + (ended_s - began_s) / _COUNTING_SHARE


async def show(node: Node, latencies: Latencies, every_s: float, *, as_json: bool) -> None:
    """Show readings on stdout until cancelled: live on a terminal, otherwise one line each."""
    from rich.live import Live

    pulse = Pulse(node, latencies)
    console = screen.answers()
    if as_json or not console.is_terminal:
        while True:
            await asyncio.sleep(every_s)
            reading = await pulse.read()
            if as_json:
                screen.say(screen.json_text(asdict(reading), indent=0))
            else:
                screen.say(line(reading))
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            live.update(table(node.name, await pulse.read()), refresh=True)
            await asyncio.sleep(every_s)


def line(reading: Reading) -> str:
    """A reading as one line."""
    there = [f"{count} {status}" for status, count in reading.instances.items() if count]
    return (
        f"{', '.join(there) or 'no instances'}; {reading.turns_per_s:g} turns/s, "
        f"{reading.activities_per_s:g} activities/s; "
        f"inbox {reading.inbox}, in memory {reading.residents}, "
        f"running {reading.running}, waiting {reading.waiting}; "
        f"p50 {_ms(reading.p50_ms)}, p95 {_ms(reading.p95_ms)}"
    )


def table(node: str, reading: Reading) -> RenderableType:
    """A reading as a small table."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(
        title=Text(node, style="bold"),
        title_justify="left",
        box=None,
        pad_edge=False,
        show_header=False,
    )
    for justify in ("left", "right", "left", "right"):
        grid.add_column(justify=justify, no_wrap=True)
    activity = [
        ("turns/s", f"{reading.turns_per_s:g}"),
        ("activities/s", f"{reading.activities_per_s:g}"),
        ("activities running", str(reading.running)),
        ("waiting for a slot", str(reading.waiting)),
        ("latency p50", _ms(reading.p50_ms)),
        ("latency p95", _ms(reading.p95_ms)),
        ("messages in inboxes", str(reading.inbox)),
        ("instances in memory", str(reading.residents)),
    ]
    statuses = list(reading.instances.items())
    for row, (name, value) in enumerate(activity):
        shown, count = Text(""), ""
        if row < len(statuses):
            status, number = statuses[row]
            # A status that no instance has is grey, so that the others stand out.
            style = "bright_black"
            if number:
                style = COLOURS.get(status, "")
            shown, count = Text(status, style=style), str(number)
        grid.add_row(shown, count, Text(f"   {name}", style="bright_black"), value)
    return grid


def _ms(value: float | None) -> str:
    if value is not None:
        return f"{value:g} ms"
    return "-"
