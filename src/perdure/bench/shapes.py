"""The shapes of load of `perdure bench` and of the stress tests, and the app with their workflows.

A shape is the work of one instance, the number of instances at once, and the right result. The
first two are those of duroxide's stress tests. The other two are the smallest requests to a store.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from perdure.app import App
from perdure.bench.gauges import Latencies
from perdure.errors import UsageError
from perdure.workflow import Workflow

KB = 1024

app = App("bench")


class Laps:
    """The time between one activity of a chain and the next: the latency of one durable step."""

    def __init__(self) -> None:
        """Nothing is measured yet."""
        self.latencies = Latencies()
        self._last: dict[int, float] = {}

    def note(self, chain: int, *, last: bool) -> None:
        """An activity of this chain begins."""
        now = time.perf_counter()
        before = self._last.pop(chain, None)
        if before is not None:
            self.latencies.add(1000 * (now - before))
        if not last:
            self._last[chain] = now


laps: ContextVar[Laps | None] = ContextVar("laps", default=None)
"""The laps of a node's activities. A node has the context of the moment at which it was made."""

# ---------------------------------------------------------------- workflows and activities


@app.activity
async def nap(delay_ms: float) -> float:
    """Take some time."""
    await asyncio.sleep(delay_ms / 1000)
    return delay_ms


@app.activity
async def make(size: int) -> str:
    """A result of so many bytes."""
    return "x" * size


@app.activity
async def small(number: int) -> int:
    """A result of a few bytes."""
    return number


@app.activity
async def tick(chain: int, left: int) -> int:
    """One step of a chain."""
    measured = laps.get()
    if measured is not None:
        measured.note(chain, last=left == 1)
    return left


@app.workflow
async def parallel(activities: int, delay_ms: float) -> float:
    """Activities side by side, joined."""
    return sum(await asyncio.gather(*(nap(delay_ms) for _ in range(activities))))


@app.workflow
async def child(number: int) -> int:
    """A child of `payload`."""
    return await small(number)


@app.workflow
async def payload(sizes: list[int], children: int, activities: int, output: int) -> str:
    """Large results one after the other, children joined, small results, a large output."""
    received = 0
    for size in sizes:
        received += len(await make(size))
    joined = await asyncio.gather(*(child(number) for number in range(children)))
    for number in range(activities):
        received += await small(number)
    return f"{received} {sum(joined)} ".ljust(output, "x")


@app.workflow
async def steps(chain: int, count: int) -> int:
    """One activity after the other."""
    done = 0
    for left in range(count, 0, -1):
        await tick(chain, left)
        done += 1
    return done


@app.workflow
async def start(number: int) -> int:
    """The shortest workflow there is."""
    return number


# ---------------------------------------------------------------- shapes


class Call(NamedTuple):
    """One instance: its workflow, the arguments, and the only right result."""

    workflow: Workflow[..., Any]
    arguments: tuple[object, ...]
    expected: object


class Shape(Protocol):
    """A load: instances that are started again and again until the time is up."""

    @property
    def outstanding(self) -> int:
        """Instances at once."""
        ...

    @property
    def per_instance(self) -> int:
        """Activities of one instance, its children included."""
        ...

    def call(self, number: int) -> Call:
        """The instance with this number."""
        ...


def _check(shape: Shape, least: Mapping[str, float]) -> None:
    for name, limit in least.items():
        value = getattr(shape, name)
        if value < limit:
            msg = f"{name} of {type(shape).__name__.lower()} must be at least {limit}, got {value}"
            raise UsageError(msg)


@dataclass(frozen=True)
class Parallel:
    """Instances that fan out into activities that take a while, and join them."""

    outstanding: int = 20
    activities: int = 5
    delay_ms: float = 10

    def __post_init__(self) -> None:
        """Refuse numbers that are too small."""
        _check(self, {"outstanding": 1, "activities": 1, "delay_ms": 0})

    @property
    def per_instance(self) -> int:
        """Activities of one instance."""
        return self.activities

    def call(self, number: int) -> Call:
        """The instance with this number."""
        return Call(parallel, (self.activities, self.delay_ms), self.activities * self.delay_ms)


@dataclass(frozen=True)
class Payload:
    """Instances with large results.

    First come those of `results` in sequence, each (times, KB), then children, then small results.
    """

    outstanding: int = 5
    results: tuple[tuple[int, int], ...] = ((6, 10), (6, 50), (8, 100))
    children: int = 5
    activities: int = 10
    output_kb: int = 100

    def __post_init__(self) -> None:
        """Refuse numbers that are too small."""
        _check(self, {"outstanding": 1, "children": 0, "activities": 0, "output_kb": 1})

    @property
    def per_instance(self) -> int:
        """Activities of one instance. Each child has one."""
        return sum(times for times, _ in self.results) + self.children + self.activities

    def call(self, number: int) -> Call:
        """The instance with this number."""
        sizes = [kb * KB for times, kb in self.results for _ in range(times)]
        received = sum(sizes) + sum(range(self.activities))
        expected = f"{received} {sum(range(self.children))} ".ljust(self.output_kb * KB, "x")
        return Call(payload, (sizes, self.children, self.activities, self.output_kb * KB), expected)


@dataclass(frozen=True)
class Steps:
    """Chains of small activities, which show the cost of one durable step."""

    outstanding: int = 1
    activities: int = 100

    def __post_init__(self) -> None:
        """Refuse numbers that are too small."""
        # The time of one step is measured between two activities.
        _check(self, {"outstanding": 1, "activities": 2})

    @property
    def per_instance(self) -> int:
        """Activities of one instance."""
        return self.activities

    def call(self, number: int) -> Call:
        """The instance with this number."""
        return Call(steps, (number, self.activities), self.activities)


@dataclass(frozen=True)
class Starts:
    """Workflows without any activity, which show the cost of a start and an end."""

    outstanding: int = 100

    def __post_init__(self) -> None:
        """Refuse numbers that are too small."""
        _check(self, {"outstanding": 1})

    @property
    def per_instance(self) -> int:
        """It has no activity."""
        return 0

    def call(self, number: int) -> Call:
        """The instance with this number."""
        return Call(start, (number,), number)


SHAPES: dict[str, type[Parallel | Payload | Steps | Starts]] = {
    "parallel": Parallel,
    "payload": Payload,
    "steps": Steps,
    "starts": Starts,
}
