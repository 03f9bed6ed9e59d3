"""OpenTelemetry traces: a span per client call, per turn and per attempt of an activity.

`app.node(url, interceptors=[OpenTelemetry()])` turns it on. A node without it loads and calls
nothing of OpenTelemetry. Without an SDK the spans of the OpenTelemetry API do nothing.

Trace context does not travel through the store, because a turn or an attempt may run days later, on
another machine, and again. So each turn and each attempt begins a trace of its own. The attributes
`perdure.instance`, `perdure.execution` and `perdure.seq` join these traces. Spans that an activity
opens itself are children of its attempt.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, get_tracer, use_span

from perdure.interceptor import (
    ActivityInfo,
    Interceptor,
    NextActivity,
    NextSend,
    NextTurn,
    Outgoing,
    TurnInfo,
    Verb,
)

_NAME_ATTRIBUTE: dict[Verb, str] = {
    "start": "perdure.workflow",
    "run": "perdure.workflow",
    "send": "perdure.channel",
    "raise_event": "perdure.event",
}


class OpenTelemetry(Interceptor):
    """Spans `perdure.client.<verb>`, `perdure.turn` and `perdure.activity`.

    docs/interceptors.md lists the attributes. An exception is recorded with its message and its
    traceback, so both reach every tool to which the spans are exported.
    """

    def __init__(self, tracer: Tracer | None = None) -> None:
        """Use this tracer. The default comes from the tracer provider of the process."""
        if tracer is None:
            tracer = get_tracer("perdure")
        self._tracer = tracer

    async def send(self, call: Outgoing, next: NextSend) -> object:
        """Wrap a client call in a span, which is a child of the caller's span if there is one."""
        attributes = {"perdure.instance": call.id}
        if call.name is not None and call.verb in _NAME_ATTRIBUTE:
            attributes[_NAME_ATTRIBUTE[call.verb]] = call.name
        span = self._tracer.start_span(
            f"perdure.client.{call.verb}", kind=SpanKind.CLIENT, attributes=attributes
        )
        with _current(span):
            return await next(call)

    def turn(self, turn: TurnInfo, next: NextTurn) -> None:
        """Wrap a turn in a span, from its first message to its Commit.

        The Commit is not durable yet when the span ends.
        """
        span = self._tracer.start_span(
            "perdure.turn",
            context=Context(),  # empty: the span that woke the node is not the cause of the turn
            attributes={"perdure.instance": turn.instance, "perdure.messages": turn.messages},
        )
        with _current(span):
            next()
            if turn.workflow is not None:
                span.set_attribute("perdure.workflow", turn.workflow)
                span.set_attribute("perdure.execution", turn.execution)
            span.set_attribute("perdure.commits", turn.commits)

    async def activity(self, call: ActivityInfo, next: NextActivity) -> object:
        """Wrap one attempt in a span. The next attempt has its own span."""
        span = self._tracer.start_span(
            "perdure.activity",
            context=Context(),
            kind=SpanKind.CONSUMER,
            attributes={
                "perdure.instance": call.instance,
                "perdure.workflow": call.workflow,
                "perdure.execution": call.execution,
                "perdure.activity": call.name,
                "perdure.seq": call.seq,
                "perdure.attempt": call.attempt,
            },
        )
        with _current(span):
            return await next()


@contextmanager
def _current(span: Span) -> Generator[None, None, None]:
    """Make a span the current one, record an exception that is raised in it, and end it."""
    with use_span(span, end_on_exit=True):
        try:
            yield
        except Exception:
            raise  # `use_span` records it
        except BaseException as error:
            # A cancelled call or a turn that took too long: `use_span` records no such exception.
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise
