"""A small HTTP server: one request on each connection, and a bound on everything.

h11 reads and writes the protocol. This module moves the bytes. A client that is slow, sends
nonsense or opens a thousand connections costs a known amount of memory and time, and keeps nobody
else from being answered.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

import h11
import msgspec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

logger = logging.getLogger("perdure.server")

CONNECTIONS = 100
"""Connections that are open at once. One more ends the oldest: slow clients must not keep a probe
out."""

HEAD_BYTES = 8 * 1024
"""The longest head of a request."""

BODY_BYTES = 8 * 1024
"""The longest body of a request. No request here needs one."""

EXCHANGE_S = 10.0
"""A connection ends after so long, whatever it waits for."""

_LINGER_S = 1.0
"""How long a client that sends on is listened to after its answer. A connection that is closed on
bytes that nobody has read loses the answer, too."""

_READ_BYTES = 4 * 1024

_ACCEPT_AGAIN_S = 1.0
"""A pause after a connection that could not be accepted."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request. `origin` is the page of a browser that sent it. None: it was no page."""

    method: str
    path: str
    origin: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer. Its document is sent as JSON."""

    status: int
    document: object
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


def problem(status: int, text: str, **headers: str) -> Answer:
    """An answer that says what is wrong. `_` in the name of a header stands for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {"error": text}, named)


class Listener:
    """Answers requests on one address. All of it runs on one event loop, which has selectors."""

    def __init__(self, answer: Callable[[Request], Awaitable[Answer]]) -> None:
        """Nothing is listened to. `answer` gives the answer to a request."""
        self._answer = answer
        # In the order in which they were opened: a dictionary keeps it.
        self._open: dict[asyncio.Task[None], None] = {}
        self._socket: socket.socket | None = None
        self._loop = asyncio.get_running_loop()

    async def begin(self, host: str, port: int) -> tuple[str, int]:
        """Listen on the first address of a host. Returns the address: port 0 becomes a free one.

        Raises:
            OSError: the address cannot be had.
        """
        found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, *_, address = found[0]
        self._socket = socket.create_server(address[:2], family=family, backlog=CONNECTIONS)
        self._socket.setblocking(False)
        self._listen(self._socket)
        bound = self._socket.getsockname()
        return bound[0], bound[1]

    async def end(self) -> None:
        """Close the address, and all connections."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._socket.close()
        tasks = list(self._open)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _listen(self, listening: socket.socket) -> None:
        if listening.fileno() >= 0:  # it may have been closed while it paused
            self._loop.add_reader(listening, self._accept, listening)

    # Neither a server of asyncio's nor its `sock_accept`: both forget a connection that they have
    # accepted when they are closed just then, and its client would wait for ever.
    def _accept(self, listening: socket.socket) -> None:
        try:
            connection, _ = listening.accept()
        except BlockingIOError:
            return  # the client is gone already
        except OSError as error:
            # The process has no file handle left. The event loop would call again at once.
            logger.warning("a connection could not be accepted: %s", error)
            self._loop.remove_reader(listening)
            self._loop.call_later(_ACCEPT_AGAIN_S, self._listen, listening)
            return
        if len(self._open) >= CONNECTIONS:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.cancel()
        task = self._loop.create_task(self._serve(connection), name="perdure-request")
        self._open[task] = None
        # By a callback: a task that is cancelled before its first line runs none of it.
        task.add_done_callback(partial(self._ended, connection))

    def _ended(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        connection.close()
        self._open.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            logger.error("a connection has failed", exc_info=task.exception())

    async def _serve(self, connection: socket.socket) -> None:
        # The client may be late or gone. Nothing of the node depends on it.
        with suppress(TimeoutError, OSError):
            connection.setblocking(False)
            async with asyncio.timeout(EXCHANGE_S):
                reader, writer = await asyncio.open_connection(sock=connection)
                try:
                    await self._exchange(reader, writer)
                finally:
                    writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        request: Request | None = None
        try:
            request = await _read(connection, reader)
            if request is None:
                return
            answer = await self._answered(request)
        except h11.RemoteProtocolError as error:
            answer = problem(error.error_status_hint, str(error))
        except _TooLong as error:
            answer = problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error))
        is_head = request is not None and request.method == "HEAD"
        writer.write(_written(connection, answer, is_head=is_head))
        await writer.drain()
        await _linger(reader, writer)

    async def _answered(self, request: Request) -> Answer:
        try:
            return await self._answer(request)
        except Exception:
            # A fault of this package. The client hears that much, and people the rest.
            logger.exception("%s %s could not be answered", request.method, request.path)
            return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the log of the node has the reason")


class _TooLong(Exception):
    """The body of a request is longer than any that is needed."""


async def _read(connection: h11.Connection, reader: asyncio.StreamReader) -> Request | None:
    """The next request, behind its whole body. None: the client has closed the connection.

    Raises:
        h11.RemoteProtocolError: it is no HTTP, or its head is too long.
        _TooLong: its body is too long.
    """
    request: Request | None = None
    body_bytes = 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if connection.they_are_waiting_for_100_continue:
                return request  # the answer does not depend on the body
            connection.receive_data(await reader.read(_READ_BYTES))
        elif isinstance(event, h11.Request):
            request = _request_of(event)
        elif isinstance(event, h11.Data):
            body_bytes += len(event.data)
            if body_bytes > BODY_BYTES:
                msg = f"a body has at most {BODY_BYTES} bytes here"
                raise _TooLong(msg)
        elif isinstance(event, h11.EndOfMessage):
            return request
        else:
            return None


def _request_of(event: h11.Request) -> Request:
    origin: str | None = None
    for name, value in event.headers:
        if name == b"origin":
            origin = value.decode("latin-1")
    # h11 has seen to it that method and target are ASCII.
    path, _, _ = event.target.decode("ascii").partition("?")
    return Request(event.method.decode("ascii"), path, origin)


def _written(connection: h11.Connection, answer: Answer, *, is_head: bool) -> bytes:
    body = msgspec.json.encode(answer.document) + b"\n"
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "cache-control": "no-store",
        "connection": "close",
        **answer.headers,
    }
    reason = HTTPStatus(answer.status).phrase.encode()
    response = h11.Response(status_code=answer.status, headers=list(headers.items()), reason=reason)
    events: list[h11.Event] = [response]
    if not is_head:
        events.append(h11.Data(data=body))
    events.append(h11.EndOfMessage())
    parts: list[bytes] = []
    for event in events:
        data = connection.send(event)
        if data:  # the end of a message has no bytes of its own
            parts.append(data)
    return b"".join(parts)


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say that this was all, and wait until the client has closed its end."""
    writer.write_eof()
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            while await reader.read(_READ_BYTES):
                pass  # what it sends now is of no interest
