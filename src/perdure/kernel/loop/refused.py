"""Methods of an event loop that a workflow cannot have, and the error that each of them raises.

The loop (`kernel/loop/loop.py`) takes these methods in place of asyncio's, whose error says nothing
about what to do instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from perdure.errors import WorkflowViolation

if TYPE_CHECKING:
    from collections.abc import Callable

_THREADS = "a workflow has no threads: make it an activity (`def` activities run on a thread)"
_IO = "a workflow does no I/O: make it an activity"
_NODE = "a workflow's loop belongs to its node: it cannot be run, stopped or configured from inside"

_REFUSED = {
    _THREADS: """
        run_in_executor set_default_executor shutdown_default_executor
    """,
    _IO: """
        getaddrinfo getnameinfo create_connection create_server start_tls sendfile
        create_unix_connection create_unix_server connect_accepted_socket create_datagram_endpoint
        connect_read_pipe connect_write_pipe subprocess_shell subprocess_exec
        add_reader remove_reader add_writer remove_writer
        sock_recv sock_recv_into sock_recvfrom sock_recvfrom_into sock_sendall sock_sendto
        sock_connect sock_accept sock_sendfile add_signal_handler remove_signal_handler
    """,
    _NODE: """
        run_forever run_until_complete stop close shutdown_asyncgens set_task_factory set_debug
        set_exception_handler default_exception_handler
    """,
}
"""The names of refused methods, by the remedy that their error gives."""


def refuse_methods(loop: type) -> None:
    """Give a class of loops a method for each name that is refused."""
    for remedy, names in _REFUSED.items():
        for name in names.split():
            setattr(loop, name, _refusal(name, remedy))


def _refusal(name: str, remedy: str) -> Callable[..., NoReturn]:
    def refuse(*_args: object, **_options: object) -> NoReturn:
        msg = f"loop.{name}() was called inside a workflow: {remedy}"
        raise WorkflowViolation(msg)

    refuse.__name__ = name
    return refuse
