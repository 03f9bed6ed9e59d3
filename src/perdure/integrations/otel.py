"""OpenTelemetry traces: a span per client call, per turn and per attempt of an activity.

`app.node(url, interceptors=[OpenTelemetry()])` is all of it. Without that nothing is loaded or called; with it, but
without an SDK, the spans of the OpenTelemetry API do nothing.

Trace context does not travel through the store: a turn or an attempt may run days later, elsewhere, and again. So
their spans begin traces of their own, whoever happened to wake the node; `perdure.instance` (with `perdure.execution`
and `perdure.seq`) is what joins them. Spans that an activity opens itself are children of its attempt.
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
    """Spans `perdure.client.<verb>`, `perdure.turn` and `perdure.activity`; docs/interceptors.md lists the attributes.

    An exception is recorded with its message and traceback, so both reach whatever the spans are exported to.
    """

    def __init__(self, tracer: Tracer | None = None) -> None:
        """Use this tracer, or that of the process's tracer provider."""
        self._tracer = tracer if tracer is not None else get_tracer("perdure")

    async def send(self, call: Outgoing, next: NextSend) -> object:
        """A child of the caller's span, if it has one."""
        attributes = {"perdure.instance": call.id}
        if call.name is not None and call.verb in _NAME_ATTRIBUTE:
            attributes[_NAME_ATTRIBUTE[call.verb]] = call.name
        span = self._tracer.start_span(
            f"perdure.client.{call.verb}", kind=SpanKind.CLIENT, attributes=attributes
        )
        with _current(span):
            return await next(call)

    def turn(self, turn: TurnInfo, next: NextTurn) -> None:
        """From the first message to the Commit, which is not durable yet when the span ends."""
        span = self._tracer.start_span(
            "perdure.turn",
            context=Context(),
            attributes={"perdure.instance": turn.instance, "perdure.messages": turn.messages},
        )
        with _current(span):
            next()
            if turn.workflow is not None:
                span.set_attribute("perdure.workflow", turn.workflow)
                span.set_attribute("perdure.execution", turn.execution)
            span.set_attribute("perdure.commits", turn.commits)

    async def activity(self, call: ActivityInfo, next: NextActivity) -> object:
        """One attempt; the next one has a span of its own."""
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
    """Make it the current span, record what is raised, end it."""
    with use_span(span, end_on_exit=True):
        try:
            yield
        except Exception:
            raise  # `use_span` records it
        except (
            BaseException
        ) as error:  # cancelled, or a turn that took too long: `use_span` leaves these out
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise
