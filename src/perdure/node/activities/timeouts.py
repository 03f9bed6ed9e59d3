"""The timeouts of an attempt.

They limit the time that a function takes. So they count the time that passes, and a clock that is
set forward meanwhile ends no attempt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.errors import Failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from perdure.activity import Attempt
    from perdure.kernel.loop.call import ActivityCall
    from perdure.ports.clock import Alarm, Clock


def is_limited(call: ActivityCall) -> bool:
    """Whether a running attempt of the call can take too long."""
    options = call.options
    if options.timeout_ms is not None or options.total_timeout_ms is not None:
        return True
    return options.heartbeat_timeout_ms is not None


def total_left_ms(call: ActivityCall, now_ms: int) -> int | None:
    """The time that all attempts together have left. None: they have no limit."""
    total_ms = call.options.total_timeout_ms
    if total_ms is None:
        return None
    # From the call on: the waits before retries and for slots count, too.
    return call.scheduled_at + total_ms - now_ms


def total_over(call: ActivityCall) -> Failure:
    """The failure of a call that had no time left."""
    total_ms = call.options.total_timeout_ms or 0
    return timed_out(call, "all attempts together took too long", total_ms)


def no_slot(call: ActivityCall) -> Failure:
    """The failure of a call that waited too long for a slot."""
    return timed_out(call, "no slot became free", call.options.start_timeout_ms or 0)


def timed_out(call: ActivityCall, why: str, after_ms: int) -> Failure:
    """A timeout as data."""
    text = f"activity {call.name!r}, attempt {call.attempt}: {why} ({after_ms} ms)"
    return Failure("ActivityTimeout", text)


class Timeouts:
    """Watches one attempt. `expired` is called once, with the failure, when it takes too long."""

    def __init__(
        self,
        clock: Clock,
        call: ActivityCall,
        attempt: Attempt,
        expired: Callable[[Failure], None],
    ) -> None:
        """Before `begin` only the time of all attempts together is watched."""
        self._clock = clock
        self._call = call
        self._attempt = attempt
        self._expired = expired
        self._limit: Alarm | None = None
        self._beat: Alarm | None = None
        self._seen_beats = 0
        self._total: Alarm | None = None
        left_ms = total_left_ms(call, clock.now_ms())
        if left_ms is not None:
            self._total = self._clock.call_after(left_ms, self._total_over)

    def begin(self) -> None:
        """The function begins now."""
        self.pause()  # it may begin again, in another process
        options = self._call.options
        if options.timeout_ms is not None:
            self._limit = self._clock.call_after(options.timeout_ms, self._attempt_over)
        if options.heartbeat_timeout_ms is not None:
            self._listen(options.heartbeat_timeout_ms)

    def pause(self) -> None:
        """The function does not run: it waits for a process, say."""
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        if self._beat is not None:
            self._beat.cancel()
            self._beat = None

    def end(self) -> None:
        """Watch nothing more."""
        self.pause()
        if self._total is not None:
            self._total.cancel()

    def _listen(self, silence_ms: int) -> None:
        self._seen_beats = self._attempt.beats
        self._beat = self._clock.call_after(silence_ms, lambda: self._look(silence_ms))

    def _look(self, silence_ms: int) -> None:
        # A thread may count the beats, and must not touch alarms. So they are looked at, and an
        # attempt may be silent for up to twice the time.
        if self._attempt.beats != self._seen_beats:
            self._listen(silence_ms)
            return
        self._expire(timed_out(self._call, "no heartbeat came", silence_ms))

    def _attempt_over(self) -> None:
        limit_ms = self._call.options.timeout_ms or 0
        self._expire(timed_out(self._call, "the attempt took too long", limit_ms))

    def _total_over(self) -> None:
        self._expire(total_over(self._call))

    def _expire(self, failure: Failure) -> None:
        self.end()  # one failure is enough
        self._expired(failure)
