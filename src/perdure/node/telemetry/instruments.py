"""The instruments: name, kind, unit and attributes of every metric.

docs/observability.md shows this table to users.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from opentelemetry.metrics import Counter, Histogram, Meter

SECONDS = (
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    300.0,
)
"""Buckets for something that takes a moment."""

LIFE = (
    0.01,
    0.1,
    1.0,
    10.0,
    60.0,
    600.0,
    3_600.0,
    6 * 3_600.0,
    86_400.0,
    7 * 86_400.0,
    30 * 86_400.0,
    365 * 86_400.0,
)
"""Buckets for something that may take a year, in seconds."""

COUNT = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 50_000)
"""Buckets for a number of things."""


@dataclass(frozen=True, slots=True)
class Instrument:
    """A metric. Its attributes are named without `perdure.`, and a histogram has buckets."""

    name: str
    kind: Literal["counter", "histogram", "gauge"]
    unit: str
    attributes: tuple[str, ...]
    text: str
    buckets: tuple[float, ...] = ()


INSTRUMENTS = (
    Instrument(
        "perdure.workflow.starts",
        "counter",
        "{instance}",
        ("workflow", "version", "child"),
        "instances that began",
    ),
    Instrument(
        "perdure.workflow.ends",
        "counter",
        "{instance}",
        ("workflow", "version", "status"),
        "instances that ended",
    ),
    Instrument(
        "perdure.workflow.failures",
        "counter",
        "{instance}",
        ("workflow", "version", "category", "suspended"),
        "instances that ended without a result, or were suspended",
    ),
    Instrument(
        "perdure.workflow.continuations",
        "counter",
        "{execution}",
        ("workflow", "version"),
        "executions that ended by continue-as-new",
    ),
    Instrument(
        "perdure.workflow.duration",
        "histogram",
        "s",
        ("workflow", "status"),
        "the whole life of an instance, from its begin to its end",
        LIFE,
    ),
    Instrument(
        "perdure.workflow.turns",
        "histogram",
        "{turn}",
        ("workflow", "status"),
        "commits of an ended instance",
        COUNT,
    ),
    Instrument(
        "perdure.workflow.history",
        "histogram",
        "{event}",
        ("workflow",),
        "events of an ended execution",
        COUNT,
    ),
    Instrument(
        "perdure.child.calls", "counter", "{call}", ("workflow",), "children that workflows called"
    ),
    Instrument(
        "perdure.child.duration",
        "histogram",
        "s",
        ("workflow", "status"),
        "from the call of a child to its end",
        LIFE,
    ),
    Instrument("perdure.turns", "counter", "{turn}", ("app",), "turns taken"),
    Instrument(
        "perdure.turn.failures",
        "counter",
        "{turn}",
        ("app",),
        "turns discarded: an error, or too long",
    ),
    Instrument(
        "perdure.commit.refusals",
        "counter",
        "{commit}",
        ("verdict",),
        "commits that the store refused",
    ),
    Instrument(
        "perdure.commit.batch",
        "histogram",
        "{commit}",
        (),
        "commits that became durable together",
        COUNT,
    ),
    Instrument(
        "perdure.activity.attempts",
        "counter",
        "{attempt}",
        ("activity", "queue", "attempt", "outcome"),
        "attempts of activities that ended",
    ),
    Instrument(
        "perdure.activity.failures",
        "counter",
        "{attempt}",
        ("activity", "category"),
        "attempts that failed, by whose fault it was",
    ),
    Instrument(
        "perdure.activity.duration",
        "histogram",
        "s",
        ("activity", "outcome"),
        "one attempt",
        SECONDS,
    ),
    Instrument(
        "perdure.activity.tries",
        "histogram",
        "{attempt}",
        ("activity", "outcome"),
        "attempts that a call took until it was settled",
        COUNT,
    ),
    Instrument(
        "perdure.store.duration",
        "histogram",
        "s",
        ("operation",),
        "an operation of the store",
        SECONDS,
    ),
    Instrument(
        "perdure.store.errors",
        "counter",
        "{operation}",
        ("operation", "error"),
        "operations of the store that failed",
    ),
    Instrument(
        "perdure.client.calls",
        "counter",
        "{call}",
        ("verb", "outcome"),
        "calls of clients",
    ),
    Instrument(
        "perdure.client.duration",
        "histogram",
        "s",
        ("verb",),
        "from the question to the answer",
        SECONDS,
    ),
    Instrument(
        "perdure.instances", "gauge", "{instance}", ("app", "status"), "instances in the store"
    ),
    Instrument(
        "perdure.inbox.depth",
        "gauge",
        "{message}",
        ("app",),
        "messages in inboxes that may be seen now",
    ),
    Instrument(
        "perdure.task.depth", "gauge", "{task}", ("app",), "tasks in queues that may be taken now"
    ),
    Instrument("perdure.dead_letters", "gauge", "{message}", ("app",), "messages that nobody took"),
    Instrument("perdure.node.residents", "gauge", "{instance}", ("app",), "instances in memory"),
    Instrument("perdure.activity.running", "gauge", "{attempt}", ("app",), "attempts that run"),
    Instrument(
        "perdure.activity.waiting",
        "gauge",
        "{attempt}",
        ("app",),
        "attempts that wait for a free slot",
    ),
)

BY_NAME = {instrument.name: instrument for instrument in INSTRUMENTS}


def counter(meter: Meter, name: str) -> Counter:
    """A counter of this meter."""
    made = BY_NAME[name]
    return meter.create_counter(made.name, made.unit, made.text)


def histogram(meter: Meter, name: str) -> Histogram:
    """A histogram of this meter, with these buckets where the provider takes such advice."""
    made = BY_NAME[name]
    try:
        return meter.create_histogram(
            made.name, made.unit, made.text, explicit_bucket_boundaries_advisory=list(made.buckets)
        )
    except TypeError:
        # An older provider knows no such argument. Users set buckets by views there.
        return meter.create_histogram(made.name, made.unit, made.text)
