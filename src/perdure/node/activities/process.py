"""The program of a process of the pool: look an activity up by its place, decode, run, encode.

The process reads one request after the other from its pipe, and ends with the pipe. It also watches
its parent: a node that was killed leaves no process behind, even in the middle of an activity.
"""

from __future__ import annotations

import importlib
import os
import signal
from contextlib import suppress
from functools import reduce
from multiprocessing import parent_process
from threading import Thread
from typing import TYPE_CHECKING, Any

import msgspec

from perdure.codec import Signature
from perdure.kernel.data.retry import RetryPolicy
from perdure.node.activities.outcome import Outcome, call_function, encoded, failure_from

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_LOOK_S = 2.0
"""How often the parent is looked for. A fork of the parent can hide its end."""


class Request(msgspec.Struct, array_like=True):
    """An attempt: the place of its function, its encoded arguments, and the limits of its outcome.

    `final` names the errors that are not retried. `payload_bytes` is the largest outcome.
    """

    module: str
    name: str
    data: bytes
    final: tuple[str, ...]
    payload_bytes: int


_requests = msgspec.msgpack.Decoder(Request)


def serve(pipe: Connection) -> None:
    """Work until the pipe is closed. The first message says that the process is ready."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # Ctrl-C and service managers signal the whole group. The node decides when its processes
        # end. A handler, and not SIG_IGN, which programs that an activity starts would inherit.
        signal.signal(number, _leave_it_to_the_node)
    Thread(target=_end_with_parent, name="perdure-parent", daemon=True).start()
    # A node that was killed closes the pipe at any moment, also while this process writes to it.
    with suppress(EOFError, ConnectionError):
        _answer(pipe)


def _answer(pipe: Connection) -> None:
    pipe.send_bytes(b"ready")
    while True:
        request = pipe.recv_bytes()
        pipe.send_bytes(msgspec.msgpack.encode(run(_requests.decode(request))))


def run(request: Request) -> Outcome:
    """Run the activity. The decorated name holds an `Activity`, which has the function itself."""
    what = f"activity {request.name!r}"
    try:
        module = importlib.import_module(request.module)
        found: Any = reduce(getattr, request.name.split("."), module)
        fn = getattr(found, "fn", found)
        signature = Signature(fn, what)
        args, kwargs = signature.decode(request.data)
        value = call_function(fn, args, kwargs)
        result = encoded(value, f"result of {what}", signature.result.encode, request.payload_bytes)
        signature.result.check(result)
    except BaseException as error:  # any error of the user's code is its outcome
        retry = RetryPolicy(non_retryable=request.final)
        return Outcome(None, failure_from(error, request.payload_bytes, retry))
    return Outcome(result)


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
