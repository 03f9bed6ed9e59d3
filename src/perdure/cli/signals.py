"""Signals that ask a node to stop: the first one in order, a second one at once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from time import monotonic
from types import FrameType

TWICE_S = 0.2
"""Signals within so short a time are one request.

A terminal sends Ctrl-C to a program and to the one that has started it, which often passes it on.
"""


@contextmanager
def first_sets(stop: asyncio.Event) -> Generator[None]:
    """Set `stop` at the first signal, and end the process at the second."""
    loop = asyncio.get_running_loop()
    # Whether a signal came, and not whether `stop` is set: an orchestrator may have asked for the
    # drain before it sends its one signal.
    first_s: float | None = None

    def received(number: int, _frame: FrameType | None) -> None:
        nonlocal first_s
        if first_s is None:
            first_s = monotonic()
            loop.call_soon_threadsafe(stop.set)
        elif monotonic() - first_s > TWICE_S:
            # Not by an exception: the code that hangs could catch it.
            os._exit(128 + number)

    # Not by handlers of the event loop, which would wait for a turn of it. Code that blocks the
    # loop is the most likely reason for a second signal.
    before = {number: signal.signal(number, received) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        # Behind a signal the process is about to end, and a second one still ends it at once.
        if first_s is None:
            for number, handler in before.items():
                signal.signal(number, handler)
