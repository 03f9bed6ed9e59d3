"""An event loop whose time jumps to the next timer as soon as nothing is left to do before it.

A run takes the time that its work takes, however long it sleeps, and nothing in it depends on how
busy the machine is: the same seed gives the same order of events. The clocks of the process show
the loop's time meanwhile, and the wall clock can be set forwards and back.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any, TypeVar

from perdure.ports import clock

T = TypeVar("T")

BEGIN_S = 1_700_000_000.0


PASS_S = 1e-4
"""What a pass of the loop takes: a loop that is never idle must not make time stand still."""


class _Skipping(selectors.DefaultSelector):
    """Looks at its files, and lets time pass instead of waiting for them."""

    passed_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0 if timeout is not None else None)
        self.passed_s += PASS_S
        if not ready and timeout is not None and timeout > 0:
            self.passed_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes only where the loop would wait."""

    def __init__(self) -> None:
        self._skipping = _Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.passed_s


class WallClock:
    """What the clocks of this process show while a `VirtualLoop` runs."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._ahead_s = 0.0

    def jump(self, seconds: float) -> None:
        """Somebody sets the wall clock."""
        self._ahead_s += seconds

    def wall_s(self) -> float:
        return BEGIN_S + self._ahead_s + self._loop.time()

    def steady_s(self) -> float:
        return BEGIN_S + self._loop.time()

    def clock_s(self, which: int) -> float:
        return self.wall_s() if which == time.CLOCK_REALTIME else self.steady_s()

    @contextmanager
    def shown(self) -> Generator[None]:
        """Replace the functions of `time`, also where the clock of the package imported them."""
        replaced: dict[str, Callable[..., float]] = {
            "time": self.wall_s,
            "time_ns": lambda: int(self.wall_s() * 1e9),
            "monotonic": self.steady_s,
            "monotonic_ns": lambda: int(self.steady_s() * 1e9),
            "clock_gettime": self.clock_s,
            "clock_gettime_ns": lambda which: int(self.clock_s(which) * 1e9),
        }
        places = [
            (module, name, getattr(module, name))
            for name in replaced
            for module in (time, clock)
            if getattr(module, name, None) is getattr(time, name)
        ]
        for module, name, _ in places:
            setattr(module, name, replaced[name])
        try:
            yield
        finally:
            for module, name, original in places:
                setattr(module, name, original)


def run_virtually(main: Callable[[WallClock], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine on a loop of its own; it is given the wall clock to play with."""
    loop = VirtualLoop()
    wall = WallClock(loop)
    with wall.shown(), asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main(wall))
