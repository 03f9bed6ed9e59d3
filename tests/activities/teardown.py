"""A program whose event loop is torn down around its node, in one of many forms, while functions of every kind run.

`python teardown.py FORM URL` lives until the functions have begun, and ends in that form.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import NoReturn

import anyio

from perdure import App, Node, NodeOptions, RetryPolicy, activity, workflow

app = App("teardown")
retried = RetryPolicy(maximum_attempts=5, initial_interval=0.01)

PROGRAM = "PERDURE_TEARDOWN"
"""Set in the process that is torn down. Elsewhere the functions return at once."""

begun: list[str] = []
loops: list[asyncio.AbstractEventLoop] = []


async def lasts(name: str) -> str:
    """Last until the loop ends."""
    if PROGRAM in os.environ:
        begun.append(name)
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(3600)
    return "done"


def attempt() -> str:
    return f"done in attempt {activity.info().attempt}"


@app.activity(retry=retried)
async def plain() -> str:
    await lasts("plain")
    return attempt()


@app.activity
async def tried_once() -> str:
    await lasts("tried_once")
    return attempt()


@app.activity(retry=retried, timeout=600, heartbeat_timeout=600)
async def limited() -> str:
    await lasts("limited")
    return attempt()


@app.activity
async def inner_tasks() -> str:
    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(asyncio.sleep(0))
        group.create_task(lasts("inner_tasks"))
    return attempt()


@app.activity
async def gathers() -> str:
    await asyncio.gather(*(lasts("gathers") for _ in range(5)))
    return attempt()


@app.activity
async def another_error() -> str:
    """As database drivers do, whose connection is lost with a cancel."""
    try:
        await lasts("another_error")
    except asyncio.CancelledError as error:
        raise ConnectionError("the connection was closed") from error
    return attempt()


@app.activity
async def fails_cleaning_up() -> str:
    try:
        await lasts("fails_cleaning_up")
    finally:
        if PROGRAM in os.environ:
            raise RuntimeError("no running event loop")
    return attempt()


@app.activity
async def slow_to_clean_up() -> str:
    try:
        await lasts("slow_to_clean_up")
    finally:
        if PROGRAM in os.environ:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.3)
    return attempt()


@app.activity
async def within_a_timeout() -> str:
    async with asyncio.timeout(600):
        await lasts("within_a_timeout")
    return attempt()


@app.activity
async def in_a_scope() -> str:
    with anyio.fail_after(600):
        await lasts("in_a_scope")
    return attempt()


@app.activity
def on_thread() -> str:
    if PROGRAM in os.environ:
        begun.append("on_thread")
        while not activity.is_cancelled():
            time.sleep(0.01)
    return attempt()


@app.activity
def waits_for_the_loop() -> str:
    """On a thread, for a coroutine on the node's loop."""
    if PROGRAM in os.environ:
        while not loops:
            time.sleep(0.01)
        return asyncio.run_coroutine_threadsafe(lasts("waits_for_the_loop"), loops[0]).result()
    return attempt()


@app.activity(executor="process")
def in_process(mark: str) -> str:
    """Without the info: processes of the pool begin anew."""
    if PROGRAM in os.environ:
        with open(mark, "w"):
            pass
        time.sleep(3600)
    return "done in attempt 1"


ACTIVITIES = (
    plain,
    tried_once,
    limited,
    inner_tasks,
    gathers,
    another_error,
    fails_cleaning_up,
    slow_to_clean_up,
    within_a_timeout,
    in_a_scope,
    on_thread,
    waits_for_the_loop,
)
BY_NAME = {each.name: each for each in ACTIVITIES}
NAMES = [*BY_NAME, "in_process", "checkpoint"]


@app.workflow
async def calls(name: str, mark: str) -> str:
    if name == "checkpoint":
        return await workflow.checkpoint("c", step)
    if name == "in_process":
        return await in_process(mark)
    return await BY_NAME[name]()


async def step() -> str:
    await lasts("checkpoint")
    return "done in attempt 1"


# ---------------------------------------------------------------- the program

all_begun: asyncio.Event | None = None


def mark_of(url: str) -> str:
    """The file that says that the function in a process has begun."""
    return url.removeprefix("sqlite:///") + ".mark"


def have_begun(url: str) -> bool:
    return {*begun, "in_process"} == set(NAMES) and os.path.exists(mark_of(url))


async def run_node(url: str, stop_ms: int = 1_000) -> None:
    """A node at work, until it is cancelled."""
    async with app.node(url, options=NodeOptions(stop_ms=stop_ms)) as node:
        await begin(url, node)
        await asyncio.sleep(3600)


async def begin(url: str, node: Node) -> None:
    for name in NAMES:
        await node.client.workflow(calls, id=name).start(name, mark_of(url))
    while not have_begun(url):
        await asyncio.sleep(0.01)
    assert all_begun is not None
    all_begun.set()


def others() -> list[asyncio.Task[object]]:
    return list(asyncio.all_tasks() - {asyncio.current_task()})  # type: ignore[arg-type]


async def wait_begun() -> None:
    assert all_begun is not None
    await all_begun.wait()


async def fails() -> NoReturn:
    await wait_begun()
    raise OSError("port in use")


async def sibling_in_gather(url: str) -> None:
    await asyncio.gather(run_node(url), fails())


async def sibling_in_task_group(url: str) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(run_node(url))
        group.create_task(fails())


async def sibling_in_anyio(url: str) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(run_node, url)
        group.start_soon(fails)


async def anyio_scope(url: str) -> None:
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(run_node, url)
            await wait_begun()
            scope.cancel()


async def timeout_around(url: str) -> None:
    node = asyncio.create_task(run_node(url))
    await wait_begun()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(node, 0.01)


async def main_returns(url: str) -> None:
    _ = asyncio.create_task(run_node(url))
    await wait_begun()


async def main_raises(url: str) -> None:
    _ = asyncio.create_task(run_node(url))
    await fails()


async def main_exits(url: str) -> None:
    _ = asyncio.create_task(run_node(url))
    await wait_begun()
    sys.exit(3)


async def a_task_exits(url: str) -> None:
    async def exits() -> None:
        await wait_begun()
        sys.exit(3)

    await asyncio.gather(run_node(url), exits())


async def ctrl_c_in_background(url: str) -> None:
    _ = asyncio.create_task(run_node(url))
    await wait_begun()
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.sleep(3600)


async def ctrl_c_in_main(url: str) -> None:
    async def presses() -> None:
        await wait_begun()
        os.kill(os.getpid(), signal.SIGINT)

    _ = asyncio.create_task(presses())
    await run_node(url)


async def ctrl_c_twice(url: str) -> None:
    async def presses() -> None:
        await wait_begun()
        os.kill(os.getpid(), signal.SIGINT)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    _ = asyncio.create_task(presses())
    await run_node(url)


async def sigterm_cancels_all(url: str) -> None:
    def cancel_all() -> None:
        for task in asyncio.all_tasks():
            task.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, cancel_all)
    _ = asyncio.create_task(run_node(url))
    await wait_begun()
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(3600)


async def sweep() -> None:
    """Cancel all other tasks, and wait until they have ended."""
    tasks = others()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def cancel_all(url: str) -> None:
    _ = asyncio.create_task(run_node(url))
    await wait_begun()
    await sweep()


async def cancel_all_and_live_on(url: str) -> None:
    """The rest of the program takes its time to end."""
    await cancel_all(url)
    await asyncio.sleep(1.5)


async def cancel_one_by_one(url: str) -> None:
    _ = asyncio.create_task(run_node(url))
    await wait_begun()
    for task in others():
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def cancel_all_and_stop_late(url: str) -> None:
    """The task that holds the node has other things to end first."""

    async def run() -> None:
        async with app.node(url) as node:
            await begin(url, node)
            try:
                await asyncio.sleep(3600)
            finally:
                await asyncio.sleep(1.5)

    _ = asyncio.create_task(run())
    await wait_begun()
    await sweep()


async def cancel_all_and_keep_the_node(url: str) -> None:
    """The task that holds the node does not heed its cancel."""

    async def run() -> None:
        async with app.node(url) as node:
            await begin(url, node)
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)
            await asyncio.sleep(1.5)

    _ = asyncio.create_task(run())
    await wait_begun()
    await sweep()


async def cancel_all_with_a_long_grace(url: str) -> None:
    """The node waits for one that cleans up, longer than for the others."""
    _ = asyncio.create_task(run_node(url, stop_ms=5_000))
    await wait_begun()
    await sweep()


def with_runner(main: Callable[[str], Awaitable[None]], url: str) -> None:
    async def whole() -> None:
        global all_begun
        all_begun = asyncio.Event()
        await main(url)

    asyncio.run(whole())


def with_anyio(url: str) -> None:
    async def whole() -> None:
        global all_begun
        all_begun = asyncio.Event()
        await sibling_in_anyio(url)

    anyio.run(whole)


def _loop_until(url: str) -> tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]:
    """A loop of one's own, in the older style, until the work has begun."""
    global all_begun
    own = asyncio.new_event_loop()
    asyncio.set_event_loop(own)
    all_begun = asyncio.Event()
    node = own.create_task(run_node(url))
    own.run_until_complete(all_begun.wait())
    return own, node


def own_loop(url: str) -> None:
    own, _ = _loop_until(url)
    tasks = asyncio.all_tasks(own)
    for task in tasks:
        task.cancel()
    own.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    own.close()


def loop_closed_at_once(url: str) -> None:
    own, _ = _loop_until(url)
    own.close()


def loop_stopped_and_left(url: str) -> None:
    own, _ = _loop_until(url)
    own.call_later(0.05, own.stop)
    own.run_forever()


def loop_on_a_thread(url: str) -> None:
    """The thread is a daemon, and the program ends without it."""
    ready = threading.Event()

    def serve() -> None:
        own, _ = _loop_until(url)
        ready.set()
        own.run_forever()

    threading.Thread(target=serve, daemon=True).start()
    ready.wait()


def blocking_node(url: str) -> None:
    """The program fails in the block of a node for blocking code."""
    with app.node(url).sync() as node:
        for name in NAMES:
            node.client.workflow(calls, id=name).start(name, mark_of(url))
        while not have_begun(url):
            time.sleep(0.01)
        raise OSError("port in use")


RUN = (
    sibling_in_gather,
    sibling_in_task_group,
    sibling_in_anyio,
    anyio_scope,
    timeout_around,
    main_returns,
    main_raises,
    main_exits,
    a_task_exits,
    ctrl_c_in_background,
    ctrl_c_in_main,
    ctrl_c_twice,
    sigterm_cancels_all,
    cancel_all,
    cancel_all_and_live_on,
    cancel_one_by_one,
    cancel_all_and_stop_late,
    cancel_all_and_keep_the_node,
    cancel_all_with_a_long_grace,
)
OWN: tuple[Callable[[str], None], ...] = (
    with_anyio,
    own_loop,
    loop_closed_at_once,
    loop_stopped_and_left,
    loop_on_a_thread,
    blocking_node,
)
FORMS = [form.__name__ for form in (*RUN, *OWN)]


def main(form: str, url: str) -> None:
    os.environ[PROGRAM] = "1"
    for run in RUN:
        if run.__name__ == form:
            with_runner(run, url)
    for own in OWN:
        if own.__name__ == form:
            own(url)


if __name__ == "__main__":
    main(*sys.argv[1:])
