"""The program of a process of the pool: look an activity up by its place, decode, run, encode.

The process reads one request after the other from its pipe, and ends with the pipe. While an
activity runs, its heartbeats go to the node by the pipe, and a cancel comes by it. The process also
watches its parent: a node that was killed leaves no process behind, even in the middle of an
activity.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import signal
from contextlib import suppress
from functools import reduce
from multiprocessing import parent_process
from threading import Thread
from typing import TYPE_CHECKING, Any, NoReturn

from perdure.activity import Activity, Attempt, running_attempt
from perdure.codec import Signature
from perdure.errors import DefinitionError, UsageError
from perdure.kernel.data.retry import RetryPolicy
from perdure.node.activities.line import Line, Request
from perdure.node.activities.outcome import Outcome, call_function, encoded, failure_from

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_LOOK_S = 2.0
"""How often the parent is looked for. A fork of the parent can hide its end."""

_POLL_S = 0.05
"""How often a coroutine of an activity looks for its cancel."""


class RemoteAttempt(Attempt):
    """An attempt in a process of the pool. Its heartbeats and its cancel go by the line."""

    __slots__ = ("_line", "_number")

    def __init__(self, line: Line, number: int, request: Request) -> None:
        """The attempt begins now."""
        info = request.info
        super().__init__(lambda: info, info.details, None, request.payload_bytes)
        self._line = line
        self._number = number

    def beat(self, details: bytes | None) -> None:
        """Send it to the node."""
        self._line.beat(self._number, details)

    def is_cancelled(self) -> bool:
        """Whether the node has sent a cancel."""
        return self._line.is_cancelled(self._number)

    async def wait_cancelled(self) -> None:
        """Wait for a cancel of the node, on an event loop of the function's own."""
        while not self.is_cancelled():  # noqa: ASYNC110  (a pipe has no event for this loop)
            await asyncio.sleep(_POLL_S)

    def resources(self) -> NoReturn:
        """They are objects of the node's process."""
        msg = (
            f"activity.resources(): activity {self.info.name!r} runs in a process of its own, and "
            "the app's resources are in that of the node; make them in the function, or leave out "
            "executor='process'"
        )
        raise UsageError(msg)


def serve(pipe: Connection) -> None:
    """Work until the pipe is closed. The first message says that the process is ready."""
    for asked in (signal.SIGINT, signal.SIGTERM):
        # Ctrl-C and service managers signal the whole group. The node decides when its processes
        # end. A handler, and not SIG_IGN, which programs that an activity starts would inherit.
        signal.signal(asked, _leave_it_to_the_node)
    Thread(target=_end_with_parent, name="perdure-parent", daemon=True).start()
    # A node that was killed closes the pipe at any moment, also while this process writes to it.
    with suppress(EOFError, ConnectionError):
        _answer(pipe)


def _answer(pipe: Connection) -> None:
    pipe.send_bytes(b"ready")
    line = Line(pipe)
    while (following := line.next()) is not None:
        number, request = following
        begun = running_attempt.set(RemoteAttempt(line, number, request))
        outcome = run(request)
        running_attempt.reset(begun)
        line.answer(outcome)


def run(request: Request) -> Outcome:
    """Run the activity. The decorated name holds an `Activity`, which has the function itself."""
    what = f"activity {request.name!r}"
    try:
        fn = _function(request)
        signature = Signature(fn, what)
        args, kwargs = signature.decode(request.data)
        value = call_function(fn, args, kwargs)
        result = encoded(value, f"result of {what}", signature.result.encode, request.payload_bytes)
        signature.result.check(result)
    except BaseException as error:  # any error of the user's code is its outcome
        retry = RetryPolicy(non_retryable=request.final)
        return Outcome(None, failure_from(error, request.payload_bytes, retry))
    return Outcome(result)


def _function(request: Request) -> Any:
    """The function of a request, behind the decorators that may be around it."""
    module = importlib.import_module(request.module)
    try:
        found: Any = reduce(getattr, request.name.split("."), module)
    except AttributeError as error:
        msg = (
            f"the process of activity {request.name!r} finds no {request.module}.{request.name}; "
            "keep the function at module level, under the name with which it was defined"
        )
        raise DefinitionError(msg) from error
    # A decorator may also be around the activity: `@timed` above `@app.activity`.
    behind: Any = inspect.unwrap(found, stop=_is_activity)
    return getattr(behind, "fn", found)


def _is_activity(found: object) -> bool:
    return isinstance(found, Activity)


def _leave_it_to_the_node(_number: int, _frame: object) -> None:
    """A signal to the whole group asks the node to stop, and the node ends its processes."""


def _end_with_parent() -> None:
    """End the process as soon as its parent has ended, also in the middle of an activity."""
    parent = parent_process()
    number = os.getppid()
    # The number tells, too: a process whose parent has ended gets another one.
    while parent is not None and parent.is_alive() and os.getppid() == number:
        parent.join(_LOOK_S)
    os._exit(1)
