"""The health port of a node: whether it lives, whether it works, and a way to ask it to go.

It has a thread and an event loop of its own. So it answers at once while the node is busy, and it
can tell a busy event loop from one that stands still.

    GET  /healthz   200: the process is alive. 503: restart it
    GET  /readyz    200: the node takes work. 503: it does not now, and why
    GET  /scale     how much waits, and how busy the nodes are; /scale/QUEUE: the same for a queue
    POST /drain     202: the node takes nothing new from now on, hands over and ends
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import unquote

from perdure.errors import PerdureError, UsageError
from perdure.node.scale import QueueScale
from perdure.server.http import Answer, Listener, Request, problem
from perdure.server.question import LoopEnded, Question
from perdure.transport.address import address_of, host_and_port

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from perdure.node import Node

logger = logging.getLogger("perdure.server")

_PACKAGE = str(Path(__file__).parent.parent)

_PING_S = 0.5
"""How long a probe waits for the event loop. Kubernetes gives a probe 1 s by default."""

_READY_S = 0.8
"""The same for a question to the node."""

_SCALE_S = 5.0
"""The same for the scale signal, which is read from the store."""

_MARGIN_S = 0.5
"""So much longer than the longest turn may the event loop be busy before it counts as hung."""


class HealthPort:
    """Answers for a node. `async with HealthPort(node, "0.0.0.0:8080"):` around the node.

    Open it before the node starts, on the event loop on which the node runs. Then orchestrators see
    the start as well, which may take long for a standby.

    `drain` is called for `POST /drain`, on the node's event loop. It begins the end of the process
    and returns. By default the node is stopped, and what becomes of the process is the program's
    affair.

    The port asks nobody who he is. Bind it to an address that only your orchestrator reaches.
    """

    def __init__(
        self, node: Node, address: str, *, drain: Callable[[], None] | None = None
    ) -> None:
        """Nothing is opened. Port 0 is any free one.

        Raises:
            UsageError: `address` is no HOST:PORT.
        """
        self._node = node
        self._host, self._port = host_and_port(address)
        if drain is None:
            drain = self._stop
        self._drain = drain
        self._draining: asyncio.Task[None] | None = None
        self._hung_s = node.options.turn_limit_ms / 1000 + _MARGIN_S
        self._is_hung = False
        self._thread_id = 0
        self._end: Callable[[], None] | None = None
        self._ended: Future[None] = Future()
        self._address = ""

    @property
    def address(self) -> str:
        """Where it listens, as HOST:PORT."""
        return self._address

    # ------------------------------------------------------------ life

    async def __aenter__(self) -> Self:
        """Listen.

        Raises:
            UsageError: the address cannot be had.
        """
        self._home = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._ended = Future()
        bound: Future[str] = Future()
        # A daemon: a client must not hold up the end of the process.
        threading.Thread(
            target=self._run, args=(bound,), name="perdure-health", daemon=True
        ).start()
        self._address = await asyncio.wrap_future(bound)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the port."""
        if self._end is not None:
            self._end()
        await asyncio.wrap_future(self._ended)

    def _run(self, bound: Future[str]) -> None:
        try:
            # With selectors on every system, because the listener needs them.
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                runner.run(self._serve(bound))
        finally:
            self._ended.set_result(None)

    async def _serve(self, bound: Future[str]) -> None:
        loop = asyncio.get_running_loop()
        end = asyncio.Event()

        def end_soon() -> None:
            loop.call_soon_threadsafe(end.set)

        self._end = end_soon
        self._ping = Question(self._home, _nothing)
        self._readiness = Question(self._home, self._why_not_ready)
        self._scales = Question(self._home, self._node.scale)
        self._drains = Question(self._home, self._begin_drain)
        listener = Listener(self._answer)
        try:
            host, port = await listener.begin(self._host, self._port)
        except OSError as error:
            where = address_of(self._host, self._port)
            msg = f"the health port cannot listen on {where}: {error.strerror}; name another one"
            bound.set_exception(UsageError(msg))
            return
        bound.set_result(address_of(host, port))
        await end.wait()
        await listener.end()

    # ------------------------------------------------------------ on the thread of the port

    async def _answer(self, request: Request) -> Answer:
        routes: dict[str, tuple[tuple[str, ...], Callable[[], Awaitable[Answer]]]] = {
            "/healthz": (("GET", "HEAD"), self._healthz),
            "/readyz": (("GET", "HEAD"), self._readyz),
            "/scale": (("GET", "HEAD"), self._scale),
            "/drain": (("POST",), self._drained),
        }
        if request.path.startswith("/scale/"):
            queue = unquote(request.path.removeprefix("/scale/"))
            routes[request.path] = (("GET", "HEAD"), partial(self._scale, queue))
        if request.path not in routes:
            there = ", ".join(routes)
            return problem(HTTPStatus.NOT_FOUND, f"there is no {request.path}; there are {there}")
        methods, answer = routes[request.path]
        if request.method not in methods:
            text = f"{request.path} takes {' and '.join(methods)}, not {request.method}"
            return problem(HTTPStatus.METHOD_NOT_ALLOWED, text, allow=", ".join(methods))
        if request.method == "POST" and request.origin is not None:
            # Any page could do this in a browser that reaches the port.
            return problem(HTTPStatus.FORBIDDEN, "a web page must not do this")
        return await answer()

    async def _healthz(self) -> Answer:
        sick: str | None = None
        try:
            await self._ping.answer(_PING_S)
        except TimeoutError:
            if self._ping.waits_s >= self._hung_s:
                sick = self._hung()
        except LoopEnded:
            sick = "its event loop has ended"
        else:
            self._is_hung = False
        if sick is None and self._node.failure is not None:
            sick = f"its store failed: {self._node.failure}"
        document = {"node": self._node.name, "alive": sick is None}
        if sick is None:
            return Answer(HTTPStatus.OK, document)
        return Answer(HTTPStatus.SERVICE_UNAVAILABLE, {**document, "why": sick})

    def _hung(self) -> str:
        """Say where the event loop stands still. It goes into the log once for each time."""
        where = _place_of(self._thread_id)
        text = f"its event loop has stood still for {self._ping.waits_s:.1f} s, at {where}"
        if not self._is_hung:
            ids = {"node": self._node.name}
            logger.error("node %s is not alive: %s", self._node.name, text, extra=ids)
        self._is_hung = True
        return text

    async def _readyz(self) -> Answer:
        try:
            reasons = await self._readiness.answer(_READY_S)
        except TimeoutError:
            reasons = [f"its event loop has not answered for {self._readiness.waits_s:.1f} s"]
        except LoopEnded:
            reasons = ["its event loop has ended"]
        status = HTTPStatus.OK
        if reasons:
            status = HTTPStatus.SERVICE_UNAVAILABLE
        document = {"node": self._node.name, "ready": not reasons, "why_not": reasons}
        return Answer(status, document)

    async def _scale(self, queue: str | None = None) -> Answer:
        try:
            scale = await self._scales.answer(_SCALE_S)
        except TimeoutError:
            text = f"the node has not answered for {self._scales.waits_s:.1f} s"
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, text)
        except LoopEnded:
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, "its event loop has ended")
        except PerdureError as error:
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        if queue is not None:
            # A queue in which nothing happens has numbers, too: an autoscaler needs the 0.
            return Answer(HTTPStatus.OK, scale.queues.get(queue, QueueScale()))
        return Answer(HTTPStatus.OK, scale)

    async def _drained(self) -> Answer:
        try:
            # One that does not answer in time has been asked, and drains when its loop turns.
            with suppress(TimeoutError):
                await self._drains.answer(_READY_S)
        except LoopEnded:
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, "its event loop has ended")
        return Answer(HTTPStatus.ACCEPTED, {"node": self._node.name, "draining": True})

    # ------------------------------------------------------------ on the event loop of the node

    async def _why_not_ready(self) -> list[str]:
        return self._node.why_not_ready()

    async def _begin_drain(self) -> None:
        logger.info("node %s was asked to drain", self._node.name, extra={"node": self._node.name})
        self._drain()

    def _stop(self) -> None:
        if self._draining is None:
            # Kept: the event loop itself holds its tasks by weak references only.
            self._draining = asyncio.ensure_future(self._stop_node())

    async def _stop_node(self) -> None:
        try:
            await self._node.stop()
        except PerdureError:
            ids = {"node": self._node.name}
            logger.exception("node %s could not be drained", self._node.name, extra=ids)


def _place_of(thread_id: int) -> str:
    """The line at which a thread is, in the program's own code if it is there."""
    # The only way to look at another thread. Python documents it, underscore and all.
    frame = sys._current_frames().get(thread_id)  # pyright: ignore[reportPrivateUsage]
    if frame is None:
        return "no line: its thread has ended"
    # Calls of user code go through the guard, whose own line tells nothing.
    stack = traceback.extract_stack(frame)
    others = [line for line in stack if not line.filename.startswith(_PACKAGE)]
    inner = (others or stack)[-1]
    return f"{inner.filename}:{inner.lineno} in {inner.name}"


async def _nothing() -> None:
    """Show that the event loop turns."""
