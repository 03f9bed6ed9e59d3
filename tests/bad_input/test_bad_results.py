"""Activities whose outcome cannot travel, or is odd: the workflow gets an error that names the activity."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from perdure import (
    ActivityError,
    App,
    ApplicationError,
    Limits,
    Node,
    NodeOptions,
    RetryPolicy,
    activity,
    workflow,
)
from perdure.errors import WorkflowFailed
from perdure.kernel.data.events import ActivityFailed

LIMITS = Limits(payload_bytes=1_000)


class Odd(Exception):
    """An exception that cannot even say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


class Bench:
    """A node, an activity to be broken, and a workflow that calls it."""

    def __init__(self) -> None:
        self.app = App("bench")
        self.node: Node

        @self.app.activity
        async def fine(x: int) -> int:
            return x

        @self.app.workflow
        async def good(x: int) -> int:
            return await fine(x)

        self.good = good

    async def error(self, fn: Callable[..., Any], *args: Any, **options: Any) -> dict[str, Any]:
        """What the workflow sees when it calls `fn` as an activity."""
        broken = self.app.activity(name="broken", **options)(fn)

        @self.app.workflow
        async def caller() -> dict[str, Any]:
            try:
                return {"result": await broken(*args)}
            except Exception as error:
                failure = error.failure if isinstance(error, ActivityError) else None
                return {
                    "kind": type(error).__name__,
                    "text": str(error)[:500],
                    "type": failure.type if failure else "",
                    "retryable": failure.retryable if failure else None,
                }

        seen = await self.node.client.workflow(caller, id="caller").run()
        assert await self.node.client.workflow(self.good, id="good").run(7) == 7
        return seen


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    async with made.app.node(
        "memory://", options=NodeOptions(limits=LIMITS, grace_ms=50)
    ) as made.node:
        yield made


async def an_object() -> Any:
    return object()


async def deep() -> Any:
    return {"a": [1, {"b": threading.Lock()}]}


async def wrong_type() -> int:
    return "seven"


async def too_large() -> str:
    return "x" * 2_000


async def a_coroutine() -> Any:
    return an_object()


async def cycle() -> Any:
    found: list[Any] = []
    found.append(found)
    return found


async def surrogate() -> str:
    return "\ud800"


def plain_object() -> Any:
    return object()


UNFIT: dict[str, tuple[Callable[..., Any], str, str]] = {
    "an object": (an_object, "EncodeError", "result of activity 'broken'"),
    "deep inside": (deep, "EncodeError", "result of activity 'broken'"),
    "another type": (wrong_type, "EncodeError", "result of activity 'broken'"),
    "too large": (
        too_large,
        "PayloadTooLarge",
        "the result of activity 'broken' has 2004 bytes; the limit is 1000",
    ),
    "a forgotten await": (a_coroutine, "EncodeError", "result of activity 'broken'"),
    "a cycle": (cycle, "EncodeError", "result of activity 'broken'"),
    "a surrogate": (surrogate, "EncodeError", "result of activity 'broken'"),
    "from a thread": (plain_object, "EncodeError", "result of activity 'broken'"),
}


@pytest.mark.parametrize("name", UNFIT)
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
async def test_a_result_that_cannot_travel_fails_the_activity_for_good(bench: Bench, name: str):
    fn, kind, text = UNFIT[name]
    seen = await bench.error(fn, retry=RetryPolicy(maximum_attempts=5))
    assert (seen["kind"], seen["type"], seen["retryable"]) == ("ActivityError", kind, False)
    assert text in seen["text"]
    assert "failed after 1 attempt" in seen["text"], "trying again cannot help"


def raising(error: BaseException) -> Callable[..., Any]:
    async def broken() -> None:
        raise error

    return broken


RAISED: dict[str, tuple[BaseException, str, str]] = {
    "an error": (ValueError("no"), "ValueError", "no"),
    "a final error": (ApplicationError("no", type="Declined", retryable=False), "Declined", "no"),
    "a group": (
        ExceptionGroup("two", [ValueError("a"), KeyError("b")]),
        "ExceptionGroup",
        "two (2 sub-exceptions)",
    ),
    "no words": (Odd(), "Odd", ""),
    "a long text": (ValueError("x" * 100_000), "ValueError", "xxx"),
    "SystemExit": (SystemExit(3), "SystemExit", "3"),
    "GeneratorExit": (GeneratorExit(), "GeneratorExit", ""),
    "StopIteration": (StopIteration(), "RuntimeError", "StopIteration"),
    "CancelledError": (asyncio.CancelledError("by myself"), "CancelledError", ""),
    "a surrogate": (ValueError("\ud800"), "ValueError", ""),
    "details that are not data": (
        ApplicationError("no", details=object()),
        "ApplicationError",
        "no",
    ),
}


@pytest.mark.parametrize("name", RAISED)
async def test_whatever_an_activity_raises_is_its_failure(bench: Bench, name: str):
    error, kind, text = RAISED[name]
    seen = await bench.error(raising(error))
    assert (seen["kind"], seen["type"]) == ("ActivityError", kind)
    assert text in seen["text"]


async def test_a_very_long_text_of_an_error_is_cut(bench: Bench):
    """It would bypass the limit of payloads otherwise."""
    await bench.error(raising(ValueError("x" * 1_000_000)))
    [failed] = [
        e.event
        for e in await bench.node.client.get("caller").history()
        if isinstance(e.event, ActivityFailed)
    ]
    assert 1_000 < len(failed.failure.message) < 20_000
    assert "more characters" in failed.failure.message


@pytest.mark.parametrize(
    "error", [SystemExit(3), StopIteration("x")], ids=lambda e: type(e).__name__
)
async def test_whatever_a_thread_raises_is_the_activitys_failure(
    bench: Bench, error: BaseException
):
    def broken() -> None:
        raise error

    seen = await bench.error(broken)
    assert (seen["kind"], seen["type"]) in [
        ("ActivityError", type(error).__name__),
        ("ActivityError", "RuntimeError"),
    ]


def exits() -> None:
    sys.exit(3)


async def test_an_activity_that_calls_exit_does_not_end_the_process(bench: Bench):
    assert (await bench.error(exits))["type"] == "SystemExit"


async def test_heartbeat_details_that_are_not_data_fail_the_attempt(bench: Bench):
    async def broken() -> None:
        activity.heartbeat(object())

    seen = await bench.error(broken)
    assert (seen["type"], seen["retryable"]) == ("EncodeError", False)


async def test_resources_that_nobody_made_fail_the_attempt_and_name_the_remedy(bench: Bench):
    async def broken() -> None:
        activity.resources(dict)

    seen = await bench.error(broken)
    assert (
        "activity.resources(dict): the app's resources are NoneType; make them with @app.resources"
        in seen["text"]
    )


async def test_workflow_calls_inside_an_activity_are_refused(bench: Bench):
    async def broken() -> None:
        workflow.now()

    seen = await bench.error(broken)
    assert "workflow.now() is for workflow code; here no workflow is running" in seen["text"]


async def test_a_timeout_is_named(bench: Bench):
    async def broken() -> None:
        await asyncio.sleep(60)

    seen = await bench.error(broken, timeout=0.01)
    assert (seen["kind"], seen["type"]) == ("ActivityTimeout", "ActivityTimeout")
    assert "activity 'broken', attempt 1: " in seen["text"]
    assert "10 ms" in seen["text"]


async def test_an_activity_that_swallows_its_cancel_is_left_to_itself(bench: Bench):
    release = asyncio.Event()

    async def broken() -> None:
        for _ in range(5):  # as good as for ever, but a test must end when it fails, too
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    seen = await bench.error(broken, timeout=0.01)
    release.set()
    assert seen["type"] == "ActivityTimeout"


async def test_a_node_stops_although_an_activity_swallows_its_cancel():
    made, release, running = Bench(), asyncio.Event(), asyncio.Event()

    async def broken() -> None:
        running.set()
        for _ in range(5):
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    slow = made.app.activity(name="slow", timeout=60)(broken)

    @made.app.workflow
    async def caller() -> None:
        await slow()

    async with made.app.node("memory://", options=NodeOptions(grace_ms=20, stop_ms=20)) as node:
        await node.client.workflow(caller, id="caller").start()
        await running.wait()
        try:
            async with asyncio.timeout(30):
                await node.stop()
        finally:
            release.set()


async def test_an_unknown_activity_name_in_a_detached_start_is_an_error_of_that_instance(
    bench: Bench,
):
    await bench.node.client.workflow("perdure:activity", id="d-1").start("no_such", b"\x01\x90")
    with pytest.raises(
        WorkflowFailed,
        match="activity 'no_such' is not registered with this node's app; register it",
    ):
        await bench.node.client.get("d-1").result(timeout=30)
    assert await bench.node.client.workflow(bench.good, id="good").run(7) == 7
