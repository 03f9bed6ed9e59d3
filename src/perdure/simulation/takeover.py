"""Time and chance of this process, taken over: a seed gives the same run, byte for byte.

Code that reads a clock of the process sees virtual time, in which a stretch of code takes no time
at all. So a slow machine changes nothing. Ids come from the seed.
"""

from __future__ import annotations

import os
import random
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import ModuleType

    from perdure.testing.virtual_time import VirtualTime

# These are about real time: code that does not end, and work that no virtual time can measure.
_REAL = ("perdure.guard.watchdog", "perdure.testing.virtual_time")


@contextmanager
def taken_over(virtual: VirtualTime, ids: random.Random) -> Generator[None]:
    """Replace the clocks, and the source of ids, in all modules that have them."""

    def clock_gettime_ns(which: int) -> int:
        if which == time.CLOCK_REALTIME:
            return virtual.wall_ns()
        return virtual.boot_ns()

    replaced: dict[str, Callable[..., float]] = {
        "time": lambda: virtual.wall_ns() / 1e9,
        "time_ns": virtual.wall_ns,
        "monotonic": lambda: virtual.passed_s,
        "monotonic_ns": virtual.boot_ns,
        "perf_counter": lambda: virtual.passed_s,
        "clock_gettime_ns": clock_gettime_ns,
    }
    places: list[tuple[ModuleType, str, object, object]] = [
        (os, "urandom", os.urandom, ids.randbytes)
    ]
    # A module that has imported a function by its name keeps a reference of its own.
    modules = [m for name, m in sys.modules.items() if _is_ours(name)]

    def seeded(seed: float | str | bytes | None = None) -> random.Random:
        if seed is None:
            seed = ids.random()
        return random.Random(seed)

    # One without a seed would take it from the system, past `os.urandom`.
    chance = random.Random
    places += [(m, "Random", chance, seeded) for m in modules if vars(m).get("Random") is chance]
    for name, virtually in replaced.items():
        original = getattr(time, name)
        places += [
            (module, name, original, virtually)
            for module in (time, *modules)
            if getattr(module, name, None) is original
        ]
    for module, name, _, instead in places:
        setattr(module, name, instead)
    try:
        yield
    finally:
        for module, name, original, _ in places:
            setattr(module, name, original)


def _is_ours(name: str) -> bool:
    return name.startswith("perdure.") and name not in _REAL
