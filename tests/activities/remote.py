"""Activities that ask about themselves in a process of the pool, beside the same on a thread."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

from perdure import ActivityError, App, RetryPolicy, activity

app = App("remote")
twice = RetryPolicy(2, initial_interval=0.01)


@app.resources
async def pool() -> AsyncIterator[str]:
    yield "a pool"


def _describe() -> list[Any]:
    info = activity.info()
    if info.attempt == 1:
        activity.heartbeat({"row": 7})
        raise ValueError("once more")
    parts: list[Any] = [getattr(info, name) for name in PARTS]
    return [*parts, info.last_heartbeat(dict[str, int])]


PARTS = (
    "instance",
    "execution",
    "workflow",
    "workflow_version",
    "attempt",
    "queue",
)


@app.activity(executor="process", retry=twice, queue="q")
def describe_in_process() -> list[Any]:
    return [*_describe(), activity.info().idempotency_key.rsplit(".", 1)[0]]


@app.activity(retry=twice, queue="q")
def describe_on_thread() -> list[Any]:
    return [*_describe(), activity.info().idempotency_key.rsplit(".", 1)[0]]


@app.workflow
async def both() -> list[Any]:
    return [await describe_in_process(), await describe_on_thread()]


@app.activity(executor="process", heartbeat_timeout=1)
def beats(count: int) -> str:
    for number in range(count):
        time.sleep(0.25)
        activity.heartbeat(number)
    return "alive"


@app.activity(executor="process", heartbeat_timeout=0.3)
def is_silent() -> None:
    time.sleep(60)


@app.activity(executor="process")
def heartbeat_of(size: int) -> None:
    activity.heartbeat(object() if size < 0 else "x" * size)


@app.activity(executor="process")
def asks_for_resources() -> None:
    activity.resources(str)


@app.activity(executor="process")
def asks_for_client() -> None:
    activity.client()


@app.activity(executor="process")
def asks_for_client_in_a_loop() -> None:
    async def ask() -> None:
        activity.client()

    asyncio.run(ask())


@app.activity(executor="process")
def logs() -> dict[str, Any]:
    records: list[logging.LogRecord] = []

    class Keeps(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler = Keeps()
    logging.getLogger("perdure.activity").addHandler(handler)
    activity.logger.warning("hello")
    logging.getLogger("perdure.activity").removeHandler(handler)
    return {name: getattr(records[0], name) for name in ("instance", "activity", "attempt")}


def _mark(file: str) -> None:
    with open(file + ".tmp", "w") as stream:
        stream.write(str(os.getpid()))
    os.rename(file + ".tmp", file)


def _polls(begun: str, told: str) -> None:
    _mark(begun)
    while not activity.is_cancelled():
        time.sleep(0.01)
    _mark(told)


@app.activity(executor="process")
def polls(begun: str, told: str) -> None:
    _polls(begun, told)


@app.activity(executor="process", timeout=0.3)
def polls_until_its_timeout(begun: str, told: str) -> None:
    _polls(begun, told)


@app.activity(executor="process")
def awaits(begun: str, told: str) -> None:
    async def wait() -> None:
        _mark(begun)
        await activity.cancelled()

    asyncio.run(wait())
    _mark(told)


@app.activity(executor="process")
def never_asks(begun: str, told: str) -> None:
    """It ends when it is told to by the file."""
    _mark(begun)
    while not os.path.exists(told):
        time.sleep(0.01)


@app.activity(executor="process")
def is_not_cancelled() -> list[Any]:
    time.sleep(0.05)
    return [activity.is_cancelled(), os.getpid()]


left: list[list[bool]] = []


@app.activity(executor="process")
def leaves_a_thread() -> int:
    """A thread that has the attempt's context, and goes on when the attempt has ended."""

    def goes_on() -> None:
        for _ in range(100):
            seen.append(activity.is_cancelled())
            activity.heartbeat("late")
            time.sleep(0.001)

    seen: list[bool] = []
    left.append(seen)
    context = contextvars.copy_context()
    threading.Thread(target=lambda: context.run(goes_on)).start()
    return os.getpid()


@app.activity(executor="process")
def what_was_left() -> list[Any]:
    while len(left[0]) < 100:
        time.sleep(0.01)
    return [left[0][0], left[0][-1], os.getpid()]


@app.workflow
async def with_a_thread() -> list[Any]:
    return [await leaves_a_thread(), *await what_was_left()]


CALLS: dict[str, Any] = {
    each.name: each
    for each in (
        beats,
        is_silent,
        heartbeat_of,
        asks_for_resources,
        asks_for_client,
        asks_for_client_in_a_loop,
        logs,
        polls,
        polls_until_its_timeout,
        awaits,
        never_asks,
        is_not_cancelled,
    )
}


@app.workflow
async def call(name: str, args: list[Any]) -> Any:
    try:
        return await CALLS[name](*args)
    except ActivityError as error:
        return f"{error.failure.type}: {error.failure.message}"
