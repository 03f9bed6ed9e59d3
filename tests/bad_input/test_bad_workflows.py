"""Workflow code that does what a workflow must not do: refused with the line and the remedy, or stopped and set aside.

Each test has a neighbour, an ordinary instance on the same node, that must complete: a bad workflow stops nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from perdure import App, Description, Node, NodeOptions, workflow
from perdure.errors import Failure, WorkflowFailed, WorkflowViolation

here = __file__

# anyio imports its backend at its first call. In a workflow that would count as a long turn.
anyio.run(anyio.sleep, 0)


class Bench:
    """A node with a bad workflow and a good one."""

    def __init__(self) -> None:
        self.app = App("bench")

        @self.app.activity
        async def echo(x: Any) -> Any:
            return x

        @self.app.workflow
        async def good(x: int) -> int:
            return await echo(x) + await echo(1)

        self.echo, self.good = echo, good
        self.node: Node

    def define(self, fn: Callable[..., Any], **options: Any) -> Any:
        return self.app.workflow(name="bad", **options)(fn)

    async def failure(self, fn: Callable[..., Any], **options: Any) -> Failure:
        """Run `fn`; it must fail, and the neighbour must not notice."""
        handle = self.node.client.workflow(self.define(fn, **options), id="bad-1")
        await handle.start()
        done = await handle.wait(timeout=30)
        await self.neighbour()
        assert (done.status, done.failure is None) == ("failed", False), done
        assert done.failure is not None
        return done.failure

    async def suspended(self, fn: Callable[..., Any], reason: str) -> Description:
        """Run `fn`; it must be set aside, and the neighbour must not notice."""
        handle = self.node.client.workflow(self.define(fn), id="bad-1")
        with contextlib.suppress(asyncio.TimeoutError):
            async with asyncio.timeout(10):
                await handle.start()
                while (await handle.describe()).status != "suspended":
                    await asyncio.sleep(0)
        found = await handle.describe()
        assert (found.status, found.reason) == ("suspended", reason), found
        await self.neighbour()
        return found

    async def neighbour(self) -> None:
        assert await self.node.client.workflow(self.good, id=f"good-{uuid.uuid4()}").run(41) == 42


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    async with made.app.node(
        "memory://", options=NodeOptions(turn_limit_ms=100, turn_failures=2)
    ) as node:
        made.node = node
        yield made


# ---------------------------------------------------------------- I/O, threads, sleeps

EFFECTS: dict[str, tuple[Callable[[], Any], str, str]] = {
    "a file": (lambda: open("/nowhere/x"), "open('/nowhere/x')", "activity"),
    "a path": (lambda: Path("/nowhere/x").read_text(), "open('/nowhere/x')", "activity"),
    "a socket": (lambda: socket.create_connection(("127.0.0.1", 9)), "socket", "activity"),
    "a process": (lambda: subprocess.run(["true"], check=True), "subprocess.Popen", "activity"),
    "a shell": (lambda: os.system("true"), "os.system()", "activity"),
    "a thread": (lambda: threading.Thread(target=int).start(), "Thread.start()", "activity"),
    "a pool": (lambda: ThreadPoolExecutor(1).submit(int), "Thread.start()", "activity"),
    "a blocking sleep": (lambda: time.sleep(0.01), "time.sleep()", "await asyncio.sleep"),
}


@pytest.mark.parametrize(
    "name", sorted(set(EFFECTS) - {"a path"})
)  # a method: seen only when it happens
async def test_an_effect_is_refused_at_registration(bench: Bench, name: str):
    effect, _, remedy = EFFECTS[name]

    async def bad() -> None:
        effect()

    with pytest.raises(WorkflowViolation) as caught:
        bench.define(bad)
    assert "in workflow 'bad': " in str(caught.value)
    assert f"{here}:" in str(caught.value)
    assert remedy in str(caught.value)
    await bench.neighbour()


@pytest.mark.parametrize("name", EFFECTS)
async def test_an_effect_that_cannot_be_seen_before_is_refused_when_it_happens(
    bench: Bench, name: str
):
    _, what, remedy = EFFECTS[name]

    async def bad() -> None:
        EFFECTS[name][0]()

    failure = await bench.failure(bad)
    assert failure.type == "WorkflowViolation"
    assert what in failure.message
    assert f"{here}:" in failure.message
    assert remedy in failure.message


def late(module: Any, name: str) -> Any:
    """What the scan at registration cannot see, so that it is found where it happens."""
    return getattr(module, name)


WATCHED = sys.version_info >= (3, 12)
"""Whether the guard sees each call of workflow code (sys.monitoring)."""

LOOP: dict[str, tuple[Callable[[], Any], str, str]] = {
    "to_thread": (
        lambda: late(asyncio, "to_thread")(int),
        "run_in_executor",
        "`def` activities run on a thread",
    ),
    "executor": (
        lambda: asyncio.get_running_loop().run_in_executor(None, int),
        "run_in_executor",
        "`def` activities run on a thread",
    ),
    "connection": (
        lambda: late(asyncio, "open_connection")("127.0.0.1", 9),
        "create_connection",
        "make it an activity",
    ),
    "server": (
        lambda: late(asyncio, "start_server")(print, port=0),
        "create_server",
        "make it an activity",
    ),
    "process": (
        lambda: late(asyncio, "create_subprocess_exec")("true"),
        "subprocess_exec",
        "make it an activity",
    ),
    "name": (
        lambda: asyncio.get_running_loop().getaddrinfo("localhost", 1),
        "getaddrinfo",
        "make it an activity",
    ),
    "signal": (
        lambda: asyncio.get_running_loop().add_signal_handler(1, print),
        "add_signal_handler",
        "activity",
    ),
    "stop": (lambda: asyncio.get_running_loop().stop(), "stop", "belongs to its node"),
    "run": (
        lambda: asyncio.get_running_loop().run_until_complete(asyncio.sleep(0)),
        "run_until_complete",
        "node",
    ),
    "anyio thread": (lambda: late(anyio.to_thread, "run_sync")(int), "Thread.start()", "activity"),
    "anyio file": (lambda: anyio.open_file("/nowhere/x"), "", "activity"),
}


@pytest.mark.parametrize("name", LOOP)
@pytest.mark.filterwarnings("ignore:coroutine 'sleep' was never awaited")
async def test_what_a_loop_of_a_workflow_cannot_do_is_refused(bench: Bench, name: str):
    effect, what, remedy = LOOP[name]

    async def bad() -> None:
        found = effect()
        if found is not None:
            await found

    failure = await bench.failure(bad)
    assert failure.type == "WorkflowViolation"
    if WATCHED and name in ("to_thread", "connection", "server", "process", "anyio thread"):
        what, remedy = (
            "() inside a workflow, at ",
            "activity",
        )  # the call itself is refused, not what it does later
    assert what in failure.message
    assert remedy in failure.message
    gc.collect()


@pytest.mark.filterwarnings("ignore:coroutine 'sleep' was never awaited")
async def test_a_loop_of_its_own_is_refused(bench: Bench):
    async def bad() -> None:
        late(asyncio, "run")(asyncio.sleep(0))

    failure = await bench.failure(bad)
    refusal = (
        "inside a workflow"
        if WATCHED
        else "asyncio.run() cannot be called from a running event loop"
    )
    assert refusal in failure.message
    gc.collect()  # the coroutine that nobody awaited warns here, not in the middle of another test


async def clock() -> float:
    return time.time()


async def dice() -> float:
    return random.random()


async def ids() -> str:
    return str(uuid.uuid4())


async def dates() -> str:
    return str(datetime.now())


async def through_a_helper() -> float:
    return roll()


def roll() -> float:
    return random.random()


CHANCE = {
    "clock": (clock, "time.time", "workflow.now"),
    "dice": (dice, "random.random", "workflow.random"),
    "ids": (ids, "uuid.uuid4", "workflow.uuid4"),
    "dates": (dates, "datetime.now", "workflow.now"),
    "through a helper": (through_a_helper, "random.random", "workflow.random"),
}


@pytest.mark.parametrize("name", CHANCE)
async def test_a_clock_or_chance_is_refused_at_registration(bench: Bench, name: str):
    fn, what, remedy = CHANCE[name]
    with pytest.raises(WorkflowViolation) as caught:
        bench.define(fn)
    assert what in str(caught.value)
    assert remedy in str(caught.value)
    assert f"{here}:" in str(caught.value)
    await bench.neighbour()


@pytest.mark.parametrize("guard", ["warn", "off"])
async def test_the_guard_can_be_lowered(bench: Bench, guard: str, caplog: pytest.LogCaptureFixture):
    wrong = bench.define(clock, guard=guard)
    assert await bench.node.client.workflow(wrong, id="bad-1").run() > 0
    warned = [
        r for r in caplog.records if f"{here}:" in r.getMessage() and "time.time" in r.getMessage()
    ]
    assert bool(warned) == (guard == "warn")


# ---------------------------------------------------------------- what it waits for


async def test_a_future_of_another_loop_is_refused(bench: Bench):
    foreign = asyncio.get_running_loop().create_future()

    async def bad() -> None:
        await foreign

    failure = await bench.failure(bad)
    assert "attached to a different loop" in failure.message or "foreign" in failure.message
    assert f"{here}" in failure.traceback


async def test_a_future_that_nothing_completes_is_reported_at_once(bench: Bench):
    async def bad() -> None:
        await asyncio.get_running_loop().create_future()

    found = await bench.suspended(bad, "stuck")
    assert found.failure is not None
    assert f"'bad-1' waits at {here}:" in found.failure.message
    assert "no activity, timer, message or child is pending" in found.failure.message
    assert "cancel the instance" in found.failure.message


async def test_an_event_that_nobody_sets_is_reported_at_once(bench: Bench):
    async def bad() -> None:
        await asyncio.Event().wait()

    found = await bench.suspended(bad, "stuck")
    await bench.node.client.get("bad-1").cancel("mended by hand")
    assert (await bench.node.client.get("bad-1").wait(timeout=30)).status == "cancelled"
    assert found.failure is not None


async def test_something_that_is_not_awaitable_is_an_error_of_the_code(bench: Bench):
    async def bad() -> None:
        await 7

    before, since_3_14 = (
        "object int can't be used in 'await' expression",
        "'int' object can't be awaited",
    )
    assert (await bench.failure(bad)).message in (before, since_3_14)


async def test_a_bare_yield_to_the_loop_is_refused(bench: Bench):
    class Odd:
        def __await__(self):
            yield "what is this"

    async def bad() -> None:
        await Odd()

    assert "got bad yield: 'what is this'" in (await bench.failure(bad)).message


# ---------------------------------------------------------------- code that does not stop


async def never_yields() -> None:
    while True:
        pass


async def never_idle() -> None:
    while True:
        await asyncio.sleep(0)


async def swallows_and_never_yields() -> None:
    while True:
        with contextlib.suppress(Exception):
            while True:
                pass


NEVER: dict[str, Callable[..., Any]] = {
    "never yields": never_yields,
    "never idle": never_idle,
    "swallows exceptions": swallows_and_never_yields,
}


@pytest.mark.parametrize("name", NEVER)
async def test_a_turn_without_end_is_stopped_and_the_instance_is_set_aside(bench: Bench, name: str):
    found = await bench.suspended(NEVER[name], "poison")
    assert found.failure is not None
    assert (
        "2 turns of 'bad-1' in a row were stopped: it took longer than 100 ms"
        in found.failure.message
    )
    assert f"{here}:" in found.failure.message
    assert (
        "Mend the code, deploy it, and release the instance with retry()" in found.failure.message
    )


# ---------------------------------------------------------------- code that does not let go


async def test_code_that_swallows_cancel_goes_on_and_can_be_terminated(bench: Bench):
    async def bad() -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3_600)

    handle = bench.node.client.workflow(bench.define(bad), id="bad-1")
    await handle.start()
    for _ in range(3):
        await handle.cancel("please")
    assert await handle.status() == "running"
    await bench.neighbour()
    await handle.terminate("at last")
    assert (await handle.wait(timeout=30)).failure == Failure(
        "Terminated", "at last", "cancelled", retryable=False
    )


async def test_code_that_swallows_generator_exit_runs_no_line_when_it_leaves_memory(bench: Bench):
    lines: list[str] = []

    async def bad() -> None:
        while True:
            try:
                await asyncio.sleep(3_600)
            except BaseException as error:
                lines.append(type(error).__name__)
            finally:
                lines.append("finally")

    handle = bench.node.client.workflow(bench.define(bad), id="bad-1")
    await handle.start()
    await handle.terminate("now")
    await handle.wait(timeout=30)
    await bench.neighbour()
    assert lines == []


async def test_a_generator_that_ignores_its_end_does_not_stop_the_run(bench: Bench):
    async def numbers() -> AsyncIterator[int]:
        while True:
            with contextlib.suppress(GeneratorExit):
                yield 1

    async def bad() -> int:
        async for n in numbers():
            return n
        return 0

    handle = bench.node.client.workflow(bench.define(bad), id="bad-1")
    await handle.start()
    assert (await handle.wait(timeout=30)).status in ("completed", "failed")
    await bench.neighbour()


# ---------------------------------------------------------------- mistakes


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
async def test_a_forgotten_await_of_an_activity_is_recorded_as_cancelled(bench: Bench):
    async def bad() -> str:
        bench.echo(1)
        return "done"

    handle = bench.node.client.workflow(bench.define(bad), id="bad-1")
    assert await handle.run() == "done"
    kinds = [type(e.event).__name__ for e in await handle.history()]
    assert kinds == ["Started", "ActivityScheduled", "CommandCancelled", "Completed"]


async def test_a_result_that_is_a_forgotten_await_is_refused(bench: Bench):
    async def bad() -> Any:
        return bench.echo(1)

    failure = await bench.failure(bad)
    assert failure.type == "EncodeError"
    assert "result of workflow 'bad'" in failure.message
    assert "await" in failure.message


async def test_a_set_of_strings_gives_the_same_order_in_a_payload(bench: Bench):
    async def fine() -> Any:
        return await bench.echo({"b", "a", "c"})

    assert sorted(await bench.node.client.workflow(bench.define(fine), id="set-1").run()) == [
        "a",
        "b",
        "c",
    ]


async def test_a_loop_over_a_set_of_strings_is_refused_at_registration(bench: Bench):
    with pytest.raises(WorkflowViolation, match=r"iteration over a set of strings.*sorted"):
        bench.define(over_a_set)


async def over_a_set() -> None:
    for name in {"a", "b"}:
        await workflow.sleep(len(name))


async def test_continue_as_new_as_another_workflow_is_refused(bench: Bench):
    async def bad() -> None:
        workflow.continue_as_new(bench.good, 1)

    failure = await bench.failure(bad)
    assert (
        "continue_as_new(good): 'bad-1' runs 'bad' and can only continue as that" in failure.message
    )


async def test_a_catch_all_cannot_catch_continue_as_new(bench: Bench):
    async def bad(n: int) -> int:
        with contextlib.suppress(Exception):
            if n:
                workflow.continue_as_new(again, n - 1)
        return n

    again = bench.define(bad)
    assert await bench.node.client.workflow(again, id="bad-1").run(2) == 0


async def test_a_child_under_its_parents_id_is_an_error_in_the_parent(bench: Bench):
    async def bad() -> None:
        await workflow.child(bench.good, id="bad-1")(1)

    failure = await bench.failure(bad)
    assert "the id 'bad-1' is taken by another instance" in failure.message


async def test_a_run_without_end_fails_at_its_limit_and_names_the_way_out():
    from perdure import Limits

    made = Bench()

    async def bad() -> None:
        while True:
            await made.echo(1)

    async with made.app.node(
        "memory://", options=NodeOptions(limits=Limits(history_events=50))
    ) as made.node:
        failure = await made.failure(bad)
    assert failure.type == "LimitExceeded"
    assert (
        "the limit is 50 (Limits.history_events): use workflow.continue_as_new before that"
        in failure.message
    )


async def test_an_error_at_the_end_of_a_bad_workflow_has_its_line(bench: Bench):
    async def bad() -> None:
        await bench.echo(1)
        raise ValueError("no")

    handle = bench.node.client.workflow(bench.define(bad), id="bad-1")
    with pytest.raises(WorkflowFailed, match="bad 'bad-1' failed: ValueError: no") as caught:
        await handle.run()
    assert here in caught.value.failure.traceback


class Odd(Exception):
    """An exception that cannot even say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


async def test_an_error_without_words_fails_the_run(bench: Bench):
    async def bad() -> None:
        raise Odd

    assert (await bench.failure(bad)).type == "Odd"
