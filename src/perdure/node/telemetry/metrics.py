"""Metrics: what OpenTelemetry is told. A node whose process has no meter provider has no `Metrics` and imports nothing.

Whatever is told of instances comes from a commit that is durable, and from the commit alone: a turn that is taken
again after a crash, a start that arrives twice and a replay commit nothing new, so nothing is counted twice. What
happens without a commit (attempts, operations of the store, calls of clients) is counted each time that it happens.
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

    from perdure.errors import Failure
    from perdure.kernel.data.commit import Commit, UnitRow
    from perdure.kernel.loop.call import ActivityCall
    from perdure.kernel.unit.turn import Milestones, Turn

ENVIRONMENT = "OTEL_PYTHON_METER_PROVIDER"


def find_provider(given: MeterProvider | None = None) -> MeterProvider | None:
    """The meter provider to use: the given one, or that of the process; None if that does nothing.

    `opentelemetry.metrics` is imported only if somebody has imported it already, or if the environment names a
    provider.

    Raises:
        UsageError: what was given is none, or the one that the environment names cannot be loaded.
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
        except Exception as error:  # whatever the plug-in raises
            name = os.environ.get(ENVIRONMENT)
            msg = (
                f"cannot load the meter provider {name!r} that {ENVIRONMENT} names: {error!r}; "
                "install it, or unset it"
            )
            raise UsageError(msg) from error
    else:
        return None
    # The API's own two do nothing: the one called "no-op", and the stand-in until an SDK is set up.
    return None if type(provider).__module__.startswith("opentelemetry.metrics") else provider


class ClientMetrics:
    """What the calls of clients are recorded with."""

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
    """What a node records with. Called on the node's loop only."""

    def __init__(
        self, provider: MeterProvider, timer: Callable[[], float] = time.perf_counter
    ) -> None:
        """Make the instruments; those that a provider has already, it gives again."""
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
        self._reported: dict[
            str, dict[int, str]
        ] = {}  # unit, command: activities whose result has no commit yet

    async def watch(self, gauges: NodeGauges) -> None:
        """Show the gauges of a node that starts."""
        await gauges.read()
        self._watched = gauges
        self._gauges.add(gauges)

    async def unwatch(self) -> None:
        """It stops."""
        watched, self._watched = self._watched, None
        if watched is not None:
            self._gauges.remove(watched)
            await watched.stop()

    # ------------------------------------------------------------ turns

    def turn(self, turn: Turn) -> None:
        """A turn whose commit, if it has one, is durable. (Turns themselves are counted by the node: see `gauges`.)"""
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
            if type(body) is Start and body.parent is not None and body.parent.unit == commit.unit:
                self._child_calls.add(1, {"perdure.workflow": body.workflow})

    def refused(self, verdict: str) -> None:
        """A commit that the store refused."""
        self._refusals.add(1, {"perdure.verdict": verdict})

    def _pass_milestones(self, passed: Milestones, commit: Commit) -> None:
        row, turns = commit.row, commit.expect + 1
        for replaced in passed.replaced:
            self._ended(replaced, turns)
        if passed.started:
            child = row.parent is not None
            self._starts.add(1, {**_version(row), "perdure.child": child})
        if passed.ended:
            self._ended(row, turns)
            self._reported.pop(commit.unit, None)
        elif passed.held:
            self._failed(row, set_aside=True)

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
            self._failed(row, set_aside=False)

    def _failed(self, row: UnitRow, *, set_aside: bool) -> None:
        category = row.failure.category if row.failure is not None else "application"
        self._failures.add(
            1, {**_version(row), "perdure.category": category, "perdure.set_aside": set_aside}
        )

    # ------------------------------------------------------------ activities

    def attempt_ended(
        self, unit: str, call: ActivityCall, failure: Failure | None, seconds: float | None
    ) -> None:
        """An attempt whose outcome is on its way to the instance. `seconds` is None if it never ran."""
        if failure is None:
            outcome = "completed"
        elif failure.type == "ActivityTimeout":
            outcome = "timed_out"
        else:
            outcome = "cancelled" if failure.category == "cancelled" else "failed"
        self._attempt(call, outcome, seconds)
        if failure is not None:
            self._attempt_failures.add(
                1, {"perdure.activity": call.name, "perdure.category": failure.category}
            )
        self._reported.setdefault(unit, {})[call.seq] = call.name

    def attempt_given_up(self, call: ActivityCall, seconds: float | None) -> None:
        """An attempt that ended when nobody wanted its result any more."""
        self._attempt(call, "cancelled", seconds)
        self._attempt_failures.add(
            1, {"perdure.activity": call.name, "perdure.category": "cancelled"}
        )

    def _attempt(self, call: ActivityCall, outcome: str, seconds: float | None) -> None:
        self._attempts.add(
            1,
            {
                "perdure.activity": call.name,
                "perdure.queue": call.options.queue or "",
                "perdure.attempt": "first" if call.attempt == 1 else "retry",
                "perdure.outcome": outcome,
            },
        )
        if seconds is not None:
            self._attempt_duration.record(
                seconds, {"perdure.activity": call.name, "perdure.outcome": outcome}
            )

    def _settle(self, commit: Commit, reported: dict[int, str]) -> None:
        """Calls of activities that have their last result in this commit. The events do not name them."""
        for chunk in commit.journal:
            for event in ev.decode_events(chunk.events):
                if isinstance(event, ev.ActivityCompleted | ev.ActivityFailed):
                    outcome = "completed" if isinstance(event, ev.ActivityCompleted) else "failed"
                    name = reported.pop(event.seq, None)
                    if name is not None:
                        self._tries.record(
                            event.attempt, {"perdure.activity": name, "perdure.outcome": outcome}
                        )
        if not reported:
            self._reported.pop(commit.unit, None)

    # ------------------------------------------------------------ the store

    def stored(self, operation: str, size: int, seconds: float, error: Exception | None) -> None:
        """An operation of the store has ended; `size` is the number of commits for `commit`."""
        self._store_duration.record(seconds, {"perdure.operation": operation})
        if error is not None:
            self._store_errors.add(
                1, {"perdure.operation": operation, "perdure.error": type(error).__name__}
            )
        elif operation == "commit":
            self._batch.record(size)


def _version(row: UnitRow) -> dict[str, str]:
    return {"perdure.workflow": row.type, "perdure.version": row.type_version}
