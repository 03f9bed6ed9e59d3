"""The OpenTelemetry interceptor: names, attributes, parents and errors of its spans."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from engine import World
from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    Tracer,
    get_current_span,
    use_span,
)

from perdure import App, Interceptor, Node, RetryPolicy, WorkflowFailed, activity, workflow
from perdure.integrations.otel import OpenTelemetry
from perdure.interceptor import NextTurn, TurnInfo


class FakeSpan(NonRecordingSpan):
    """Remembers what it was told."""

    def __init__(
        self, number: int, name: str, kind: SpanKind, parent: Span, attributes: dict[str, Any]
    ) -> None:
        super().__init__(SpanContext(1, number, is_remote=False, trace_flags=TraceFlags(1)))
        self.name, self.kind, self.attributes = name, kind, attributes
        self.parent = parent if isinstance(parent, FakeSpan) else None
        self.status: tuple[StatusCode, str | None] | None = None
        self.exceptions: list[BaseException] = []
        self.ended = 0

    def is_recording(self) -> bool:
        return not self.ended

    def set_attribute(self, key: str, value: Any) -> None:
        assert not self.ended
        self.attributes[key] = value

    def set_status(self, status: Any, description: str | None = None) -> None:
        self.status = (status.status_code, status.description)

    def record_exception(self, exception: BaseException, *args: Any, **kwargs: Any) -> None:
        self.exceptions.append(exception)

    def end(self, end_time: int | None = None) -> None:
        self.ended += 1


class FakeTracer(Tracer):
    """Keeps all spans, in the order in which they began."""

    def __init__(self) -> None:
        self.spans: list[FakeSpan] = []

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> FakeSpan:
        span = FakeSpan(
            len(self.spans) + 1, name, kind, get_current_span(context), dict(attributes or {})
        )
        self.spans.append(span)
        return span

    @contextmanager
    def start_as_current_span(self, name: str, *args: Any, **kwargs: Any) -> Iterator[Span]:
        with use_span(self.start_span(name), end_on_exit=True) as span:
            yield span

    def named(self, name: str) -> list[FakeSpan]:
        return [span for span in self.spans if span.name == name]


@pytest.fixture
def tracer() -> Iterator[FakeTracer]:
    tracer = FakeTracer()
    yield tracer
    assert [span.ended for span in tracer.spans] == [1] * len(tracer.spans), "each span ends once"


async def test_spans_of_a_run(world: World, app: App, tracer: FakeTracer) -> None:
    @app.activity
    async def add(a: int, b: int) -> int:
        with tracer.start_as_current_span("inside"):
            return a + b

    @app.workflow
    async def adds(a: int, b: int) -> int:
        return await add(a, b)

    async with Node(app, world.store, interceptors=[OpenTelemetry(tracer)]) as node:
        with tracer.start_as_current_span("request"):
            assert await node.client.workflow(adds, id="x").run(1, 2) == 3
        seq = next(
            e.event.seq for e in await node.client.get("x").history() if hasattr(e.event, "seq")
        )

    (request,), (client,) = tracer.named("request"), tracer.named("perdure.client.run")
    assert (client.parent, client.kind) == (request, SpanKind.CLIENT)
    assert client.attributes == {"perdure.instance": "x", "perdure.workflow": "adds"}
    (attempt,), (inside,) = tracer.named("perdure.activity"), tracer.named("inside")
    assert attempt.attributes == {
        "perdure.instance": "x",
        "perdure.workflow": "adds",
        "perdure.execution": 1,
        "perdure.activity": "add",
        "perdure.seq": seq,
        "perdure.attempt": 1,
    }
    assert inside.parent is attempt
    turns = tracer.named("perdure.turn")
    assert len(turns) == 2
    for turn in turns:
        assert turn.attributes == {
            "perdure.instance": "x",
            "perdure.messages": 1,
            "perdure.workflow": "adds",
            "perdure.execution": 1,
            "perdure.commits": True,
        }
    assert [s.parent for s in (attempt, *turns)] == [None, None, None], (
        "who woke the node is not who asked for it"
    )
    assert [s.status for s in tracer.spans] == [None] * len(tracer.spans)


async def test_names_of_channels_and_events(world: World, app: App, tracer: FakeTracer) -> None:
    @app.workflow
    async def waits() -> int:
        return await workflow.receive("numbers", int)

    async with Node(app, world.store, interceptors=[OpenTelemetry(tracer)]) as node:
        handle = node.client.workflow(waits, id="x")
        await handle.start()
        await handle.raise_event("bell")
        await handle.send("numbers", 1)
        await handle.result(timeout=30)
        await handle.cancel()
    clients = [span for span in tracer.spans if span.name.startswith("perdure.client.")]
    assert [(span.name, span.attributes) for span in clients] == [
        ("perdure.client.start", {"perdure.instance": "x", "perdure.workflow": "waits"}),
        ("perdure.client.raise_event", {"perdure.instance": "x", "perdure.event": "bell"}),
        ("perdure.client.send", {"perdure.instance": "x", "perdure.channel": "numbers"}),
        ("perdure.client.cancel", {"perdure.instance": "x"}),
    ]


async def test_each_attempt_has_a_span_and_its_error(
    world: World, app: App, tracer: FakeTracer
) -> None:
    @app.activity(retry=RetryPolicy(maximum_attempts=2, initial_interval=0.001))
    async def bad() -> None:
        raise OSError(f"down {activity.info().attempt}")

    @app.workflow
    async def calls() -> None:
        await bad()

    async with Node(app, world.store, interceptors=[OpenTelemetry(tracer)]) as node:
        with pytest.raises(WorkflowFailed):
            await node.client.workflow(calls, id="x").run()
    attempts = tracer.named("perdure.activity")
    assert [span.attributes["perdure.attempt"] for span in attempts] == [1, 2]
    assert [span.status for span in attempts] == [
        (StatusCode.ERROR, f"OSError: down {n}") for n in (1, 2)
    ]
    assert [str(span.exceptions[0]) for span in attempts] == ["down 1", "down 2"]
    (client,) = tracer.named("perdure.client.run")
    assert client.status is not None
    assert client.status[0] is StatusCode.ERROR
    assert [span.status for span in tracer.named("perdure.turn")] == [None] * 3, (
        "a turn that records a failure is well"
    )


async def test_a_cancelled_attempt_shows_it(world: World, app: App, tracer: FakeTracer) -> None:
    begun = asyncio.Event()

    @app.activity
    async def endless() -> None:
        begun.set()
        await asyncio.Event().wait()

    @app.workflow
    async def calls() -> None:
        await endless()

    async with Node(app, world.store, interceptors=[OpenTelemetry(tracer)]) as node:
        handle = node.client.workflow(calls, id="x")
        await handle.start()
        await asyncio.wait_for(begun.wait(), 30)
        await handle.cancel()
        assert (await handle.wait(timeout=30)).status == "cancelled"
    (attempt,) = tracer.named("perdure.activity")
    assert attempt.status == (StatusCode.ERROR, "CancelledError")


async def test_a_failed_turn_shows_it(world: World, app: App, tracer: FakeTracer) -> None:
    class Once(Interceptor):
        broken = False

        def turn(self, turn: TurnInfo, next: NextTurn) -> None:
            if not self.broken:
                self.broken = True
                raise RuntimeError("once")
            next()

    @app.workflow
    async def nothing() -> None: ...

    async with Node(app, world.store, interceptors=[OpenTelemetry(tracer), Once()]) as node:
        await node.client.workflow(nothing, id="x").run()
    failed, done = tracer.named("perdure.turn")
    assert (failed.status, done.status) == ((StatusCode.ERROR, "RuntimeError: once"), None)


async def test_without_an_sdk_it_does_nothing(world: World, app: App) -> None:
    @app.activity
    async def two() -> int:
        return 2

    @app.workflow
    async def calls() -> int:
        return await two()

    async with Node(app, world.store, interceptors=[OpenTelemetry()]) as node:
        assert await node.client.workflow(calls, id="x").run() == 2
