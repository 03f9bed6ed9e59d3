"""Metrics: the records of a node for OpenTelemetry.

A node whose process has no meter provider has no `Metrics` and imports nothing.

Records about instances come from a commit that is durable, and from the commit alone. A turn that
is taken again after a crash, a start that arrives twice and a replay commit nothing new, so nothing
is counted twice. Events without a commit (attempts, operations of the store, calls of clients) are
counted each time that they happen.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from perdure.errors import UsageError
from perdure.kernel.data import events as ev
from perdure.kernel.data.message import Start
from perdure.node.telemetry.gauges import Gauges, NodeGauges, gauges_of
from perdure.node.telemetry.instruments import counter, histogram

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

    from perdure.errors import Category, Failure
    from perdure.kernel.data.commit import Commit, UnitRow
    from perdure.kernel.loop.call import ActivityCall
    from perdure.kernel.unit.turn import Milestones, Turn

ENVIRONMENT = "OTEL_PYTHON_METER_PROVIDER"
"""The variable by which OpenTelemetry is told its provider."""


def find_provider(given: MeterProvider | None = None) -> MeterProvider | None:
    """The meter provider to use: the given one, or that of the process. None: it would do nothing.

    `opentelemetry.metrics` is imported only if the program has imported it already, or if the
    environment names a provider.

    Raises:
        UsageError: `given` is no meter provider, or that of the environment cannot be loaded.
    """
    if given is not None:
        if isinstance(given, type) or not callable(getattr(given, "get_meter", None)):
            msg = f"meter_provider must be an OpenTelemetry MeterProvider, got {given!r}"
            raise UsageError(msg)
        provider = given
    elif "opentelemetry.metrics" in sys.modules or ENVIRONMENT in os.environ:
        from opentelemetry.metrics import get_meter_provider

        try:
            provider = get_meter_provider()
        except Exception as error:
            # A plug-in is loaded here, which may raise anything.
            name = os.environ.get(ENVIRONMENT)
            msg = (
                f"cannot load the meter provider {name!r} that {ENVIRONMENT} names: {error!r}; "
                "install it, or unset it"
            )
            raise UsageError(msg) from error
    else:
        return None
    # The API's own two do nothing: the one called "no-op", and the stand-in until an SDK is set up.
    if type(provider).__module__.startswith("opentelemetry.metrics"):
        return None
    return provider


class ClientMetrics:
    """The instruments for the calls of clients."""

    def __init__(
        self, provider: MeterProvider, timer: Callable[[], float] = time.perf_counter
    ) -> None:
        """`timer` gives seconds."""
        from perdure import __version__

        self.meter = provider.get_meter("perdure", __version__)
        self.timer = timer
        self._calls = counter(self.meter, "perdure.client.calls")
        self._duration = histogram(self.meter, "perdure.client.duration")

    def called(self, verb: str, outcome: str, seconds: float) -> None:
        """A client has its answer."""
        self._calls.add(1, {"perdure.verb": verb, "perdure.outcome": outcome})
        self._duration.record(seconds, {"perdure.verb": verb})


class Metrics(ClientMetrics):
    """The instruments of a node. They are used on the node's loop only."""

    def __init__(
        self, provider: MeterProvider, timer: Callable[[], float] = time.perf_counter
    ) -> None:
        """Make the instruments. A provider gives those that it has already once more."""
        super().__init__(provider, timer)
        meter = self.meter
        self._gauges: Gauges = gauges_of(provider, meter)
        self._watched: NodeGauges | None = None
        self._starts = counter(meter, "perdure.workflow.starts")
        self._ends = counter(meter, "perdure.workflow.ends")
        self._failures = counter(meter, "perdure.workflow.failures")
        self._continuations = counter(meter, "perdure.workflow.continuations")
        self._life = histogram(meter, "perdure.workflow.duration")
        self._life_turns = histogram(meter, "perdure.workflow.turns")
        self._history = histogram(meter, "perdure.workflow.history")
        self._child_calls = counter(meter, "perdure.child.calls")
        self._child_duration = histogram(meter, "perdure.child.duration")
        self._refusals = counter(meter, "perdure.commit.refusals")
        self._batch = histogram(meter, "perdure.commit.batch")
        self._attempts = counter(meter, "perdure.activity.attempts")
        self._attempt_failures = counter(meter, "perdure.activity.failures")
        self._attempt_duration = histogram(meter, "perdure.activity.duration")
        self._tries = histogram(meter, "perdure.activity.tries")
        self._store_duration = histogram(meter, "perdure.store.duration")
        self._store_errors = counter(meter, "perdure.store.errors")
        # The names of activities whose results have no commit yet, by unit and command.
        self._reported: dict[str, dict[int, str]] = {}

    async def watch(self, gauges: NodeGauges) -> None:
        """Show the gauges of a node that starts."""
        # Before they are shown, so that the exporter's first question finds numbers.
        await gauges.read()
        self._watched = gauges
        self._gauges.add(gauges)

    async def unwatch(self) -> None:
        """The node stops, so its gauges are shown no more."""
        watched = self._watched
        self._watched = None
        if watched is not None:
            self._gauges.remove(watched)
            await watched.stop()

    # ------------------------------------------------------------ turns

    def turn(self, turn: Turn) -> None:
        """Record a turn whose commit, if it has one, is durable.

        Turns themselves are counted by the node: see `gauges`.
        """
        commit = turn.commit
        if commit is None:
            return
        row = commit.row
        reported = self._reported.get(commit.unit)
        if reported is not None:
            self._settle(commit, reported)
        if turn.milestones is not None:
            self._pass_milestones(turn.milestones, commit)
        for execution in commit.ended:
            version = {"perdure.workflow": row.type, "perdure.version": execution.type_version}
            self._continuations.add(1, version)
            self._history.record(execution.journal_events, {"perdure.workflow": row.type})
        for message in commit.post:
            body = message.body
            # A detached start has no parent.
            if type(body) is Start and body.parent is not None and body.parent.unit == commit.unit:
                self._child_calls.add(1, {"perdure.workflow": body.workflow})

    def refused(self, verdict: str) -> None:
        """Record a commit that the store refused."""
        self._refusals.add(1, {"perdure.verdict": verdict})

    def _pass_milestones(self, passed: Milestones, commit: Commit) -> None:
        row = commit.row
        # The version of a unit counts its commits.
        turns = commit.expect + 1
        for replaced in passed.replaced:
            self._ended(replaced, turns)
        if passed.started:
            child = row.parent is not None
            self._starts.add(1, {**_version(row), "perdure.child": child})
        if passed.ended:
            self._ended(row, turns)
            self._reported.pop(commit.unit, None)
        elif passed.held:
            self._failed(row, suspended=True)

    def _ended(self, row: UnitRow, turns: int) -> None:
        status = {"perdure.workflow": row.type, "perdure.status": row.status}
        closed_at = row.closed_at or 0
        self._ends.add(1, {**_version(row), "perdure.status": row.status})
        self._life.record((closed_at - (row.started_at or row.created_at)) / 1000, status)
        self._life_turns.record(turns, status)
        if row.journal_events:
            self._history.record(row.journal_events, {"perdure.workflow": row.type})
        if row.parent is not None:
            self._child_duration.record((closed_at - row.created_at) / 1000, status)
        if row.status != "completed":
            self._failed(row, suspended=False)

    def _failed(self, row: UnitRow, *, suspended: bool) -> None:
        category: Category = "application"
        if row.failure is not None:
            category = row.failure.category
        self._failures.add(
            1, {**_version(row), "perdure.category": category, "perdure.suspended": suspended}
        )

    # ------------------------------------------------------------ activities

    def attempt_ended(
        self, unit: str, call: ActivityCall, failure: Failure | None, seconds: float | None
    ) -> None:
        """Record an attempt whose outcome is on its way to the instance.

        `seconds` is None if it never ran.
        """
        if failure is None:
            outcome = "completed"
        elif failure.type == "ActivityTimeout":
            outcome = "timed_out"
        elif failure.category == "cancelled":
            outcome = "cancelled"
        else:
            outcome = "failed"
        self._attempt(call, outcome, seconds)
        if failure is not None:
            self._attempt_failures.add(
                1, {"perdure.activity": call.name, "perdure.category": failure.category}
            )
        self._reported.setdefault(unit, {})[call.seq] = call.name

    def attempt_given_up(self, call: ActivityCall, seconds: float | None) -> None:
        """Record an attempt that ended when its result was not wanted any more."""
        self._attempt(call, "cancelled", seconds)
        self._attempt_failures.add(
            1, {"perdure.activity": call.name, "perdure.category": "cancelled"}
        )

    def _attempt(self, call: ActivityCall, outcome: str, seconds: float | None) -> None:
        # Not the number of the attempt: each value of an attribute is a time series.
        which = "retry"
        if call.attempt == 1:
            which = "first"
        self._attempts.add(
            1,
            {
                "perdure.activity": call.name,
                "perdure.queue": call.options.queue or "",
                "perdure.attempt": which,
                "perdure.outcome": outcome,
            },
        )
        if seconds is not None:
            self._attempt_duration.record(
                seconds, {"perdure.activity": call.name, "perdure.outcome": outcome}
            )

    def _settle(self, commit: Commit, reported: dict[int, str]) -> None:
        """Record calls of activities that have their last result in this commit."""
        for chunk in commit.journal:
            for event in ev.decode_events(chunk.events):
                if isinstance(event, ev.ActivityCompleted):
                    self._settle_call(event, "completed", reported)
                elif isinstance(event, ev.ActivityFailed):
                    self._settle_call(event, "failed", reported)
        if not reported:
            self._reported.pop(commit.unit, None)

    def _settle_call(
        self,
        event: ev.ActivityCompleted | ev.ActivityFailed,
        outcome: str,
        reported: dict[int, str],
    ) -> None:
        # The events do not name their activities. One that ran under an earlier node is unknown.
        name = reported.pop(event.seq, None)
        if name is not None:
            attributes = {"perdure.activity": name, "perdure.outcome": outcome}
            self._tries.record(event.attempt, attributes)

    # ------------------------------------------------------------ the store

    def stored(self, operation: str, size: int, seconds: float, error: Exception | None) -> None:
        """Record an operation of the store. `size` is the number of commits for `commit`."""
        self._store_duration.record(seconds, {"perdure.operation": operation})
        if error is not None:
            self._store_errors.add(
                1, {"perdure.operation": operation, "perdure.error": type(error).__name__}
            )
        elif operation == "commit":
            self._batch.record(size)


def _version(row: UnitRow) -> dict[str, str]:
    return {"perdure.workflow": row.type, "perdure.version": row.type_version}
