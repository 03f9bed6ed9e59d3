"""Functions that end in every way: as activities on the loop, on a thread and in a process, and as checkpoints."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from perdure import ActivityError, App, ApplicationError, RetryPolicy, activity, workflow

LIMIT = 100_000
"""`Limits.payload_bytes` of the nodes that run this app."""


class Panic(BaseException):
    """As extensions raise it."""


class Mute(Exception):
    def __str__(self) -> str:
        raise SystemExit("no words")


class Picky(Exception):
    """One that cannot be pickled: it is made of two arguments, and has one."""

    def __init__(self, status: int, where: str) -> None:
        super().__init__(f"{status} at {where}")


class Forgetful(ApplicationError):
    """It does not call the `__init__` of its base."""

    def __init__(self, code: int) -> None:
        self.code = code


class ForgetfulDelay(activity.RetryAfter):
    """It does not call the `__init__` of its base."""

    def __init__(self) -> None:
        pass


class Indescribable(ApplicationError):
    """It fails when it is asked."""

    @property
    def retryable(self) -> bool:  # type: ignore[override]
        raise OSError("not to be had")

    @retryable.setter
    def retryable(self, value: bool) -> None:
        pass


def returns() -> Any:
    return "fine"


def raises() -> Any:
    raise ValueError("no")


def exits() -> Any:
    sys.exit(3)


def closes() -> Any:
    raise GeneratorExit


def interrupts() -> Any:
    raise KeyboardInterrupt


def stops_iteration() -> Any:
    raise StopIteration


def panics() -> Any:
    raise Panic("index out of bounds")


def is_mute() -> Any:
    raise Mute


def is_picky() -> Any:
    raise Picky(503, "here")


def is_forgetful() -> Any:
    raise Forgetful(51)


def is_forgetful_of_delay() -> Any:
    raise ForgetfulDelay


def is_of_an_odd_type() -> Any:
    raise ApplicationError("odd", type=404)  # type: ignore[arg-type]


def is_indescribable() -> Any:
    raise Indescribable("no")


def cancels() -> Any:
    raise asyncio.CancelledError


def cancelled_future() -> Any:
    future = Future[str]()
    future.cancel()
    return future.result()


def no_data() -> Any:
    return object()


def too_large() -> Any:
    return "x" * 2 * LIMIT


def large_details() -> Any:
    raise ApplicationError("boo", type="Declined", retryable=False, details="x" * 2 * LIMIT)


def forgets_await() -> Any:
    return asyncio.sleep(0)


WAYS: dict[str, tuple[Callable[[], Any], str, str, bool]] = {
    # how it ends: the function, type and text of the failure, whether an attempt follows
    "exception": (raises, "ValueError", "no", True),
    "exit": (exits, "SystemExit", "3", True),
    "GeneratorExit": (closes, "GeneratorExit", "", True),
    "StopIteration": (stops_iteration, "RuntimeError", "StopIteration", True),
    "BaseException": (panics, "Panic", "index out of bounds", True),
    "no words": (is_mute, "Mute", "its text cannot be had", True),
    "no pickle": (is_picky, "Picky", "503 at here", True),
    "no base": (is_forgetful, "Forgetful", "51", True),
    "no base, no delay": (is_forgetful_of_delay, "ForgetfulDelay", "", True),
    "odd type": (is_of_an_odd_type, "404", "odd", True),
    "indescribable": (
        is_indescribable,
        "Indescribable",
        "it cannot be described: OSError: not to be had",
        True,
    ),
    "own cancel": (cancels, "CancelledError", "", True),
    "cancelled future": (cancelled_future, "CancelledError", "", True),
    "no data": (no_data, "EncodeError", "object is not data", False),
    "too large": (
        too_large,
        "PayloadTooLarge",
        f"has {2 * LIMIT + 6} bytes; the limit is {LIMIT} (Limits.pay",
        False,
    ),
    "large details": (
        large_details,
        "Declined",
        f"they have {2 * LIMIT + 6} bytes, and the limit is {LIMIT}",
        False,
    ),
    "forgotten await": (
        forgets_await,
        "EncodeError",
        "returned a coroutine, which nobody awaited",
        False,
    ),
}

app = App("ways")
policy = RetryPolicy(maximum_attempts=2, initial_interval=0.001)


@app.activity(retry=policy)
async def on_loop(way: str) -> Any:
    return WAYS[way][0]()


@app.activity(retry=policy)
def on_thread(way: str) -> Any:
    return interrupts() if way == "interrupt" else WAYS[way][0]()


@app.activity(executor="process", retry=policy)
def in_process(way: str) -> Any:
    if way == "retry after":
        raise activity.RetryAfter(3_600)
    return interrupts() if way == "interrupt" else WAYS[way][0]()


KINDS = {"loop": on_loop, "thread": on_thread, "process": in_process}


@app.workflow
async def call(kind: str, way: str, timeout: float | None = None) -> list[Any]:
    called = KINDS[kind] if timeout is None else KINDS[kind].with_options(timeout=timeout)
    try:
        return ["result", await called(way)]
    except ActivityError as error:
        return [error.failure.type, error.failure.message, "after 2 attempts" in str(error)]


@app.workflow
async def step(kind: str, way: str) -> list[Any]:
    async def coroutine() -> Any:
        return WAYS[way][0]()

    try:
        return [
            "result",
            await workflow.checkpoint("c", WAYS[way][0] if kind == "def" else coroutine),
        ]
    except ApplicationError as error:
        return [error.type, str(error)]


@app.workflow(guard="off")
async def ends(way: str) -> Any:
    """The way of the workflow itself."""
    return WAYS[way][0]()


# ---------------------------------------------------------------- processes that die, or do not end


@app.activity(executor="process", timeout=60)
def dies(folder: str, times: int) -> str:
    """End the process in the first attempts; each leaves a mark."""
    marks = len(os.listdir(folder))
    with open(os.path.join(folder, str(marks)), "w"):
        pass
    if marks < times:
        os._exit(9)
    return "alive"


@app.activity(executor="process", timeout=60)
def signals_itself(number: int) -> None:
    """End the process by a signal."""
    os.kill(os.getpid(), number)
    time.sleep(60)


@app.activity(executor="process")
def waits(file: str, mark: str) -> int:
    """Wait until the file is there. The mark says that it has begun, and in which process."""
    with open(mark + ".tmp", "w") as stream:
        stream.write(str(os.getpid()))
    os.rename(mark + ".tmp", mark)
    while not os.path.exists(file):
        time.sleep(0.01)
    return os.getpid()


@app.workflow
async def neighbours(folder: str, times: int, file: str, mark: str) -> list[Any]:
    return await asyncio.gather(dies(folder, times), waits(file, mark), return_exceptions=True)


@app.workflow
async def dying(folder: str, times: int) -> list[str]:
    try:
        return ["result", await dies(folder, times)]
    except ActivityError as error:
        return [error.failure.type, error.failure.category, error.failure.message]


@app.workflow
async def signalled(number: int) -> list[str]:
    try:
        await signals_itself(number)
    except ActivityError as error:
        return [error.failure.type, error.failure.message]
    return []


@app.workflow
async def waiting(file: str, mark: str) -> int:
    return await waits(file, mark)
