"""What a loop could do beyond a workflow is refused, with the remedy, and the workflow can go on."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from scene import act, result, started

from perdure.errors import WorkflowViolation
from perdure.kernel.loop.loop import NeverIdle, WorkflowLoop

IO = "make it an activity"
THREADS = "on a thread"
NODE = "belongs to its node"

REFUSED: dict[str, str] = {
    "run_in_executor": THREADS,
    "set_default_executor": THREADS,
    "shutdown_default_executor": THREADS,
    "getaddrinfo": IO,
    "getnameinfo": IO,
    "create_connection": IO,
    "create_server": IO,
    "create_unix_connection": IO,
    "create_unix_server": IO,
    "create_datagram_endpoint": IO,
    "connect_accepted_socket": IO,
    "start_tls": IO,
    "sendfile": IO,
    "subprocess_exec": IO,
    "subprocess_shell": IO,
    "connect_read_pipe": IO,
    "connect_write_pipe": IO,
    "add_reader": IO,
    "remove_reader": IO,
    "add_writer": IO,
    "remove_writer": IO,
    "sock_recv": IO,
    "sock_recv_into": IO,
    "sock_recvfrom": IO,
    "sock_recvfrom_into": IO,
    "sock_sendall": IO,
    "sock_sendto": IO,
    "sock_sendfile": IO,
    "sock_connect": IO,
    "sock_accept": IO,
    "add_signal_handler": IO,
    "remove_signal_handler": IO,
    "run_forever": NODE,
    "run_until_complete": NODE,
    "stop": NODE,
    "close": NODE,
    "shutdown_asyncgens": NODE,
    "set_task_factory": NODE,
    "set_debug": NODE,
    "set_exception_handler": NODE,
    "default_exception_handler": NODE,
}
ALLOWED = {
    "call_at",
    "call_later",
    "call_soon",
    "call_soon_threadsafe",
    "create_future",
    "create_task",
    "time",
}
ALLOWED |= {
    "call_exception_handler",
    "get_debug",
    "get_exception_handler",
    "get_task_factory",
    "is_closed",
    "is_running",
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_remedy(name: str) -> None:
    async def tries() -> str:
        try:
            getattr(asyncio.get_running_loop(), name)()
        except WorkflowViolation as error:
            await act("goes on")
            return str(error)
        return "it ran"

    message = result(tries)
    assert f"loop.{name}()" in message
    assert REFUSED[name] in message


def test_every_method_of_a_loop_is_either_refused_or_deterministic() -> None:
    methods = {n for n in dir(asyncio.AbstractEventLoop) if not n.startswith("_")}
    assert methods - ALLOWED - set(REFUSED) == set()
    for name in methods - {"get_exception_handler"}:
        assert name in WorkflowLoop.__dict__, (
            f"{name} is asyncio's own, which raises without a remedy"
        )


@pytest.mark.parametrize(
    "name", ["open_connection", "create_subprocess_exec", "to_thread", "start_server"]
)
def test_what_asyncio_builds_on_them(name: str) -> None:
    async def tries() -> str:
        calls: dict[str, Any] = {
            "open_connection": lambda: asyncio.open_connection("localhost", 1),
            "create_subprocess_exec": lambda: asyncio.create_subprocess_exec("ls"),
            "to_thread": lambda: asyncio.to_thread(socket.gethostname),
            "start_server": lambda: asyncio.start_server(lambda r, w: None, "localhost", 0),
        }
        try:
            await calls[name]()
        except WorkflowViolation as error:
            return str(error)
        return "it ran"

    assert "inside a workflow" in result(tries)


async def test_nobody_reaches_in_from_outside() -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    async def shows_its_loop() -> None:
        loops.append(asyncio.get_running_loop())
        await act("x")

    drive = started(shows_its_loop)
    with pytest.raises(WorkflowViolation, match="send it a message"):
        loops[0].call_soon_threadsafe(print)
    with pytest.raises(
        NotImplementedError
    ):  # libraries ask by this whether a loop can be reached from outside
        loops[0].call_soon_threadsafe(print)
    assert drive.pending()


def test_one_that_never_waits_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.kernel.loop.loop.CALLBACKS_MAX", 5_000)

    async def busy() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(NeverIdle, match="without becoming idle"):
        started(busy)


def test_a_foreign_future_is_refused() -> None:
    foreign = asyncio.new_event_loop()
    future = foreign.create_future()
    try:

        async def waits_for_it() -> str:
            try:
                await future
            except RuntimeError as error:
                return str(error)
            return "it came"

        assert "attached to a different loop" in result(waits_for_it)
    finally:
        foreign.close()
