"""Time and chance, the same in every replay."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID

from perdure.kernel.data import events as ev
from perdure.kernel.data.definition import check_label
from perdure.kernel.data.retry import Seconds, to_ms
from perdure.kernel.loop.loop import Timer
from perdure.workflow.caller import caller as _run

# Names of streams. A new name gives other numbers, so runs that are open would part from replay.
_NUMBERS = b""
_IDS = b"uuid4"


def now() -> datetime:
    """The present time (UTC) as the journal has it. It is the same in every replay."""
    return datetime.fromtimestamp(_run("now()").loop.now_ms / 1000, UTC)


def random() -> Random:
    """The run's own random numbers. They are the same in every replay.

    All calls share one stream. So another draw moves those that follow it, but no `uuid4()`.
    """
    return _run("random()").stream(_NUMBERS)


def uuid4() -> UUID:
    """A random UUID. It is the same in every replay, however many numbers `random()` has drawn."""
    run = _run("uuid4()")
    stream = _NUMBERS
    # An older release began the others, and replay must give the same ids.
    if run.started.flags & ev.IDS_APART:
        stream = _IDS
    return UUID(int=run.stream(stream).getrandbits(128), version=4)


async def sleep(delay: Seconds, *, name: str | None = None) -> None:
    """Sleep durably. `asyncio.sleep` does too, but has no name for listings and timelines.

    A sleep until a time that has passed (a negative delay) returns at once, as with `asyncio`.
    """
    loop = _run("sleep()").loop
    delay_ms = 0
    if not _is_past(delay):
        delay_ms = to_ms(delay, "the delay of workflow.sleep()")
    if name is not None:
        check_label(name, "a timer")
    if delay_ms == 0:
        # Other tasks get their turn, as with asyncio, and nothing is written.
        await asyncio.sleep(0)
        return
    future = loop.create_future()
    timer = loop.call_at(loop.time() + delay_ms / 1000, _wake, future, name=name)
    try:
        await future
    finally:
        # A cancelled sleep leaves no deadline behind, which the node would otherwise wake for.
        if isinstance(timer, Timer):
            timer.cancel()


def _is_past(delay: object) -> bool:
    # Other types than these are left to `to_ms`, which refuses them.
    if isinstance(delay, timedelta):
        return delay < timedelta(0)
    return isinstance(delay, (int, float)) and delay < 0


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():  # it may have been cancelled in the same moment
        future.set_result(None)
