"""The app of these tests, and programs that test_sync_processes.py runs: `python blocking_shop.py PROGRAM URL`."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from perdure import App, Client, Timeout, workflow
from perdure.errors import UsageError

app = App("blocking")
answer = workflow.Channel[str]("answer")


def tell(*what: object) -> None:
    sys.stdout.write(" ".join(map(str, what)) + "\n")
    sys.stdout.flush()


@app.activity
async def double(n: int) -> int:
    return 2 * n


@app.activity
def slowly(n: int) -> int:
    return n


@app.workflow
async def add(n: int, m: int = 1) -> int:
    return await double(n) + await slowly(m)


@app.workflow
async def ask(who: str) -> str:
    workflow.set_status({"asked": who})
    workflow.kv.set("who", who)
    return f"{who}: {await answer.receive()}"


@app.workflow
async def fail() -> None:
    raise ValueError("as planned")


def interrupted(url: str) -> None:
    """Ctrl-C while a call waits: it ends at once, and the node is as good as before."""
    with app.node(url).sync() as node:
        handle = node.client.workflow(ask, id="ask-1")
        handle.start("Ada")
        for _ in range(2):
            try:
                tell("waiting")
                handle.result()
            except KeyboardInterrupt:
                tell("interrupted")
        handle.send(answer, "yes")
        tell(handle.result(timeout=30))


def not_caught(url: str) -> None:
    """Ctrl-C that nobody catches: the node is stopped in order."""
    with app.node(url).sync() as node:
        node.client.workflow(ask, id="ask-1").start("Ada")
        tell("waiting")
        node.client.get("ask-1").result()


def left_open(url: str) -> None:
    """Nobody closes the node: it is stopped when the main thread has ended."""
    node = app.node(url).sync()
    node.start()
    tell(node.client.workflow(add, id="add-1").run(3))


def left_open_by_an_error(url: str) -> None:
    """The same, when the main thread ends with an error."""
    left_open(url)
    raise LookupError("nobody catches it")


def forked(url: str) -> None:
    """A process that was forked from the one that opened it: refused, and the parent's node is left alone."""
    with app.node(url).sync() as node:
        child = os.fork()
        if child == 0:
            try:
                node.client.counts()
            except UsageError as error:
                tell(error)
                node.stop()
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        tell(node.client.workflow(add, id="add-1").run(3))


def closed_twice(url: str) -> None:
    """Ctrl-C while the node stops is passed on when it has stopped."""
    node = app.node(url).sync()
    node.start()
    stopped: list[bool] = []
    inner = node._node.stop  # pyright: ignore[reportPrivateUsage]

    async def interrupted_stop(grace: float | None = None) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await inner(grace)
        stopped.append(True)

    node._node.stop = interrupted_stop  # type: ignore[method-assign]
    try:
        node.stop()
    except KeyboardInterrupt:
        tell("stopped:", stopped, threading.active_count())


def client_alone(url: str) -> None:
    """A client without a node: it posts, and waits in vain."""
    with Client.open(url).sync() as client:
        client.workflow("add", id="add-1").start(3, 4)
        started = time.monotonic()
        try:
            client.get("add-1").result(timeout=0.05)
        except Timeout as error:
            tell(error, time.monotonic() - started < 5)


PROGRAMS: dict[str, Callable[[str], None]] = {
    program.__name__: program
    for program in (
        interrupted,
        not_caught,
        left_open,
        left_open_by_an_error,
        forked,
        closed_twice,
        client_alone,
    )
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](sys.argv[2])
